"""Root-mean-square norm: one program a token, sums in fp32."""

# Triton's own types say nothing true of what a kernel is called with.
# pyright: reportCallIssue=false, reportArgumentType=false, reportGeneralTypeIssues=false
# pyright: reportAttributeAccessIssue=false, reportOperatorIssue=false

import torch
import triton
import triton.language as tl

from ..triton_device import power_of_two
from ..triton_device import why_not as why_not


@triton.jit
def _norm(x, weight, residual, out, size, eps, HAS_RESIDUAL: tl.constexpr, BLOCK: tl.constexpr):
    at = tl.program_id(0).to(tl.int64) * size + tl.arange(0, BLOCK)
    inside = tl.arange(0, BLOCK) < size
    row = tl.load(x + at, mask=inside, other=0.0)
    if HAS_RESIDUAL:
        row = (row.to(tl.float32) + tl.load(residual + at, mask=inside, other=0.0).to(tl.float32)).to(row.dtype)
        tl.store(residual + at, row, mask=inside)
    wide = row.to(tl.float32)
    scale = 1.0 / tl.sqrt(tl.sum(wide * wide, 0) / size + eps)
    gain = tl.load(weight + tl.arange(0, BLOCK), mask=inside, other=0.0).to(tl.float32)
    tl.store(out + at, (wide * scale * gain).to(row.dtype), mask=inside)


def run(x: torch.Tensor, weight: torch.Tensor, eps: float, residual: torch.Tensor | None = None) -> torch.Tensor:
    """See ``ops.rms_norm``."""
    x = x.contiguous()
    out = torch.empty_like(x)
    num_tokens, size = x.shape
    if num_tokens:
        block = power_of_two(size)
        into = x if residual is None else residual
        _norm[(num_tokens,)](
            x, weight, into, out, size, eps, residual is not None, block, num_warps=8 if block > 2048 else 4
        )  # fmt: skip
    return out
