"""Keyed Gumbel-max in plain torch: the noise of an id depends on seed, position and id alone."""

import torch

from ..noise import exponentials, philox

__all__ = ["noise", "philox", "run"]

_MOST_ELEMENTS = 1 << 22
"""Noise is made for slices of rows of about this many ids, to bound the memory."""


def run(
    logits: torch.Tensor, temperature: torch.Tensor, seeds: torch.Tensor, positions: torch.Tensor
) -> torch.Tensor:
    """See ``ops.sample``."""
    scores = logits.double()
    sampled = torch.nonzero(temperature > 0).flatten()
    size = max(1, _MOST_ELEMENTS // max(1, logits.shape[1]))
    for rows in sampled.split(size):
        scores[rows] += noise(seeds[rows], positions[rows], logits.shape[1])
    if logits.shape[0] == 0:
        return torch.empty(0, dtype=torch.int64, device=logits.device)
    return scores.argmax(-1)


def noise(seeds: torch.Tensor, positions: torch.Tensor, size: int) -> torch.Tensor:
    """Gumbel noise fp64 [S, size] of stream 0 for seeds, positions int64 [S]."""
    return -torch.log(exponentials(seeds, positions, size))
