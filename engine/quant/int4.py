"""Quant: 4-bit weights with a scale and a least value per 32 inputs, int8 activations. Row-invariant.

Weights that a file already holds in 4 bits are taken as they are: nothing is rounded a second time, and only the
activations are quantised. Others lose more than the default allows itself, which a draft model may: it needs speed.
The arithmetic and the layout in memory are those of ``kernels.linear_int4``.
"""

import torch

from ...kernels import ops
from ...kernels.gguf_int4 import GROUP
from ...kernels.gguf_int4 import KINDS as KINDS

OP = "linear_int4"
"""The op that multiplies."""


def pack(weight: torch.Tensor) -> tuple[torch.Tensor, ...]:
    """Weight [N, K] of any float dtype, each group rounded to sixteen values from its least to its greatest."""
    groups = torch.nn.functional.pad(weight.float(), (0, -weight.shape[1] % GROUP)).unflatten(1, (-1, GROUP))
    least, most = groups.amin(-1, keepdim=True).half(), groups.amax(-1, keepdim=True)
    scales = ((most - least.float()) / 15).half()
    steps = torch.where(scales == 0, torch.inf, scales.float())
    codes = torch.round((groups - least.float()) / steps).clamp(0, 15).to(torch.uint8)
    low, high = codes.chunk(2, -1)
    blocks = torch.cat([scales.view(torch.uint8), least.view(torch.uint8), low | high << 4], -1)
    return pack_blocks(blocks.flatten(1), "Q4_1")


def pack_blocks(blocks: torch.Tensor, kind: str) -> tuple[torch.Tensor, ...]:
    """Rows of GGUF blocks, uint8 [N, row bytes], of one of ``KINDS``; see ``ops.pack_int4``."""
    return ops.pack_int4(blocks, kind)


def linear(
    x: torch.Tensor, packed: tuple[torch.Tensor, ...], n: int, bias: torch.Tensor | None = None
) -> torch.Tensor:
    """x fp32 [T, K] -> fp32 [T, n]; see ``ops.linear_int4``."""
    return ops.linear_int4(x, packed, n, bias)
