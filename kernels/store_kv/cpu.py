"""Write keys and values into pages through the native library."""

import torch

from ..native import load, tensors
from . import reference

why_not = load.why_not
_store_kv = load.function("pl_store_kv")


def run(k: torch.Tensor, v: torch.Tensor, k_pages: torch.Tensor, v_pages: torch.Tensor, slots: torch.Tensor) -> None:
    """See ``ops.store_kv``."""
    num_tokens, heads, size = k.shape
    kind = tensors.PAGES.get(k_pages.dtype)
    k_stride, k_head, k_last = k.stride()
    v_stride, v_head, v_last = v.stride()
    if kind is None or k_head != size or v_head != size or k_last != 1 or v_last != 1:
        return reference.run(k, v, k_pages, v_pages, slots)
    num_blocks, block_size, page_heads, page_size = k_pages.shape
    if v.shape != k.shape:
        raise tensors.misfit("store_kv", "v", v, k)
    if page_heads != heads or page_size != size or not k_pages.is_contiguous():
        raise tensors.misfit("store_kv", "k_pages", k_pages, k)
    if v_pages.shape != k_pages.shape or v_pages.dtype is not k_pages.dtype or not v_pages.is_contiguous():
        raise tensors.misfit("store_kv", "v_pages", v_pages, k_pages)
    if slots.numel() != num_tokens:
        raise tensors.misfit("store_kv", "slots", slots, k)
    num_slots = num_blocks * block_size
    bad = _store_kv(
        tensors.fp32(k), tensors.fp32(v), k_pages.data_ptr(), v_pages.data_ptr(), tensors.int32(slots),
        num_tokens, k_stride, v_stride, heads * size, num_slots, kind,
    )  # fmt: skip
    if bad:
        raise IndexError(f"store_kv: slot {slots[bad - 1]} of token {bad - 1} is outside 0..{num_slots - 1}")
