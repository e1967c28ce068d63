"""Prompt lookup: what followed the longest earlier occurrence of the last few tokens is proposed again.

Looks at the request's own prompt and output only, keeps no statistics, and proposes one-hot chains: the simplest method
there is, and the one to compare others with.
"""

from collections.abc import Sequence

import msgspec

from ...engine.core.plan import Drafts
from ...engine.types import RequestId, SamplingParams
from ..base import Caps, Context, Outcome, Placement, ProposeReq, StepBudget
from ..token_index import KEY_LENGTH, TokenIndex

PLACEMENT: Placement = "scheduler"
_CANDIDATES = 16
"""Most occurrences compared for one proposal."""


class Config(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """``[speculation.ngram]``."""

    max_match: int = 5
    """Longest run of last tokens looked for."""
    min_match: int = 2
    """Shortest one that is worth a proposal."""

    def __post_init__(self) -> None:
        if not KEY_LENGTH <= self.min_match <= self.max_match:
            raise ValueError(
                f"min_match = {self.min_match} and max_match = {self.max_match}: must be {KEY_LENGTH} <= min_match <= "
                "max_match"
            )


class Ngram:
    """See the module's docstring."""

    def __init__(self, config: Config, ctx: Context) -> None:
        self.caps = Caps(max_tokens=ctx.max_draft_tokens, lookahead_slots=ctx.max_draft_tokens)
        self._config = config
        self._max_len = ctx.max_model_len
        self._texts: dict[RequestId, TokenIndex] = {}

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
        size = len(prompt) + params.max_tokens
        text = self._texts[request_id] = TokenIndex(min(size, self._max_len) + len(prediction) + 2)
        if prediction:
            text.extend(prediction)
            text.separate()
        text.extend(prompt)

    def observe(self, batch: Sequence[Outcome]) -> None:
        """Index what was committed."""
        for outcome in batch:
            self._texts[outcome.request_id].extend(outcome.committed)

    def propose(self, batch: Sequence[ProposeReq], budget: StepBudget) -> list[Drafts]:
        """One chain for each request whose end stood before."""
        answers: list[Drafts] = []
        for ask in batch:
            text = self._texts[ask.request_id]
            if ask.delta:
                text.extend(ask.delta)
            ids = self._continuation(text, min(ask.depth, budget.max_depth))
            if ids:
                answers.append(Drafts(ask.request_id, ask.epoch, ask.base_len, ids))
        return answers

    def _continuation(self, text: TokenIndex, depth: int) -> list[int]:
        tail = text.tail(self._config.max_match)
        found = text.matches(tail, _CANDIDATES)
        length, at = max(found, key=_length, default=(0, 0))  # the newest of the longest
        return text.run(at, depth) if length >= self._config.min_match else []

    def rollback(self, request_id: RequestId, length: int, epoch: int) -> None:
        """Committed tokens are never taken back, so there is nothing to undo."""

    def close(self, request_id: RequestId) -> None:
        """Forget the text."""
        self._texts.pop(request_id, None)

    def cost(self, num_requests: int, depth: int) -> float:
        """Ten microseconds a request."""
        return 1e-5 * num_requests

    def stats(self) -> dict[str, int]:
        """Texts held and their memory."""
        return {"num_texts": len(self._texts), "num_bytes": sum(t.num_bytes() for t in self._texts.values())}

    def warmup(self) -> None:
        """Nothing to warm."""


def _length(match: tuple[int, int]) -> int:
    return match[0]


def build(config: Config, ctx: Context) -> Ngram:
    """A speculator without a single request."""
    return Ngram(config, ctx)
