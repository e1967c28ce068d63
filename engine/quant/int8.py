"""Quant: int8 weights and activations, one scale per 32 inputs. On a CPU the default for all but smaller blocks.

Row-invariant. Within 1 % of the bf16 perplexity (tests/models/test_smollm2.py holds it to that). The arithmetic and the
layout in memory are those of ``kernels.linear_int8``.
"""

import torch

from ...kernels import ops

OP = "linear_int8"
"""The op that multiplies."""

KINDS = {"Q8_0": 34}
"""Kinds of a GGUF file's blocks that are taken as they are -> bytes of one."""


def pack(weight: torch.Tensor) -> tuple[torch.Tensor, ...]:
    """Weight [N, K] of any float dtype to the opaque tensors of ``ops.pack_int8``."""
    return ops.pack_int8(weight.float().contiguous())


def pack_blocks(blocks: torch.Tensor, kind: str) -> tuple[torch.Tensor, ...]:
    """Rows of GGUF blocks, uint8 [N, row bytes], of one of ``KINDS``; see ``ops.pack_int8_blocks``."""
    return ops.pack_int8_blocks(blocks)


def linear(
    x: torch.Tensor, packed: tuple[torch.Tensor, ...], n: int, bias: torch.Tensor | None = None
) -> torch.Tensor:
    """x fp32 [T, K] -> fp32 [T, n]; see ``ops.linear_int8``."""
    return ops.linear_int8(x, packed, n, bias)
