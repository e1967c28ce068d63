"""The grammar masks of one step: made on a thread of their own while the model runs, laid on its logits behind it.

A step in which nobody has a grammar pays one look at each row. Knows nothing of grammars but that they fill bits.
"""

from collections.abc import Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from typing import NamedTuple, TypeAlias

import numpy as np
import torch

from .grammar import Constraint, GrammarError

Asked: TypeAlias = tuple[Constraint | None, list[int], list[int] | None]
"""A row that yields: its grammar, its drafts, and their parents where they form a tree."""


class _Part(NamedTuple):
    """The masks of one ask."""

    ask: int
    """Its index among the step's rows that yield."""
    bits: np.ndarray  # int32 [k + 1, words]


class StepMasks:
    """Masks that are being made. ``apply`` waits for them."""

    def __init__(self, parts: list[_Part], work: Future[None], faults: dict[int, str]) -> None:
        self._parts = parts
        self._work = work
        self.faults = faults
        """Of asks whose grammar failed: why, in one line. Complete once ``apply`` was called."""

    def apply(self, logits: torch.Tensor, starts: Sequence[int]) -> None:
        """Set what is not allowed to -inf in ``logits`` fp32 [S, vocab_size], where ask i has rows ``starts[i]`` on."""
        self._work.result()
        parts = [part for part in self._parts if part.ask not in self.faults]
        if parts:
            places = [starts[part.ask] + i for part in parts for i in range(len(part.bits))]
            mask_logits(logits, places, np.concatenate([part.bits for part in parts]))


class Masker:
    """Makes the masks of steps, one step at a time. The thread starts with the first grammar."""

    def __init__(self, vocab_size: int) -> None:
        self._num_words = -(-vocab_size // 32)
        self._pool: ThreadPoolExecutor | None = None

    def begin(self, asked: Sequence[Asked]) -> StepMasks | None:
        """Start on the masks of a step; None where no row has a grammar."""
        parts = [
            _Part(i, np.empty((len(drafts) + 1, self._num_words), np.int32))
            for i, (constraint, drafts, _) in enumerate(asked)
            if constraint is not None
        ]
        if not parts:
            return None
        if self._pool is None:
            self._pool = ThreadPoolExecutor(1, thread_name_prefix="grammar")
        faults: dict[int, str] = {}
        return StepMasks(parts, self._pool.submit(_fill, parts, asked, faults), faults)


def _fill(parts: Sequence[_Part], asked: Sequence[Asked], faults: dict[int, str]) -> None:
    for ask, bits in parts:
        constraint, draft_ids, parents = asked[ask]
        assert constraint is not None
        try:
            constraint.fill(bits, draft_ids, parents)
        except GrammarError as e:
            faults[ask] = str(e)


def mask_logits(logits: torch.Tensor, places: Sequence[int], bits: np.ndarray) -> None:
    """Row ``places[i]`` of ``logits`` fp32 [S, V], in place: -inf where ``bits[i]``, int32 [N, >= V / 32], has a 0."""
    width = logits.shape[1]
    if logits.is_cpu:
        refused = np.unpackbits((~bits).view(np.uint8), axis=1, count=width, bitorder="little").view(np.bool_)
        rows = logits.numpy()  # torch would wake its threads for each row, and wait for the slowest
        for place, line in zip(places, refused, strict=True):
            np.copyto(rows[place], -np.inf, where=line)
        return
    shifts = torch.arange(32, dtype=torch.int32, device=logits.device)  # an eighth of the bytes cross to the device
    words = torch.from_numpy(bits).to(logits.device)
    refused = ((words[:, :, None] >> shifts) & 1 == 0).view(len(places), -1)[:, :width]
    where = torch.tensor(places, device=logits.device)
    logits[where] = logits[where].masked_fill(refused, -torch.inf)
