"""Sums and exponentials whose bits depend on nothing but their operands; for the references.

Torch's own ``sum``, ``matmul`` and ``exp`` may take another path for another shape, a vector's tail or another number
of threads, and then differ in the last bit. Here only single IEEE operations, element by element, are used.
"""

import math

import torch

_LOG2_E = 1.0 / math.log(2.0)
_LN_2 = math.log(2.0)
_TAYLOR = [1.0 / math.factorial(i) for i in range(13, -1, -1)]
"""Highest power first; for |r| <= ln(2)/2 the first term left out is below 5e-18."""


def fold(x: torch.Tensor) -> torch.Tensor:
    """Sum over the last dimension (at least one element), adding neighbours in a binary tree.

    Trailing zeros do not change the bits, so a sum over a padded or longer context stays what it was.
    """
    while x.shape[-1] > 1:
        if x.shape[-1] % 2:
            x = torch.nn.functional.pad(x, (0, 1))
        x = x[..., 0::2] + x[..., 1::2]
    return x[..., 0]


def exp(x: torch.Tensor) -> torch.Tensor:
    """e to the power x for fp32 x, within one unit in the last place; overflow gives inf, -inf 0, NaN stays NaN."""
    wide = x.double().clamp(-708.0, 709.0)
    n = torch.round(wide * _LOG2_E)
    r = wide - n * _LN_2
    p = torch.full_like(r, _TAYLOR[0])
    for c in _TAYLOR[1:]:
        p = p * r + c
    power = ((n.nan_to_num(0.0).long() + 1023) << 52).view(torch.float64)
    return (p * power).float()
