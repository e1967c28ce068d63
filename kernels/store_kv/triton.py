"""Write keys and values into pages: one program a token."""

# Triton's own types say nothing true of what a kernel is called with.
# pyright: reportCallIssue=false, reportArgumentType=false, reportGeneralTypeIssues=false
# pyright: reportAttributeAccessIssue=false, reportOperatorIssue=false

import torch
import triton
import triton.language as tl

from ..triton_device import power_of_two
from ..triton_device import why_not as why_not


@triton.jit
def _store(
    k, k_stride, k_head_stride, v, v_stride, v_head_stride, k_pages, v_pages, slots, num_slots, size, row_size,
    ROW: tl.constexpr,
):  # fmt: skip
    token = tl.program_id(0).to(tl.int64)
    slot = tl.load(slots + token).to(tl.int64)
    i = tl.arange(0, ROW)
    inside = i < tl.where((slot >= 0) & (slot < num_slots), row_size, 0)  # a wrong slot must not write elsewhere
    head, d = i // size, i % size
    to = slot * row_size + i
    key = tl.load(k + token * k_stride + head * k_head_stride + d, mask=i < row_size, other=0.0)
    tl.store(k_pages + to, key.to(k_pages.dtype.element_ty), mask=inside)
    value = tl.load(v + token * v_stride + head * v_head_stride + d, mask=i < row_size, other=0.0)
    tl.store(v_pages + to, value.to(v_pages.dtype.element_ty), mask=inside)


def run(k: torch.Tensor, v: torch.Tensor, k_pages: torch.Tensor, v_pages: torch.Tensor, slots: torch.Tensor) -> None:
    """See ``ops.store_kv``."""
    num_tokens, heads, size = k.shape
    if num_tokens:
        num_slots = k_pages.shape[0] * k_pages.shape[1]
        _store[(num_tokens,)](
            k, k.stride(0), k.stride(1), v, v.stride(0), v.stride(1), k_pages, v_pages, slots, num_slots, size,
            heads * size, power_of_two(heads * size),
        )  # fmt: skip
