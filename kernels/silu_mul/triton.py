"""The gate of a SwiGLU layer, element by element."""

# Triton's own types say nothing true of what a kernel is called with.
# pyright: reportCallIssue=false, reportArgumentType=false, reportGeneralTypeIssues=false
# pyright: reportAttributeAccessIssue=false, reportOperatorIssue=false

import torch
import triton
import triton.language as tl

from ..triton_device import why_not as why_not

_BLOCK = 1024


@triton.jit
def _gate(x, out, size, BLOCK: tl.constexpr):
    token = tl.program_id(0).to(tl.int64)
    i = tl.program_id(1) * BLOCK + tl.arange(0, BLOCK)
    gate = tl.load(x + token * 2 * size + i, mask=i < size, other=0.0)
    up = tl.load(x + token * 2 * size + size + i, mask=i < size, other=0.0).to(tl.float32)
    wide = gate.to(tl.float32)
    tl.store(out + token * size + i, (wide / (1.0 + tl.exp(-wide)) * up).to(gate.dtype), mask=i < size)


def run(x: torch.Tensor) -> torch.Tensor:
    """See ``ops.silu_mul``."""
    x = x.contiguous()
    num_tokens, width = x.shape
    out = x.new_empty(num_tokens, width // 2)
    if num_tokens:
        _gate[(num_tokens, triton.cdiv(width // 2, _BLOCK))](x, out, width // 2, _BLOCK)
    return out
