"""Quant: no quantisation. The weight keeps the dtype it is given (fp32, bf16 or fp16) and torch multiplies.

Not row-invariant on a CPU: torch's matrix products sum in another order for another number of rows, so a request's last
bits may depend on what else is in the batch. ``int8`` is the default there because it is row-invariant.
"""

import torch


def pack(weight: torch.Tensor) -> tuple[torch.Tensor, ...]:
    """A copy of weight [N, K]: what comes in may lie in a mapped file, which can go away."""
    return (weight.clone(memory_format=torch.contiguous_format),)


def linear(
    x: torch.Tensor, packed: tuple[torch.Tensor, ...], n: int, bias: torch.Tensor | None = None
) -> torch.Tensor:
    """x [T, K] -> [T, n] in x's dtype; multiplied in the weight's dtype, the bias added in x's."""
    (weight,) = packed
    y = torch.nn.functional.linear(x.to(weight.dtype), weight).to(x.dtype)
    return y if bias is None else y.add_(bias)
