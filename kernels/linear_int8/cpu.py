"""Int8 weights times int8 activations on the native library (kernels/native/linear_int8.cpp has the layout)."""

import torch

from ..gguf_blocks import whole_blocks
from ..native import load, tensors

GROUP, OUTPUTS = 32, 16

why_not = load.why_not
_pack = load.function("pl_pack_int8")
_pack_q8_0 = load.function("pl_pack_q8_0")
_linear = load.function("pl_linear_int8")


def pack(weight: torch.Tensor) -> tuple[torch.Tensor, ...]:
    """fp32 [N, K] -> codes + 128 uint8 [N/16, G, 8, 16, 4], scales fp16 [N/16, G, 16]. See ``ops.pack_int8``."""
    weight = tensors.dense(weight.float())
    n, k = weight.shape
    codes, scales = _empty(n, -(-k // GROUP))
    _pack(tensors.fp32(weight), codes.data_ptr(), scales.data_ptr(), n, k)
    return codes, scales


def pack_blocks(blocks: torch.Tensor) -> tuple[torch.Tensor, ...]:
    """uint8 [N, row bytes] of Q8_0 -> as ``pack``. See ``ops.pack_int8_blocks``."""
    parts = whole_blocks("pack_int8_blocks", blocks, "Q8_0", 2 + GROUP)
    n, groups, _ = parts.shape
    codes, scales = _empty(n, groups)
    _pack_q8_0(parts.data_ptr(), codes.data_ptr(), scales.data_ptr(), n, groups)
    return codes, scales


def _empty(n: int, groups: int) -> tuple[torch.Tensor, torch.Tensor]:
    blocks = -(-n // OUTPUTS)
    codes = torch.empty(blocks, groups, GROUP // 4, OUTPUTS, 4, dtype=torch.uint8)
    return codes, torch.empty(blocks, groups, OUTPUTS, dtype=torch.float16)


def run(x: torch.Tensor, packed: tuple[torch.Tensor, ...], n: int, bias: torch.Tensor | None = None) -> torch.Tensor:
    """See ``ops.linear_int8``."""
    codes, scales = packed
    x = tensors.dense(x)
    num_tokens, k = x.shape
    shape = codes.shape
    if len(shape) != 5 or shape[0] * OUTPUTS < n or shape[1] != -(-k // GROUP) or codes.dtype is not torch.uint8:
        raise tensors.misfit("linear_int8", "packed", codes, x)
    add = tensors.bias("linear_int8", bias, n, codes)
    out = torch.empty(num_tokens, n)
    _linear(tensors.fp32(x), codes.data_ptr(), scales.data_ptr(), add, out.data_ptr(), num_tokens, n, k)
    return out
