"""A speculator from outside the package that does everything wrong, and sometimes right; named with dots.

Wrong ids, stamps and lengths; late, doubled and foreign drafts; garbage, slowness, failure. In a test's own process it
knows the answers (``ANSWERS``). In a server it remembers what it was told before of the same prompt, seed and
temperature, and else what last came behind the same token: so it is often right there too, and being wrong matters.
"""

import math
import random
import time
from collections.abc import Sequence

import msgspec

from paceline.engine.core.plan import Drafts
from paceline.engine.types import RequestId, SamplingParams
from paceline.spec_decode.base import Caps, Context, Outcome, ProposeReq, StepBudget

PLACEMENT = "scheduler"
ANSWERS: dict[RequestId, list[int]] = {}
"""Prompt and right output, by request: what a perfect speculator would know."""


class Config(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """How bad it is."""

    seed: int = 0
    right: float = 0.7
    """Chance that a draft is the right one."""
    wild: bool = False
    """Wrong stamps, ids out of range, requests that nobody asked about, too many drafts, trees, answers of before."""
    dies_after: int = 0
    """Proposals before it fails for good; 0 = never."""
    slow_s: float = 0.0
    """How long one proposal in eight takes."""


class Chaos:
    """Checks what it is told on the way: every committed token comes once, in order."""

    def __init__(self, config: Config, ctx: Context) -> None:
        self.caps = Caps(max_tokens=ctx.max_draft_tokens, lookahead_slots=ctx.max_draft_tokens)
        self._config = config
        self._vocab = ctx.vocab_size
        self._random = random.Random(config.seed)
        self._texts: dict[RequestId, list[int]] = {}
        self._keys: dict[RequestId, tuple[tuple[int, ...], float, int]] = {}
        self._memory: dict[tuple[tuple[int, ...], float, int], list[int]] = {}  # finished texts
        self._last: Drafts | None = None
        self._num_asked = 0

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
        assert request_id not in self._texts
        self._texts[request_id] = list(prompt)
        self._keys[request_id] = tuple(prompt), params.temperature, params.seed

    def observe(self, batch: Sequence[Outcome]) -> None:
        for outcome in batch:
            text = self._texts[outcome.request_id]
            assert outcome.base_len == len(text)
            text += outcome.committed
            assert ANSWERS.get(outcome.request_id, text)[: len(text)] == text

    def propose(self, batch: Sequence[ProposeReq], budget: StepBudget) -> list[Drafts]:
        self._num_asked += 1
        if 0 < self._config.dies_after <= self._num_asked:
            raise RuntimeError("the chaos speculator has died")
        if self._config.slow_s and self._random.random() < 0.125:
            time.sleep(self._config.slow_s)
        answers: list[Drafts] = []
        for ask in batch:
            text = self._texts[ask.request_id]
            assert ask.base_len == len(text) and 0 < ask.depth <= budget.max_depth
            right = self._known(ask.request_id, ask.depth)
            draw = self._random.random
            ids = [t if draw() < self._config.right else self._random.randrange(self._vocab) for t in right]
            if self._random.random() < 0.1:
                continue
            drafts = Drafts(ask.request_id, ask.epoch, ask.base_len, ids)
            answers += self._spoil(drafts) if self._config.wild and self._random.random() < 0.3 else [drafts]
            self._last = drafts
        return answers

    def _known(self, request_id: RequestId, depth: int) -> list[int]:
        """The next tokens: the answer's, the memory's, or a chain of guesses."""
        text = self._texts[request_id]
        known = ANSWERS.get(request_id) or self._memory.get(self._keys[request_id], [])
        if known[: len(text)] == text and len(known) > len(text):
            return known[len(text) : len(text) + depth]
        chain = list(text)
        for _ in range(depth):
            places = [i for i in range(len(text) - 1) if text[i] == chain[-1]]
            chain.append(text[places[-1] + 1] if places else self._random.randrange(self._vocab))
        return chain[len(text) :]

    def _spoil(self, drafts: Drafts) -> list[Drafts]:
        name, epoch, base, ids = drafts.request_id, drafts.epoch, drafts.base_len, drafts.token_ids
        return self._random.choice(
            [
                [Drafts(name, epoch + 1, base, ids)],
                [Drafts(name, epoch, base - 1, ids)],
                [Drafts("nobody", epoch, base, ids)],
                [Drafts(name, epoch, base, [*ids, 1, 2, 3, 4, 5, 6, 7, 8, 9])],
                [Drafts(name, epoch, base, [*ids, *ids], [*range(-1, len(ids) - 1), *([-1] * len(ids))])],
                [drafts, drafts, Drafts(name, epoch, base, ids[:1])],
                [drafts, self._last or drafts],
                [Drafts(name, epoch, base, [])],
                [Drafts(name, epoch, base, [*ids[:1], self._random.choice([-1, self._vocab, 1 << 40])])],
                [Drafts(name, epoch, base, ids, list(range(1, len(ids) + 1)))],
                [Drafts(name, epoch, base, ids, confidence=self._random.choice([[], [0.5], [math.nan] * len(ids)]))],
            ]
        )

    def rollback(self, request_id: RequestId, length: int, epoch: int) -> None:
        assert len(self._texts[request_id]) == length

    def close(self, request_id: RequestId) -> None:
        self._memory[self._keys.pop(request_id)] = self._texts.pop(request_id)

    def cost(self, num_requests: int, depth: int) -> float:
        return 0.0

    def stats(self) -> dict[str, int]:
        return {}

    def warmup(self) -> None:
        pass


def build(config: Config, ctx: Context) -> Chaos:
    return Chaos(config, ctx)
