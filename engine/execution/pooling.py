"""A prompt's hidden states to one vector of length 1: that of its last token, or the mean of all.

Chunks come as the scheduler cuts them. Sums are taken token by token in float64, so that the cut changes no bit; what
leaves is fp32. With ``last`` only the prompt's end is looked at, which is computed even where the rest was found in the
prefix cache.
"""

import numpy as np
import torch

from ..types import Pooling

_TINY = 1e-12
"""A vector shorter than this has no direction; it stays as it is."""


class Pool:
    """One prompt on its way to its vector, within one epoch."""

    __slots__ = ("_num", "_pooling", "_sum")

    def __init__(self, pooling: Pooling) -> None:
        self._pooling = pooling
        self._sum: np.ndarray | None = None
        self._num = 0

    def add(self, hidden: torch.Tensor, start: int) -> bool:
        """Positions ``start ..``, [n, hidden_size] with n at least 1, in order. False = a mean misses some before."""
        if self._pooling.kind == "last":
            self._sum, self._num = _wide(hidden[-1:])[0], 1
            return True
        if start != self._num:
            return False
        rows = _wide(hidden)
        if self._sum is not None:
            rows = np.vstack([self._sum, rows])
        self._sum = np.add.reduce(rows, axis=0)  # row by row: numpy adds in pairs only along the last axis
        self._num += len(hidden)
        return True

    def vector(self) -> bytes | None:
        """fp32, little-endian, of length 1; None where the model gave no finite numbers."""
        assert self._sum is not None
        pooled = self._sum / self._num
        if self._pooling.dimensions:
            pooled = pooled[: self._pooling.dimensions]
        if not np.isfinite(pooled).all():
            return None
        return (pooled / max(float(np.linalg.norm(pooled)), _TINY)).astype("<f4").tobytes()


def _wide(hidden: torch.Tensor) -> np.ndarray:
    return hidden.double().cpu().numpy()
