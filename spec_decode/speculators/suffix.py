"""Suffix decoding (arXiv 2411.04975): the longest end of the text that stood before, and what most often followed it.

Looked up first in the request's own prompt and output, then among finished requests of the same cache_salt. The paper
keeps suffix trees; we keep hash chains (``token_index.py``), which answer the same question for the newest occurrences
at a fixed size: the occurrences that share the longest match are the children's counts of the tree's node.

Drafts are walked along the branch that most occurrences take. A branch's frequency, times the reliability of a match as
long as this one, is its confidence; the walk ends where the product of frequencies falls below ``min_token_prob``, and
of two walks the one with more expected tokens is proposed.
"""

from collections import deque
from collections.abc import Sequence

import msgspec

from ...engine.core.plan import Drafts
from ...engine.types import RequestId, SamplingParams
from ..base import Caps, Context, Outcome, Placement, ProposeReq, StepBudget
from ..token_index import KEY_LENGTH, TokenIndex

PLACEMENT: Placement = "scheduler"
_CANDIDATES = 8
"""Most occurrences that vote on a branch."""
_SURE_LENGTH = 8
"""A match at least this long is followed alone; a shorter one is weighed against the votes of all occurrences of its
last tokens, and against finished requests."""
_SALTS = 16
"""Most values of cache_salt with finished requests kept; the one unused for longest goes."""


class Config(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """``[speculation.suffix]``."""

    max_depth: int = 24
    """Longest suffix matched."""
    max_factor: float = 1.0
    """At most this times the matched length is proposed."""
    min_token_prob: float = 0.1
    """Stop when the product of branch frequencies falls below; 0.3 where verifying is not free."""
    global_requests: int = 10000
    """Finished requests kept for each cache_salt; 0 = none."""
    global_tokens: int = 262144
    """Tokens of finished requests kept for each cache_salt, at 20 bytes each."""

    def __post_init__(self) -> None:
        if self.max_depth < KEY_LENGTH or self.global_requests < 0:
            raise ValueError(
                f"max_depth = {self.max_depth} and global_requests = {self.global_requests}: must be at least "
                f"{KEY_LENGTH} and 0"
            )
        if not 0 < self.max_factor <= 64 or not 0 <= self.min_token_prob <= 1:
            raise ValueError(
                f"max_factor = {self.max_factor:g} and min_token_prob = {self.min_token_prob:g}: must be above 0 and "
                "at most 64, and 0 to 1"
            )
        if not 1024 <= self.global_tokens <= 1 << 26:
            raise ValueError(f"global_tokens = {self.global_tokens}: must be 1024 to {1 << 26}")


class _Finished:
    """The end of the prompt and the output of the newest finished requests, as one text with breaks."""

    def __init__(self, config: Config) -> None:
        self.text = TokenIndex(config.global_tokens)
        self._starts: deque[int] = deque()
        self._most = config.global_requests

    def add(self, token_ids: Sequence[int]) -> None:
        """Keep one more; the oldest goes when there are too many."""
        self._starts.append(self.text.end)
        self.text.extend(token_ids)
        self.text.separate()
        if len(self._starts) > self._most:
            self._starts.popleft()
            self.text.floor = max(self.text.floor, self._starts[0])


class _Live:
    """An open request."""

    __slots__ = ("salt", "start", "text")

    def __init__(self, text: TokenIndex, salt: str, start: int) -> None:
        self.text = text
        self.salt = salt
        self.start = start
        """Position in ``text`` of what is kept when the request has finished."""


class Suffix:
    """See the module's docstring."""

    def __init__(self, config: Config, ctx: Context) -> None:
        self.caps = Caps(max_tokens=ctx.max_draft_tokens, lookahead_slots=ctx.max_draft_tokens)
        self._config = config
        self._max_len = ctx.max_model_len
        self._live: dict[RequestId, _Live] = {}
        self._finished: dict[str, _Finished] = {}  # by salt, the one used last at the end

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
        """Index the prompt; ``prediction`` stands before it, as another text."""
        size = min(len(prompt) + params.max_tokens, self._max_len)
        text = TokenIndex(size + len(prediction) + 2)
        if prediction:
            text.extend(prediction)
            text.separate()
        text.extend(prompt)
        start = text.end - min(self._config.max_depth, len(prompt))
        self._live[request_id] = _Live(text, cache_salt, start)

    def observe(self, batch: Sequence[Outcome]) -> None:
        """Index what was committed."""
        for outcome in batch:
            self._live[outcome.request_id].text.extend(outcome.committed)

    def propose(self, batch: Sequence[ProposeReq], budget: StepBudget) -> list[Drafts]:
        """One chain for each request whose end stood before, in its own text or in a finished one."""
        answers: list[Drafts] = []
        for ask in batch:
            live = self._live[ask.request_id]
            if ask.delta:
                live.text.extend(ask.delta)
            depth = min(ask.depth, budget.max_depth)
            tail = live.text.tail(self._config.max_depth)
            walk = self._best_walk(live.text, tail, depth)
            finished = self._finished.get(live.salt)
            if finished is not None and (walk is None or walk.length < _SURE_LENGTH):
                other = self._best_walk(finished.text, tail, depth)
                if other is not None and (walk is None or other.expected > walk.expected):
                    walk = other
            if walk is not None:
                ids = walk.token_ids
                answers.append(Drafts(ask.request_id, ask.epoch, ask.base_len, ids, confidence=walk.confidence))
        return answers

    def _best_walk(self, text: TokenIndex, tail: Sequence[int], depth: int) -> "_Walk | None":
        found = text.matches(tail, _CANDIDATES)
        if not found:
            return None
        longest = max(found)[0]
        walk = self._walk(text, [at for length, at in found if length == longest], longest, depth)
        if longest < _SURE_LENGTH and len(found) > 1:
            shortest = min(found)[0]
            if shortest < longest:
                wide = self._walk(text, [at for _, at in found], shortest, depth)
                if wide is not None and (walk is None or wide.expected > walk.expected):
                    return wide
        return walk

    def _walk(self, text: TokenIndex, ends: list[int], length: int, depth: int) -> "_Walk | None":
        """From the positions behind a match of ``length`` tokens, the way most occurrences go."""
        most = max(1, min(depth, int(self._config.max_factor * length)))
        if len(ends) == 1:
            ids = text.run(ends[0], most)
            frequencies = [1.0] * len(ids)
        else:
            ids, frequencies = _vote(text.spans(ends, most), self._config.min_token_prob)
        confidence: list[float] = []
        survival, expected = 1.0, 0.0
        for matched, frequency in enumerate(frequencies, length):
            sure = frequency * (matched / (matched + 1))
            survival *= sure
            expected += survival
            confidence.append(sure)
        return _Walk(ids, confidence, expected, length) if ids else None

    def rollback(self, request_id: RequestId, length: int, epoch: int) -> None:
        """Committed tokens are never taken back, so there is nothing to undo."""

    def close(self, request_id: RequestId) -> None:
        """Keep what the request wrote for those that come after it."""
        live = self._live.pop(request_id, None)
        if live is None or not self._config.global_requests:
            return
        finished = self._finished.pop(live.salt, None)
        if finished is None:
            finished = _Finished(self._config)
            while len(self._finished) >= _SALTS:
                del self._finished[next(iter(self._finished))]
        self._finished[live.salt] = finished
        finished.add(live.text.run(live.start, min(live.text.end - live.start, self._config.global_tokens // 4)))

    def cost(self, num_requests: int, depth: int) -> float:
        """Fifteen microseconds a request."""
        return 1.5e-5 * num_requests

    def stats(self) -> dict[str, int]:
        """Texts held and their memory."""
        texts = [t.text for t in (*self._live.values(), *self._finished.values())]
        return {"num_texts": len(texts), "num_bytes": sum(t.num_bytes() for t in texts)}

    def warmup(self) -> None:
        """Nothing to warm."""


class _Walk:
    """A proposal and what it is worth: ``expected`` accepted tokens, behind a match of ``length``."""

    __slots__ = ("confidence", "expected", "length", "token_ids")

    def __init__(self, token_ids: list[int], confidence: list[float], expected: float, length: int) -> None:
        self.token_ids = token_ids
        self.confidence = confidence
        self.expected = expected
        self.length = length


def _vote(spans: list[list[int]], least: float) -> tuple[list[int], list[float]]:
    """The way most of ``spans`` go (the newest, which stand first, win a tie), and each branch's share of the votes.

    Ends where the product of the shares falls below ``least``. A span that has ended votes no more.
    """
    ids: list[int] = []
    shares: list[float] = []
    product = 1.0
    while spans := [span for span in spans if len(span) > len(ids)]:
        column = [span[len(ids)] for span in spans]
        token, share = column[0], 1.0
        if column.count(token) < len(column):
            token = max(column, key=column.count)
            share = column.count(token) / len(column)
            product *= share
            if product < least:
                break
            spans = [span for span in spans if span[len(ids)] == token]
        ids.append(token)
        shares.append(share)
    return ids, shares


def build(config: Config, ctx: Context) -> Suffix:
    """A speculator without a single request."""
    return Suffix(config, ctx)
