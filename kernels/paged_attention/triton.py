"""Paged attention with an online softmax; pages are read in place, through the block table.

A program takes a few tokens of one row and all query heads of one key head, so that decode, verify and prefill rows are
one kernel. Which row that is it finds itself, by bisection over ``query_starts``: the host need not know how tokens are
spread. Where tokens are few and contexts long, each context is cut at fixed multiples of ``_SPLIT`` slots over several
programs and a second launch joins the parts.
"""

# Triton's own types say nothing true of what a kernel is called with.
# pyright: reportCallIssue=false, reportArgumentType=false, reportGeneralTypeIssues=false
# pyright: reportAttributeAccessIssue=false, reportOperatorIssue=false, reportPossiblyUnboundVariable=false

import torch
import triton
import triton.language as tl

from ..triton_device import power_of_two
from ..triton_device import why_not as why_not
from . import reference

_SPLIT = 512
"""Slots of a program where contexts are cut."""
_FEW_TOKENS = 64
"""With no more, contexts are cut: whole ones would not fill a GPU."""
_MOST_NODES = 63
"""Tokens of a row that may be a tree; a longer row is a chain."""


@triton.jit
def _row_of(query_starts, program, num_rows, TOKENS: tl.constexpr):
    """The row of a program: row r begins with program query_starts[r] // TOKENS + r."""
    low, high = 0, num_rows
    while low < high:
        middle = (low + high) // 2
        if tl.load(query_starts + middle) // TOKENS + middle <= program:
            low = middle + 1
        else:
            high = middle
    return low - 1


@triton.jit
def _ancestors(parents, begin, own, LEVELS: tl.constexpr):
    """For tokens ``own`` of a row, counted from its first: a bit for each ancestor and the token itself."""
    one = tl.full(own.shape, 1, tl.int64)
    seen = one << own.to(tl.int64)
    at = own
    for _ in range(LEVELS):
        parent = tl.load(parents + begin + at, mask=at > 0, other=begin) - begin
        at = tl.where(at > 0, parent, 0)
        seen = seen | (one << at.to(tl.int64))
    return seen


@triton.jit
def _attend(
    q, q_stride, q_head_stride, k_pages, v_pages, block_tables, query_starts, context_lens, parents, out, tops, sums,
    num_rows, num_tokens, q_heads, k_heads, size, block_size, max_blocks, scale, window, soft_cap,
    GROUP: tl.constexpr, GROUP_PAD: tl.constexpr, TOKENS: tl.constexpr, SLOTS: tl.constexpr, SIZE: tl.constexpr,
    SPLIT: tl.constexpr, HAS_PARENTS: tl.constexpr, MOST_NODES: tl.constexpr, IS_WIDE: tl.constexpr,
):  # fmt: skip
    program, head, part = tl.program_id(0), tl.program_id(1), tl.program_id(2)
    row = _row_of(query_starts, program, num_rows, TOKENS)
    begin, end = tl.load(query_starts + row), tl.load(query_starts + row + 1)
    first = (program - (begin // TOKENS + row)) * TOKENS  # counted from the row's first token
    num = end - begin
    if first >= num:
        return
    length = tl.load(context_lens + row)

    lane = tl.arange(0, TOKENS * GROUP_PAD)
    own, q_head = first + lane // GROUP_PAD, head * GROUP + lane % GROUP_PAD
    is_there = (own < num) & (lane % GROUP_PAD < GROUP)
    d = tl.arange(0, SIZE)
    at = (begin + own).to(tl.int64)
    queries = tl.load(
        q + at[:, None] * q_stride + q_head[:, None] * q_head_stride + d[None, :],
        mask=is_there[:, None] & (d[None, :] < size),
        other=0.0,
    )
    queries = queries.to(tl.float32) if IS_WIDE else queries.to(k_pages.dtype.element_ty)
    position = length - num + own
    if HAS_PARENTS:
        seen = _ancestors(parents, begin, tl.where(own < num, own, 0), MOST_NODES)

    stop = tl.minimum(length - num + tl.minimum(first + TOKENS, num), length)  # behind the last slot that is seen
    start = part * SPLIT if SPLIT > 0 else 0
    if SPLIT > 0:
        stop = tl.minimum(stop, start + SPLIT)
    if window > 0:  # tiles that nobody sees are left out; they begin at the same slots whatever the window
        start = tl.maximum(start, (length - num + first - window + 1) // SLOTS * SLOTS)
    top = tl.full((TOKENS * GROUP_PAD,), float("-inf"), tl.float32)
    total = tl.zeros((TOKENS * GROUP_PAD,), tl.float32)
    mixed = tl.zeros((TOKENS * GROUP_PAD, SIZE), tl.float32)
    for base in range(start, stop, SLOTS):
        slot = base + tl.arange(0, SLOTS)
        block = tl.load(block_tables + row * max_blocks + slot // block_size, mask=slot < stop, other=0).to(tl.int64)
        where = ((block * block_size + slot % block_size) * k_heads + head) * size
        inside = (slot < stop)[:, None] & (d[None, :] < size)
        key = tl.load(k_pages + where[:, None] + d[None, :], mask=inside, other=0.0)
        value = tl.load(v_pages + where[:, None] + d[None, :], mask=inside, other=0.0)
        if IS_WIDE:
            key, value = key.to(tl.float32), value.to(tl.float32)
        score = tl.dot(queries, tl.trans(key), input_precision="ieee") * scale
        if soft_cap > 0:
            score = soft_cap * (1.0 - 2.0 / (tl.exp(score * (2.0 / soft_cap)) + 1.0))
        is_seen = (slot[None, :] <= position[:, None]) & (slot < stop)[None, :] & is_there[:, None]
        if window > 0:
            is_seen = is_seen & (slot[None, :] > position[:, None] - window)
        if HAS_PARENTS:
            node = slot - (length - num)
            is_node = (node >= 0) & (num <= MOST_NODES)
            bit = (seen[:, None] >> tl.where(is_node, node, 0).to(tl.int64)[None, :]) & 1
            is_seen = is_seen & ((bit == 1) | ~is_node[None, :])
        score = tl.where(is_seen, score, float("-inf"))
        higher = tl.maximum(top, tl.max(score, 1))
        safe = tl.where(higher == float("-inf"), 0.0, higher)
        weight = tl.exp(score - safe[:, None])
        shrink = tl.exp(top - safe)
        total = total * shrink + tl.sum(weight, 1)
        mixed = mixed * shrink[:, None] + tl.dot(weight.to(value.dtype), value, input_precision="ieee")
        top = higher
    result = (part.to(tl.int64) * num_tokens + at) * q_heads + q_head
    if SPLIT > 0:
        tl.store(tops + result, top, mask=is_there)
        tl.store(sums + result, total, mask=is_there)
    else:
        mixed = mixed / total[:, None]
    tl.store(out + result[:, None] * size + d[None, :], mixed, mask=is_there[:, None] & (d[None, :] < size))


@triton.jit
def _join(parts, tops, sums, out, num_vectors, num_parts, size, SIZE: tl.constexpr, PARTS: tl.constexpr):
    vector = tl.program_id(0).to(tl.int64)
    part, d = tl.arange(0, PARTS), tl.arange(0, SIZE)
    at = part * num_vectors + vector
    top = tl.load(tops + at, mask=part < num_parts, other=float("-inf"))
    weight = tl.exp(top - tl.max(top, 0))
    total = tl.sum(weight * tl.load(sums + at, mask=part < num_parts, other=0.0), 0)
    inside = (part < num_parts)[:, None] & (d < size)[None, :]
    mixed = tl.load(parts + at[:, None] * size + d[None, :], mask=inside, other=0.0)
    tl.store(out + vector * size + d, tl.sum(mixed * weight[:, None], 0) / total, mask=d < size)


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
    """See ``ops.paged_attention``. Trees under a window are left to the reference: their windows follow paths."""
    if parents is not None and window > 0:
        return reference.run(
            q, k_pages, v_pages, block_tables, query_starts, context_lens, scale, window, soft_cap, parents
        )
    num_tokens, q_heads, size = q.shape
    num_rows, max_blocks = block_tables.shape
    block_size, k_heads = k_pages.shape[1:3]
    out = torch.empty(num_tokens, q_heads, size, dtype=torch.float32, device=q.device)
    if not num_tokens:
        return out
    group = q_heads // k_heads
    group_pad = power_of_two(group)
    tokens = max(1, (16 if num_tokens <= 2 * num_rows else 64) // group_pad)
    while tokens * group_pad < 16:  # the least that a matrix product takes
        tokens *= 2
    longest = max_blocks * block_size
    num_parts = -(-longest // _SPLIT) if num_tokens <= _FEW_TOKENS and longest > _SPLIT else 0
    parts, tops, sums = out, out, out
    if num_parts:
        parts = out.new_empty(num_parts, num_tokens, q_heads, size)  # every part of every token is written
        tops = out.new_empty(num_parts, num_tokens, q_heads)
        sums = torch.empty_like(tops)
    wide = q.dtype is torch.float32 or k_pages.dtype is torch.float32
    _attend[(num_tokens // tokens + num_rows, k_heads, max(1, num_parts))](
        q, q.stride(0), q.stride(1), k_pages, v_pages, block_tables, query_starts, context_lens,
        query_starts if parents is None else parents, parts, tops, sums, num_rows, num_tokens, q_heads, k_heads, size,
        block_size, max_blocks, scale, window, soft_cap, group, group_pad, tokens, 32 if wide else 64,
        max(16, power_of_two(size)), _SPLIT if num_parts else 0, parents is not None, _MOST_NODES, wide,
    )  # fmt: skip
    if num_parts:
        vectors = num_tokens * q_heads
        _join[(vectors,)](
            parts, tops, sums, out, vectors, num_parts, size, power_of_two(size), power_of_two(num_parts)
        )  # fmt: skip
    return out
