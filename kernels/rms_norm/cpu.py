"""Root-mean-square norm on the native library."""

import torch

from ..native import load, tensors

why_not = load.why_not
_rms_norm = load.function("pl_rms_norm")


def run(x: torch.Tensor, weight: torch.Tensor, eps: float, residual: torch.Tensor | None = None) -> torch.Tensor:
    """See ``ops.rms_norm``."""
    num_tokens, size = x.shape
    x = tensors.dense(x)
    out = torch.empty_like(x)
    into = 0
    if residual is not None:
        if residual.shape != x.shape or not residual.is_contiguous():
            raise tensors.misfit("rms_norm", "residual", residual, x)
        into = tensors.fp32(residual)
    if weight.numel() != size:
        raise tensors.misfit("rms_norm", "weight", weight, x)
    _rms_norm(tensors.fp32(x), tensors.fp32(weight), into, out.data_ptr(), num_tokens, size, eps)
    return out
