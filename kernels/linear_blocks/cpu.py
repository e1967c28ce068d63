"""Weights in a file's blocks times int8 activations on the native library (kernels/native/linear_blocks.cpp)."""

import torch

from ..gguf_blocks import GROUP, KINDS, numbers, split
from ..native import load, tensors

OUTPUTS = 16
BITS = {64 * (bits + 1): bits for bits in (4, 5, 6)}
"""Bytes of a group of sixteen outputs -> bits of a code."""

why_not = load.why_not
_pack = load.function("pl_pack_blocks")
_linear = load.function("pl_linear_blocks")


def pack(blocks: torch.Tensor, kind: str) -> tuple[torch.Tensor, ...]:
    """uint8 [N, row bytes] -> codes and numbers together, uint8 [N/16, G, 64 * (bits + 1)]. See ``ops.pack_blocks``."""
    parts = split(blocks, kind)
    first, second = (part.contiguous() for part in numbers(parts, kind))
    n, groups = first.shape
    packed = torch.empty(-(-n // OUTPUTS), groups, 64 * (KINDS[kind].bits + 1), dtype=torch.uint8)
    pointers = (tensor.data_ptr() for tensor in (parts, first, second, packed))
    _pack(*pointers, KINDS[kind].number, n, groups)
    return (packed,)


def run(x: torch.Tensor, packed: tuple[torch.Tensor, ...], n: int, bias: torch.Tensor | None = None) -> torch.Tensor:
    """See ``ops.linear_blocks``."""
    (weights,) = packed
    x = tensors.dense(x)
    num_tokens, k = x.shape
    shape = weights.shape
    if len(shape) != 3 or shape[0] * OUTPUTS < n or shape[1] != -(-k // GROUP) or shape[2] not in BITS:
        raise tensors.misfit("linear_blocks", "packed", weights, x)
    add = tensors.bias("linear_blocks", bias, n, weights)
    out = torch.empty(num_tokens, n)
    _linear(tensors.fp32(x), weights.data_ptr(), add, out.data_ptr(), num_tokens, n, k, BITS[shape[2]])
    return out
