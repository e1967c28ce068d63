"""The scheduler's end of a draft actor: a ``Speculator`` whose work is done elsewhere, by messages. No torch.

What it is told it passes on; drafts come back through the scheduler's inbox, whenever they are ready. Nothing is ever
owed: an actor that is away, late or of another vocabulary gives no drafts, and the text is the same without. All that
an actor must know of a request is kept here, so that one that comes back is told again.
"""

import logging
from bisect import bisect_left
from collections.abc import Callable, Sequence

import msgspec

from ..engine.core.plan import Drafts
from ..engine.types import RequestId, SamplingParams
from ..spec_decode.base import Caps, Outcome, ProposeReq, StepBudget
from .mailbox import Mailbox, MailboxFull
from .messages import Close, Commit, DraftAsk, Hello, Open, Propose

log = logging.getLogger(__name__)

_COMMIT_TOKENS = 64
"""Committed tokens told without being asked for drafts, at once."""
_OPEN_AT_ONCE = 8
"""Requests opened again in one proposal, so that an actor that came back is not flooded."""
_PATIENCE = 2.0
"""Wait for so many times what a proposal should take."""
_HOP_S = 0.002


class _Told:
    """One request, and how much of it the actor has been told."""

    __slots__ = ("epoch", "is_open", "num_told", "params", "tokens")

    def __init__(self, tokens: list[int], params: SamplingParams, epoch: int) -> None:
        self.tokens = tokens
        self.params = params
        self.epoch = epoch
        self.is_open = False
        self.num_told = 0


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
        timeout_s: float = 0.0,
        actor: str = "draft",
    ) -> None:
        """``name``: the method's. ``timeout_s``: how long a step waits for drafts; 0 = twice what they should take."""
        self.caps = Caps(
            max_tokens=max_draft_tokens, lookahead_slots=max_draft_tokens, draft_ahead=is_ahead, seeded=True
        )
        self.actor = actor
        self._mailbox = mailbox
        self._name = name
        self._clock = clock
        self._timeout_s = timeout_s
        self._requests: dict[RequestId, _Told] = {}
        self._awaited: dict[RequestId, int] = {}  # the length at which drafts were asked for
        self._until_s = 0.0
        self._hello: Hello | None = None
        self._target: Hello | None = None
        self._target_model = ""
        self._counts: dict[str, int] = dict.fromkeys(("asked", "answered", "late", "dropped", "reopened"), 0)

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
        self._awaited.clear()
        for told in self._requests.values():
            told.is_open = False
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
        """The actor may begin with the prompt while the target does."""
        told = self._requests[request_id] = _Told(list(prompt), params, epoch)
        if self.is_up:
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
        self._awaited.pop(request_id, None)
        if told is not None and told.is_open and self._hello is not None:
            self._send(Close(request_id))

    def _open(self, request_id: RequestId, told: _Told) -> bool:
        if self._send(Open(request_id, told.epoch, told.tokens, told.params)):
            told.is_open = True
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
        """Ask; the answers come through ``land``."""
        if not self.is_up:
            return []
        asks: list[DraftAsk] = []
        num_opened = 0
        for ask in batch:
            told = self._requests.get(ask.request_id)
            if told is None:
                continue
            told.tokens += ask.delta
            told.epoch = ask.epoch
            if not told.is_open:
                if num_opened == _OPEN_AT_ONCE or not self._open(ask.request_id, told):
                    continue
                num_opened += 1
                self._counts["reopened"] += 1
            missing = told.tokens[told.num_told :]
            asks.append(DraftAsk(ask.request_id, ask.epoch, ask.base_len, missing, min(ask.depth, budget.max_depth)))
        if not asks or not self._send(Propose(asks, budget.deadline_s)):
            return []
        for ask in asks:
            told = self._requests[ask.request_id]
            told.num_told = len(told.tokens)
            self._awaited[ask.request_id] = ask.base_len
        self._counts["asked"] += len(asks)
        wait_s = self._timeout_s or _PATIENCE * self.cost(len(asks), max(ask.depth for ask in asks)) + _HOP_S
        self._until_s = self._clock() + wait_s
        return []

    def land(self, drafts: Drafts) -> Drafts | None:
        """What came from the actor, to be offered to the core; None = an answer without drafts."""
        if self._awaited.get(drafts.request_id) == drafts.base_len:
            del self._awaited[drafts.request_id]
            self._counts["answered"] += 1
        if not drafts.token_ids:
            return None
        return msgspec.structs.replace(drafts, source=self._name)

    def wait_s(self) -> float:
        """How much longer the next step should wait for drafts; 0 = it should not."""
        if not self._awaited or self.caps.draft_ahead:
            return 0.0
        left_s = self._until_s - self._clock()
        if left_s <= 0:
            self._counts["late"] += len(self._awaited)
            self._awaited.clear()
            return 0.0
        return left_s

    # --- facts --------------------------------------------------------------------------------------------------------

    def cost(self, num_requests: int, depth: int) -> float:
        """Seconds, as the actor measured at its start; those of the next wider batch that it measured."""
        costs = self._hello.step_costs if self._hello is not None else []
        if not costs:
            return 0.0
        place = min(bisect_left([rows for rows, _ in costs], num_requests), len(costs) - 1)
        return depth * costs[place][1]

    def stats(self) -> dict[str, int]:
        """Requests ``asked`` for and ``answered``, steps that did not wait longer, messages ``dropped``, reopenings."""
        return self._counts.copy()

    def warmup(self) -> None:
        """The actor warms itself."""
