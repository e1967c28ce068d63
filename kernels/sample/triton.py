"""Keyed Gumbel-max: the noise of some ids at a time is made where it is added, in fp64; nothing is stored.

Two launches: the best id of each chunk of the vocabulary, then the best of these. The lowest id wins ties in both.
"""

# Triton's own types say nothing true of what a kernel is called with.
# pyright: reportCallIssue=false, reportArgumentType=false, reportGeneralTypeIssues=false
# pyright: reportAttributeAccessIssue=false, reportOperatorIssue=false

import torch
import triton
import triton.language as tl

from ..triton_device import power_of_two
from ..triton_device import why_not as why_not

_GROUPS = 512
"""Philox counters of a program; each makes the noise of four ids."""


@triton.jit
def _words(group, position, seed_low, seed_high):
    """Philox4x32-10 with counter (group, position, 0, 0) (Salmon et al., SC11; kernels/noise.py)."""
    c0, c1 = group.to(tl.uint32), tl.zeros_like(group).to(tl.uint32) + position
    c2, c3 = tl.zeros_like(c0), tl.zeros_like(c0)
    k0, k1 = seed_low, seed_high
    for _ in tl.static_range(10):
        low0 = c0 * 0xD2511F53
        high0 = tl.umulhi(c0, tl.zeros_like(c0) + 0xD2511F53)
        low1 = c2 * 0xCD9E8D57
        high1 = tl.umulhi(c2, tl.zeros_like(c2) + 0xCD9E8D57)
        c0, c1, c2, c3 = high1 ^ c1 ^ k0, low1, high0 ^ c3 ^ k1, low0
        k0 = k0 + 0x9E3779B9
        k1 = k1 + 0xBB67AE85
    return c0, c1, c2, c3


@triton.jit
def _gumbel(word):
    """1 - v is a multiple of 2**-33 and so exact in fp64: its logarithm is log1p's."""
    v = (word.to(tl.float64) + 0.5) * 2.3283064365386963e-10
    return -tl.log(-tl.log(1.0 - v))


@triton.jit
def _best_of_chunk(
    logits, temperature, seeds, positions, scores, ids, size, num_chunks, GROUPS: tl.constexpr
):
    row, chunk = tl.program_id(0).to(tl.int64), tl.program_id(1)
    group = chunk * GROUPS + tl.arange(0, GROUPS)
    seed, position = tl.load(seeds + row), tl.load(positions + row)
    is_drawn = tl.load(temperature + row) > 0
    low, high = (seed & 0xFFFFFFFF).to(tl.uint32), ((seed >> 32) & 0xFFFFFFFF).to(tl.uint32)
    words = _words(group, (position & 0xFFFFFFFF).to(tl.uint32), low, high)
    best = tl.full((), float("-inf"), tl.float64)
    best_id = tl.full((), 0x7FFFFFFF, tl.int32)
    for w in tl.static_range(4):
        at = group * 4 + w
        score = tl.load(logits + row * size + at, mask=at < size, other=float("-inf")).to(tl.float64)
        if is_drawn:
            score += _gumbel(words[w])
        top = tl.max(score, 0)
        top_id = tl.min(tl.where((score == top) & (at < size), at, 0x7FFFFFFF), 0)
        is_better = (top > best) | ((top == best) & (top_id < best_id))
        best = tl.where(is_better, top, best)
        best_id = tl.where(is_better, top_id, best_id)
    tl.store(scores + row * num_chunks + chunk, best)
    tl.store(ids + row * num_chunks + chunk, best_id)


@triton.jit
def _best_of_row(scores, ids, out, num_chunks, CHUNKS: tl.constexpr):
    row, i = tl.program_id(0).to(tl.int64), tl.arange(0, CHUNKS)
    score = tl.load(scores + row * num_chunks + i, mask=i < num_chunks, other=float("-inf"))
    at = tl.load(ids + row * num_chunks + i, mask=i < num_chunks, other=0x7FFFFFFF)
    tl.store(out + row, tl.min(tl.where(score == tl.max(score, 0), at, 0x7FFFFFFF), 0).to(tl.int64))


def run(
    logits: torch.Tensor, temperature: torch.Tensor, seeds: torch.Tensor, positions: torch.Tensor
) -> torch.Tensor:
    """See ``ops.sample``."""
    logits = logits.contiguous()
    num_rows, size = logits.shape
    out = torch.empty(num_rows, dtype=torch.int64, device=logits.device)
    if num_rows:
        num_chunks = triton.cdiv(size, 4 * _GROUPS)
        scores = torch.empty(num_rows, num_chunks, dtype=torch.float64, device=logits.device)
        ids = torch.empty(num_rows, num_chunks, dtype=torch.int32, device=logits.device)
        _best_of_chunk[(num_rows, num_chunks)](
            logits, temperature, seeds, positions, scores, ids, size, num_chunks, _GROUPS
        )  # fmt: skip
        _best_of_row[(num_rows,)](scores, ids, out, num_chunks, power_of_two(num_chunks))
    return out
