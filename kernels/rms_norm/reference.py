"""Root-mean-square norm in plain torch."""

import torch

from ..exact import fold


def run(x: torch.Tensor, weight: torch.Tensor, eps: float, residual: torch.Tensor | None = None) -> torch.Tensor:
    """See ``ops.rms_norm``."""
    if residual is not None:
        x = residual.add_(x)
    wide = x.float()
    mean = fold(wide * wide) / x.shape[-1]
    return (wide / torch.sqrt(mean + eps).unsqueeze(-1) * weight).to(x.dtype)
