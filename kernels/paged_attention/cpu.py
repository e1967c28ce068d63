"""Attention over pages on the native library, which reads them in place."""

import torch

from ..native import load, tensors
from . import reference

why_not = load.why_not
_paged_attention = load.function("pl_paged_attention")


def run(
    q: torch.Tensor,
    k_pages: torch.Tensor,
    v_pages: torch.Tensor,
    block_tables: torch.Tensor,
    query_starts: torch.Tensor,
    context_lens: torch.Tensor,
    scale: float,
    window: int = 0,
    soft_cap: float = 0.0,
    parents: torch.Tensor | None = None,
) -> torch.Tensor:
    """See ``ops.paged_attention``."""
    kind = tensors.PAGES.get(k_pages.dtype)
    if kind is None:
        return reference.run(
            q, k_pages, v_pages, block_tables, query_starts, context_lens, scale, window, soft_cap, parents
        )
    num_tokens, q_heads, size = q.shape
    stride, head, last = q.stride()
    if head != size or last != 1:
        q = q.contiguous()
        stride = q_heads * size
    num_blocks, block_size, k_heads, page_size = k_pages.shape
    if page_size != size or q_heads % k_heads or not k_pages.is_contiguous():
        raise tensors.misfit("paged_attention", "k_pages", k_pages, q)
    if v_pages.shape != k_pages.shape or v_pages.dtype is not k_pages.dtype or not v_pages.is_contiguous():
        raise tensors.misfit("paged_attention", "v_pages", v_pages, k_pages)
    num_rows, max_blocks = block_tables.shape
    if query_starts.numel() != num_rows + 1:
        raise tensors.misfit("paged_attention", "query_starts", query_starts, block_tables)
    if context_lens.numel() != num_rows:
        raise tensors.misfit("paged_attention", "context_lens", context_lens, block_tables)
    if parents is not None and parents.numel() != num_tokens:
        raise tensors.misfit("paged_attention", "parents", parents, q)
    out = torch.empty(num_tokens, q_heads, size)
    bad = _paged_attention(
        tensors.fp32(q), k_pages.data_ptr(), v_pages.data_ptr(), tensors.int32(block_tables),
        tensors.int32(query_starts), tensors.int32(context_lens),
        None if parents is None else tensors.int32(parents), out.data_ptr(),
        num_tokens, num_rows, q_heads, k_heads, size, stride, block_size, num_blocks, max_blocks,
        window, kind, scale, soft_cap,
    )  # fmt: skip
    if bad:
        raise IndexError(
            f"paged_attention: row {bad - 1} has impossible query_starts, context_lens, block_tables or parents "
            f"({num_tokens} tokens, {num_blocks} blocks of {block_size}, at most {max_blocks} a row)"
        )
    return out
