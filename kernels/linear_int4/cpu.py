"""4-bit weights times int8 activations on the native library (kernels/native/linear_int4.cpp has the layout)."""

import torch

from ..gguf_int4 import GROUP, KINDS, scales_and_least, split
from ..native import load, tensors

OUTPUTS, GROUP_BYTES = 16, 320

why_not = load.why_not
_pack = load.function("pl_pack_int4")
_linear = load.function("pl_linear_int4")


def pack(blocks: torch.Tensor, kind: str) -> tuple[torch.Tensor, ...]:
    """uint8 [N, row bytes] -> codes, scales and least values together, uint8 [N/16, G, 320]. See ``ops.pack_int4``."""
    parts = split(blocks, kind)
    scales, least = (part.contiguous() for part in scales_and_least(parts, kind))
    n, groups = scales.shape
    packed = torch.empty(-(-n // OUTPUTS), groups, GROUP_BYTES, dtype=torch.uint8)
    pointers = (tensor.data_ptr() for tensor in (parts, scales, least, packed))
    _pack(*pointers, KINDS[kind].number, n, groups)
    return (packed,)


def run(x: torch.Tensor, packed: tuple[torch.Tensor, ...], n: int, bias: torch.Tensor | None = None) -> torch.Tensor:
    """See ``ops.linear_int4``."""
    (weights,) = packed
    x = tensors.dense(x)
    num_tokens, k = x.shape
    shape = weights.shape
    if len(shape) != 3 or shape[0] * OUTPUTS < n or shape[1] != -(-k // GROUP) or shape[2] != GROUP_BYTES:
        raise tensors.misfit("linear_int4", "packed", weights, x)
    add = 0
    if bias is not None:
        if bias.numel() != n:
            raise tensors.misfit("linear_int4", "bias", bias, weights)
        add = tensors.fp32(bias)
    out = torch.empty(num_tokens, n)
    _linear(tensors.fp32(x), weights.data_ptr(), add, out.data_ptr(), num_tokens, n, k)
    return out
