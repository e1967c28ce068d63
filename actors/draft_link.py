"""The scheduler's end of a draft actor: a ``Speculator`` whose work is done elsewhere, by messages. No torch.

What it is told it passes on; drafts come back through the scheduler's inbox, whenever they are ready. The answer to
what was just asked goes to the core; anything else is kept, and looked into when the next tokens are committed: what
then hangs behind them is proposed at once, and nobody waits.

Nothing is ever owed: an actor that is away, late or of another vocabulary gives no drafts, and the text is the same
without. All that an actor must know of a request is kept here, so that one that comes back is told again.
"""

import logging
from bisect import bisect_left
from collections.abc import Callable, Mapping, Sequence
from typing import Literal

import msgspec

from ..engine.core.plan import Drafts
from ..engine.types import RequestId, SamplingParams
from ..spec_decode import landing
from ..spec_decode.base import Caps, Outcome, ProposeReq, StepBudget
from ..spec_decode.patience import Patience
from .mailbox import Mailbox, MailboxFull
from .messages import Close, Commit, DraftAsk, Hello, Open, Propose

log = logging.getLogger(__name__)

_COMMIT_TOKENS = 64
"""Committed tokens told without being asked for drafts, at once."""
_OPEN_AT_ONCE = 8
"""Requests opened again in one proposal, so that an actor that came back is not flooded."""
_LONG = 64
"""A text of more tokens takes longer to read than a step should wait."""


class _Told:
    """One request, and how much of it the actor has been told."""

    __slots__ = ("epoch", "is_new", "is_open", "kept", "num_told", "params", "tokens", "was_open")

    def __init__(self, tokens: list[int], params: SamplingParams, epoch: int) -> None:
        self.tokens = tokens
        self.params = params
        self.epoch = epoch
        self.is_open = self.was_open = False
        self.is_new = True
        """The actor has drafted nothing for it yet: it may still be reading the prompt."""
        self.num_told = 0
        self.kept: Drafts | None = None
        """Made ahead, or come too late."""


class DraftLink:
    """See the module's docstring; ``base.Speculator`` says what its methods mean."""

    def __init__(
        self,
        mailbox: Mailbox,
        name: str,
        *,
        max_draft_tokens: int,
        clock: Callable[[], float],
        is_ahead: bool = False,
        q: Literal["none", "sparse"] = "none",
        timeout_s: float = 0.0,
        actor: str = "draft",
    ) -> None:
        """``name``: the method's. ``timeout_s``: how long a step waits for drafts; 0 = twice what they should take.

        ``is_ahead``: the actor works while the target does. Otherwise they take turns, and it does not hear of a
        request before the target has read the prompt. ``q``: what comes with its drafts.
        """
        self.caps = Caps(
            q=q,
            max_tokens=max_draft_tokens,
            lookahead_slots=max_draft_tokens,
            draft_ahead=is_ahead,
            seeded=q == "none",
        )
        self.actor = actor
        self._mailbox = mailbox
        self._name = name
        self._clock = clock
        self._patience = Patience(timeout_s)
        self._requests: dict[RequestId, _Told] = {}
        self._hello: Hello | None = None
        self._target: Hello | None = None
        self._target_model = ""
        self._counts = dict.fromkeys(("asked", "ahead_hits", "ahead_misses", "dropped", "reopened", "faults"), 0)

    # --- the actor comes and goes -------------------------------------------------------------------------------------

    @property
    def is_up(self) -> bool:
        """Is there an actor that drafts for this target?"""
        return self._hello is not None and self._fits(self._hello)

    def meet(self, hello: Hello) -> None:
        """The draft actor can work, for the first time or again; it knows no request."""
        self._hello = hello
        self._forget()
        self._say_if_unfit()

    def meet_target(self, hello: Hello, model: str) -> None:
        """The target whose vocabulary counts, and the name of its model."""
        self._target_model = model
        if self._target is None or self._target.vocab_hash != hello.vocab_hash:
            self._target = hello
            self._say_if_unfit()

    def lost(self, epoch: int) -> None:
        """The draft actor of ``epoch`` is gone: go on without, at once."""
        if self._hello is not None and epoch >= self._hello.epoch:
            self._hello = None
            self._forget()

    def _fits(self, hello: Hello) -> bool:
        return self._target is not None and hello.vocab_hash == self._target.vocab_hash

    def _forget(self) -> None:
        self._patience.clear()
        for told in self._requests.values():
            told.is_open = False
            told.is_new = True
            told.num_told = 0

    def _say_if_unfit(self) -> None:
        if self._hello is not None and self._target is not None and not self._fits(self._hello):
            log.warning(
                "draft model %s has another vocabulary than %s: nothing is drafted; use a smaller model of its family",
                self._hello.detail.get("model", "?"),
                self._target_model,
            )

    # --- what a speculator is told ------------------------------------------------------------------------------------

    def open(
        self,
        request_id: RequestId,
        prompt: Sequence[int],
        params: SamplingParams,
        epoch: int,
        *,
        cache_salt: str = "",
        prediction: Sequence[int] = (),
    ) -> None:
        """An actor that works ahead may begin with the prompt while the target does."""
        told = self._requests[request_id] = _Told(list(prompt), params, epoch)
        if self.is_up and self.caps.draft_ahead:
            self._open(request_id, told)

    def observe(self, batch: Sequence[Outcome]) -> None:
        """Kept for the next proposal, or told on their own when they have become many."""
        for outcome in batch:
            told = self._requests.get(outcome.request_id)
            if told is None:
                continue
            told.epoch = outcome.epoch
            told.tokens += outcome.committed
            missing = told.tokens[told.num_told :]
            if self.is_up and told.is_open and len(missing) >= _COMMIT_TOKENS:
                self._commit(outcome.request_id, told, missing)

    def rollback(self, request_id: RequestId, length: int, epoch: int) -> None:
        """Tokens are never taken back; the new epoch goes with the next message."""
        if (told := self._requests.get(request_id)) is not None:
            told.epoch = epoch

    def close(self, request_id: RequestId) -> None:
        """The request has ended."""
        told = self._requests.pop(request_id, None)
        self._patience.forget(request_id)
        if told is not None and told.is_open and self._hello is not None:
            self._send(Close(request_id))

    def _open(self, request_id: RequestId, told: _Told) -> bool:
        if self._send(Open(request_id, told.epoch, told.tokens, told.params)):
            self._counts["reopened"] += told.was_open
            told.is_open = told.was_open = True
            told.num_told = len(told.tokens)
        return told.is_open

    def _commit(self, request_id: RequestId, told: _Told, missing: list[int]) -> None:
        if self._send(Commit(request_id, told.epoch, told.num_told, missing)):
            told.num_told = len(told.tokens)

    def _send(self, message: Open | Propose | Commit | Close) -> bool:
        """Draft traffic is disposable: what finds no room is dropped, and the next message makes up for it."""
        try:
            self._mailbox.send(self.actor, message)
        except MailboxFull:
            self._counts["dropped"] += 1
            return False
        return True

    # --- drafts -------------------------------------------------------------------------------------------------------

    def propose(self, batch: Sequence[ProposeReq], budget: StepBudget) -> list[Drafts]:
        """What was made ahead and still fits, at once; more is asked for, and comes through ``land``."""
        found: list[Drafts] = []
        short: list[ProposeReq] = []
        for ask in batch:
            told = self._requests.get(ask.request_id)
            if told is None:
                continue
            told.tokens += ask.delta
            told.epoch = ask.epoch
            left = self._look_up(told, ask)
            if left is not None:
                found.append(left)
            if left is None or 2 * len(left.token_ids) < ask.depth:
                short.append(ask)
        now_s = self._clock()
        if self.is_up and self._patience.may_ask(now_s):
            self._ask(batch, {ask.request_id for ask in short}, budget, now_s)
        return found

    def _look_up(self, told: _Told, ask: ProposeReq) -> Drafts | None:
        """What was kept for the request and hangs behind its committed tokens, as many drafts as asked for."""
        kept, told.kept = told.kept, None
        left = None
        if kept is not None and kept.epoch == ask.epoch and kept.base_len <= ask.base_len == len(told.tokens):
            left = landing.behind(kept, told.tokens[kept.base_len :])
        if self.caps.draft_ahead and not told.is_new:
            self._counts["ahead_misses" if left is None else "ahead_hits"] += 1
        if left is None:
            return None
        told.kept = left
        return landing.cut(left, ask.depth)

    def _ask(self, batch: Sequence[ProposeReq], short: set[RequestId], budget: StepBudget, now_s: float) -> None:
        """Ask for all of ``batch``; the step waits if ``short`` holds one whose text has been read."""
        asks: list[DraftAsk] = []
        num_opened = 0
        for ask in batch:
            told = self._requests.get(ask.request_id)
            if told is None:
                continue
            if not told.is_open:
                if num_opened == _OPEN_AT_ONCE or not self._open(ask.request_id, told):
                    continue
                num_opened += 1
            missing = told.tokens[told.num_told :]
            asks.append(DraftAsk(ask.request_id, ask.epoch, ask.base_len, missing, min(ask.depth, budget.max_depth)))
        if not asks or not self._send(Propose(asks, budget.deadline_s)):
            return
        slow = {ask.request_id for ask in asks if self._is_to_read(self._requests[ask.request_id])}
        for ask in asks:
            told = self._requests[ask.request_id]
            told.num_told = len(told.tokens)
        self._counts["asked"] += len(asks)
        self._patience.ask(
            {ask.request_id: ask.base_len for ask in asks},
            self._profiled_s(len(asks), max(ask.depth for ask in asks)),
            now_s,
            wait=any(ask.request_id in short and ask.request_id not in slow for ask in asks),
            learn=not slow,
        )

    @staticmethod
    def _is_to_read(told: _Told) -> bool:
        """Must the actor read more of this text first than a step should wait for?"""
        return (told.is_new and len(told.tokens) > _LONG) or len(told.tokens) - told.num_told > _LONG

    def land(self, drafts: Drafts) -> Drafts | None:
        """What came from the actor: to be offered to the core now, or None = kept for later, or no drafts at all."""
        is_answer = self._patience.answered(drafts.request_id, drafts.base_len, self._clock())
        told = self._requests.get(drafts.request_id)
        if told is None or not drafts.token_ids:
            return None
        drafts = msgspec.structs.replace(drafts, source=self._name)
        if not landing.is_whole(drafts) or not 0 < drafts.base_len <= len(told.tokens):
            self._counts["faults"] += 1
            self.close(drafts.request_id)  # it goes on without this method
            return None
        told.is_new = False
        if told.kept is None or _worth(drafts) >= _worth(told.kept):
            told.kept = drafts
        if not is_answer:
            return None
        # A table that overtook the answer: the core gets the chain in it.
        return drafts if drafts.parents is None else landing.behind(drafts, told.tokens[drafts.base_len :])

    def wait_s(self) -> float:
        """How much longer the next step should wait for drafts; 0 = it should not."""
        return self._patience.left_s(self._clock())

    # --- facts --------------------------------------------------------------------------------------------------------

    def cost(self, num_requests: int, depth: int) -> float:
        """Seconds, as the actor measured at its start, times how much slower it has been since."""
        return self._profiled_s(num_requests, depth) * self._patience.slowdown

    def _profiled_s(self, num_requests: int, depth: int) -> float:
        """Seconds in the next wider batch that the actor measured."""
        costs = self._hello.step_costs if self._hello is not None else []
        if not costs:
            return 0.0
        place = min(bisect_left([rows for rows, _ in costs], num_requests), len(costs) - 1)
        return depth * costs[place][1]

    def stats(self) -> dict[str, int]:
        """Requests ``asked`` for, ``answered``, waited for in vain (``late``); proposals that found drafts made ahead
        and those that did not; messages ``dropped``; requests told again to an actor that came back; malformed answers.
        """
        return {**self._counts, "answered": self._patience.num_answered, "late": self._patience.num_late}

    def ahead_counts(self, values: Mapping[str, float]) -> dict[str, float]:
        """The counters of drafts made ahead, with those that were looked up here."""
        names = ("ahead_hits", "ahead_misses")
        return {f"spec_{name}": values.get(f"spec_{name}", 0) + self._counts[name] for name in names}

    def warmup(self) -> None:
        """The actor warms itself."""


def _worth(drafts: Drafts) -> tuple[int, int, int]:
    """Later ones are worth more; of one length, the longer: messages may overtake one another."""
    return drafts.epoch, drafts.base_len, len(drafts.token_ids)
