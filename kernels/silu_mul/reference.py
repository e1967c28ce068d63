"""The gate of a SwiGLU layer in plain torch."""

import torch

from ..exact import exp


def run(x: torch.Tensor) -> torch.Tensor:
    """See ``ops.silu_mul``."""
    gate, up = x.float().chunk(2, dim=-1)
    return (gate / (1.0 + exp(-gate)) * up).to(x.dtype)
