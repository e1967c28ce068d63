"""Rotary embedding: one program a token, for all query and key heads."""

# Triton's own types say nothing true of what a kernel is called with.
# pyright: reportCallIssue=false, reportArgumentType=false, reportGeneralTypeIssues=false
# pyright: reportAttributeAccessIssue=false, reportOperatorIssue=false

import torch
import triton
import triton.language as tl

from ..triton_device import power_of_two
from ..triton_device import why_not as why_not


@triton.jit
def _turn(x, token, stride, head_stride, heads, cos, sin, HEADS: tl.constexpr, HALF: tl.constexpr, half):
    head, i = tl.arange(0, HEADS)[:, None], tl.arange(0, HALF)[None, :]
    at = x + token * stride + head * head_stride + i
    inside = (head < heads) & (i < half)
    a = tl.load(at, mask=inside, other=0.0)
    b = tl.load(at + half, mask=inside, other=0.0)
    first, second = a.to(tl.float32), b.to(tl.float32)
    tl.store(at, (first * cos - second * sin).to(a.dtype), mask=inside)
    tl.store(at + half, (second * cos + first * sin).to(a.dtype), mask=inside)


@triton.jit
def _rope(
    q, q_stride, q_head_stride, q_heads, k, k_stride, k_head_stride, k_heads, cos_sin, positions, half,
    Q_HEADS: tl.constexpr, K_HEADS: tl.constexpr, HALF: tl.constexpr,
):  # fmt: skip
    token = tl.program_id(0).to(tl.int64)
    i = tl.arange(0, HALF)
    angles = cos_sin + tl.load(positions + token).to(tl.int64) * (2 * half) + i
    cos = tl.load(angles, mask=i < half, other=0.0)[None, :]
    sin = tl.load(angles + half, mask=i < half, other=0.0)[None, :]
    _turn(q, token, q_stride, q_head_stride, q_heads, cos, sin, Q_HEADS, HALF, half)
    _turn(k, token, k_stride, k_head_stride, k_heads, cos, sin, K_HEADS, HALF, half)


def run(q: torch.Tensor, k: torch.Tensor, cos_sin: torch.Tensor, positions: torch.Tensor) -> None:
    """See ``ops.rope``."""
    num_tokens, q_heads, size = q.shape
    if num_tokens:
        _rope[(num_tokens,)](
            q, q.stride(0), q.stride(1), q_heads, k, k.stride(0), k.stride(1), k.shape[1], cos_sin, positions,
            size // 2, power_of_two(q_heads), power_of_two(k.shape[1]), power_of_two(size // 2),
        )  # fmt: skip
