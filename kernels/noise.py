"""Keyed randomness: every number is a function of seed, position, stream, window and token id, and of nothing else.

Philox4x32-10 with the seed as its key and (id // 4, position, stream, window) as its counter. There is no generator
whose state could depend on the batch. One stream serves one use: sharing one between drafting, accepting and the
residual biases the output, and so does ``block`` verification without the window.

The target's own draws use stream 0 and window 0 for all ids. A draw of another stream is the same draw under a seed of
its own (``keys``), so that one op, ``sample``, serves them all.
"""

import torch

from .native import load, tensors

TARGET, ACCEPT, RESIDUAL, DRAFT, SIBLING = range(5)
"""Streams: the target's own draws (shared with a drafter only under the coupled rule), the accept tests, the next token
behind a refusal, drafts drawn from q, and SIBLING + j the test of the j-th child of a tree's node. The window of all
but TARGET is the number of committed tokens when the step (or the draft) was made."""

_MASK = 0xFFFFFFFF
_MULTIPLIERS = (0xD2511F53, 0xCD9E8D57)
_KEY_STEPS = (0x9E3779B9, 0xBB67AE85)

_philox = load.function("pl_philox")

_Words = tuple[torch.Tensor, torch.Tensor, torch.Tensor, torch.Tensor]


def keys(seeds: torch.Tensor, positions: torch.Tensor, stream: int, windows: torch.Tensor) -> torch.Tensor:
    """The seeds int64 [S] under which ``sample`` draws for a stream but TARGET: words 0 and 1, low half first."""
    low, high, _, _ = _words(torch.zeros_like(positions), seeds, positions, stream, windows)
    return (high << 32) | low


def uniforms(seeds: torch.Tensor, positions: torch.Tensor, stream: int, windows: torch.Tensor) -> torch.Tensor:
    """One number of (0, 1) for each key, fp64 [S], in steps of 2**-32: word 0. All arguments int64 [S]."""
    return _fractions(_words(torch.zeros_like(positions), seeds, positions, stream, windows)[0])


def exponentials(seeds: torch.Tensor, positions: torch.Tensor, size: int) -> torch.Tensor:
    """The exponential variates fp64 [S, size] of the target's own draws; Gumbel noise is their negative logarithm.

    -log(1 - v) has its finest steps near 0, where a draw is won.
    """
    groups = torch.arange(-(-size // 4), device=seeds.device)
    words = _words(groups, seeds.unsqueeze(1), positions.unsqueeze(1), TARGET, torch.zeros_like(groups))
    return -torch.log1p(-_fractions(torch.stack(words, dim=-1).flatten(1)[:, :size]))


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


def _words(
    groups: torch.Tensor, seeds: torch.Tensor, positions: torch.Tensor, stream: int, windows: torch.Tensor
) -> _Words:
    """The four words of each group of ids, for int64 tensors that broadcast against one another.

    Natively the same bits where a handful is asked for, since a hundred torch calls would outlast the step's draws.
    """
    if groups.shape == seeds.shape == positions.shape == windows.shape and load.why_not(seeds.device.type) is None:
        given = [tensors.dense(x) for x in (groups, seeds, positions, windows)]
        out = torch.empty(4, *seeds.shape, dtype=torch.int64)
        _philox(*(tensors.int64(x) for x in given), out.data_ptr(), seeds.numel(), stream)
        return out[0], out[1], out[2], out[3]
    group, seed, position, window = torch.broadcast_tensors(groups, seeds, positions, windows)
    counter = (group, position & _MASK, torch.full_like(position, stream), window & _MASK)
    return philox(counter, (seed & _MASK, (seed >> 32) & _MASK))


def _fractions(word: torch.Tensor) -> torch.Tensor:
    return (word.double() + 0.5) * 2.0**-32
