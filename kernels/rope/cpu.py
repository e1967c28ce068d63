"""Rotary embedding on the native library."""

import torch

from ..native import load, tensors
from . import reference

why_not = load.why_not
_rope = load.function("pl_rope")


def run(q: torch.Tensor, k: torch.Tensor, cos_sin: torch.Tensor, positions: torch.Tensor) -> None:
    """See ``ops.rope``."""
    num_tokens, q_heads, size = q.shape
    k_heads = k.shape[1]
    q_stride, q_head, q_last = q.stride()
    k_stride, k_head, k_last = k.stride()
    if q_head != size or k_head != size or q_last != 1 or k_last != 1:
        return reference.run(q, k, cos_sin, positions)
    if k.shape != (num_tokens, k_heads, size) or size % 2:
        raise tensors.misfit("rope", "k", k, q)
    if cos_sin.shape[1] != size or not cos_sin.is_contiguous():
        raise tensors.misfit("rope", "cos_sin", cos_sin, q)
    if positions.numel() != num_tokens:
        raise tensors.misfit("rope", "positions", positions, q)
    length = cos_sin.shape[0]
    bad = _rope(
        tensors.fp32(q), q_stride, q_heads, tensors.fp32(k), k_stride, k_heads,
        tensors.fp32(cos_sin), tensors.int32(positions), num_tokens, size, length,
    )  # fmt: skip
    if bad:
        raise IndexError(f"rope: position {positions[bad - 1]} of token {bad - 1} is outside 0..{length - 1}")
