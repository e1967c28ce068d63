"""Keyed Gumbel-max in plain torch: the noise of an id depends on seed, position and id alone."""

import torch

_MASK = 0xFFFFFFFF
_MULTIPLIERS = (0xD2511F53, 0xCD9E8D57)
_KEY_STEPS = (0x9E3779B9, 0xBB67AE85)
_MOST_ELEMENTS = 1 << 22
"""Noise is made for slices of rows of about this many ids, to bound the memory."""


def run(logits: torch.Tensor, temperature: torch.Tensor, seeds: torch.Tensor, positions: torch.Tensor) -> torch.Tensor:
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
    ids = torch.arange(-(-size // 4), device=seeds.device)
    shape = (seeds.shape[0], ids.shape[0])
    zero = torch.zeros(shape, dtype=torch.int64, device=seeds.device)
    counter = (ids.expand(shape), (positions & _MASK).unsqueeze(1).expand(shape), zero, zero)
    key = ((seeds & _MASK).unsqueeze(1), ((seeds >> 32) & _MASK).unsqueeze(1))
    words = torch.stack(philox(counter, key), dim=-1).flatten(1)[:, :size]
    v = (words.double() + 0.5) * 2.0**-32
    return -torch.log(-torch.log1p(-v))


def philox(
    counter: tuple[torch.Tensor, torch.Tensor, torch.Tensor, torch.Tensor], key: tuple[torch.Tensor, torch.Tensor]
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor, torch.Tensor]:
    """Philox4x32-10 (Salmon et al., SC11): 32-bit words held in int64 tensors, four in, four out."""
    c0, c1, c2, c3 = counter
    k0, k1 = key
    for _ in range(10):
        # The 64-bit product wraps to a negative int64; shifting and masking still gives its upper word.
        a, b = c0 * _MULTIPLIERS[0], c2 * _MULTIPLIERS[1]
        c0, c1, c2, c3 = ((b >> 32) & _MASK) ^ c1 ^ k0, b & _MASK, ((a >> 32) & _MASK) ^ c3 ^ k1, a & _MASK
        k0, k1 = (k0 + _KEY_STEPS[0]) & _MASK, (k1 + _KEY_STEPS[1]) & _MASK
    return c0, c1, c2, c3
