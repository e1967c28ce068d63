"""Quant: weights of 4 to 6 bits as a GGUF file has them, int8 activations. Row-invariant.

Nothing is rounded a second time: only the activations are quantised. Weights that are not in such blocks are rounded to
four bits, and lose more than the default allows itself, which a draft model may: it needs speed. The arithmetic and the
layout in memory are those of ``kernels.linear_blocks``.
"""

import torch

from ...kernels import gguf_blocks, ops
from ...kernels.gguf_blocks import GROUP

OP = "linear_blocks"
"""The op that multiplies."""

KINDS = {kind: known.num_bytes for kind, known in gguf_blocks.KINDS.items()}
"""Kinds of blocks that are taken as they are -> bytes of one."""


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
    """Rows of GGUF blocks, uint8 [N, row bytes], of one of ``KINDS``; see ``ops.pack_blocks``."""
    return ops.pack_blocks(blocks, kind)


def linear(
    x: torch.Tensor, packed: tuple[torch.Tensor, ...], n: int, bias: torch.Tensor | None = None
) -> torch.Tensor:
    """x fp32 [T, K] -> fp32 [T, n]; see ``ops.linear_blocks``."""
    return ops.linear_blocks(x, packed, n, bias)
