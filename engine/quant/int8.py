"""Quant: int8 weights and activations, one scale per 32 inputs. The default on a CPU; row-invariant.

Within 1 % of the bf16 perplexity (tests/models/test_smollm2.py holds it to that). The arithmetic and the layout in
memory are those of ``kernels.linear_int8``.
"""

import torch

from ...kernels import ops

OP = "linear_int8"
"""The op that multiplies."""


def pack(weight: torch.Tensor) -> tuple[torch.Tensor, ...]:
    """Weight [N, K] of any float dtype to the opaque tensors of ``ops.pack_int8``."""
    return ops.pack_int8(weight.float().contiguous())


def linear(
    x: torch.Tensor, packed: tuple[torch.Tensor, ...], n: int, bias: torch.Tensor | None = None
) -> torch.Tensor:
    """x fp32 [T, K] -> fp32 [T, n]; see ``ops.linear_int8``."""
    return ops.linear_int8(x, packed, n, bias)
