"""Keyed randomness: every number is a function of seed, position, stream, window and token id, and of nothing else.

Philox4x32-10 with the seed as its key and (id // 4, position, stream, window) as its counter; word id % 4 belongs to
the id. There is no generator whose state could depend on the batch. One stream serves one use: sharing one between
drafting, accepting and the residual biases the output, and so does ``block`` verification without the window.
"""

import torch

TARGET, ACCEPT, RESIDUAL, DRAFT, SIBLING = range(5)
"""Streams: the target's own draws (window 0; shared with a drafter only under the coupled rule), the accept tests, the
next token behind a refusal, drafts drawn from q, and SIBLING + j the test of the j-th child of a tree's node. The
window of all but TARGET is the number of committed tokens when the step (or the draft) was made."""

_MASK = 0xFFFFFFFF
_MULTIPLIERS = (0xD2511F53, 0xCD9E8D57)
_KEY_STEPS = (0x9E3779B9, 0xBB67AE85)

_Words = tuple[torch.Tensor, torch.Tensor, torch.Tensor, torch.Tensor]


def uniforms(seeds: torch.Tensor, positions: torch.Tensor, stream: int, windows: torch.Tensor) -> torch.Tensor:
    """One number of (0, 1) for each key, fp64 [S], in steps of 2**-32: the word of id 0. All arguments int64 [S]."""
    return _fractions(words(torch.zeros_like(positions), seeds, positions, stream, windows)[..., 0])


def exponentials(
    seeds: torch.Tensor, positions: torch.Tensor, stream: int, windows: torch.Tensor, size: int
) -> torch.Tensor:
    """An exponential variate for each key and id, fp64 [S, size]; Gumbel noise is its negative logarithm."""
    groups = torch.arange(-(-size // 4), device=seeds.device)
    keys = (seeds.unsqueeze(1), positions.unsqueeze(1), stream, windows.unsqueeze(1))
    return exponential(words(groups, *keys).flatten(1)[:, :size])


def race(
    weights: torch.Tensor, seeds: torch.Tensor, positions: torch.Tensor, stream: int, windows: torch.Tensor
) -> torch.Tensor:
    """Ids int64 [S] drawn in proportion to weights [S, V]: the least exponential / weight wins, the lowest of equals.

    The keys are int64 [S]. A row without a positive weight has no defined result.
    """
    return (exponentials(seeds, positions, stream, windows, weights.shape[1]) / weights).argmin(-1)


def exponential(word: torch.Tensor) -> torch.Tensor:
    """-log(1 - v) fp64 of a random word: its steps are finest near 0, where a race is won."""
    return -torch.log1p(-_fractions(word))


def words(
    groups: torch.Tensor, seeds: torch.Tensor, positions: torch.Tensor, stream: int, windows: torch.Tensor
) -> torch.Tensor:
    """The words int64 [..., 4] of ids 4 * group .. + 3, for int64 tensors that broadcast against one another."""
    group, seed, position, window = torch.broadcast_tensors(groups, seeds, positions, windows)
    counter = (group, position & _MASK, torch.full_like(position, stream), window & _MASK)
    return torch.stack(philox(counter, (seed & _MASK, (seed >> 32) & _MASK)), dim=-1)


def philox(counter: _Words, key: tuple[torch.Tensor, torch.Tensor]) -> _Words:
    """Philox4x32-10 (Salmon et al., SC11): 32-bit words held in int64 tensors, four in, four out."""
    c0, c1, c2, c3 = counter
    k0, k1 = key
    for _ in range(10):
        # The 64-bit product wraps to a negative int64; shifting and masking still gives its upper word.
        a, b = c0 * _MULTIPLIERS[0], c2 * _MULTIPLIERS[1]
        c0, c1, c2, c3 = ((b >> 32) & _MASK) ^ c1 ^ k0, b & _MASK, ((a >> 32) & _MASK) ^ c3 ^ k1, a & _MASK
        k0, k1 = (k0 + _KEY_STEPS[0]) & _MASK, (k1 + _KEY_STEPS[1]) & _MASK
    return c0, c1, c2, c3


def _fractions(word: torch.Tensor) -> torch.Tensor:
    return (word.double() + 0.5) * 2.0**-32
