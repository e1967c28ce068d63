"""The gate of a SwiGLU layer on the native library."""

import torch

from ..native import load, tensors

why_not = load.why_not
_silu_mul = load.function("pl_silu_mul")


def run(x: torch.Tensor) -> torch.Tensor:
    """See ``ops.silu_mul``."""
    x = tensors.dense(x)
    num_tokens, width = x.shape
    if width % 2:
        raise tensors.misfit("silu_mul", "x", x, x)
    out = torch.empty(num_tokens, width // 2)
    _silu_mul(tensors.fp32(x), out.data_ptr(), num_tokens, width // 2)
    return out
