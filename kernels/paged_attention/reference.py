"""Attention over pages in plain torch: gather, score, mask, softmax, mix; a token's sums see its own context only."""

import torch

from ..exact import exp, fold

_MOST_PRODUCTS = 1 << 22
"""Largest intermediate, in elements; tokens are taken in slices to stay below."""


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
    out = torch.empty(q.shape, dtype=torch.float32, device=q.device)
    starts, lens = query_starts.tolist(), context_lens.tolist()
    block_size = k_pages.shape[1]
    for row, length in enumerate(lens):
        begin, end = starts[row], starts[row + 1]
        if begin == end:
            continue
        blocks = block_tables[row, : -(-length // block_size)].long()
        k = k_pages[blocks].flatten(0, 1)[:length].float()  # [L, Hk, D]
        v = v_pages[blocks].flatten(0, 1)[:length].float()
        if parents is not None and (paths := tree_paths(parents[begin:end].tolist(), begin)):
            for token, path in enumerate(paths):
                seen = [*range(length - (end - begin)), *(length - (end - begin) + j for j in path)]
                last = torch.tensor([len(seen) - 1], device=q.device)
                at = slice(begin + token, begin + token + 1)
                out[at] = _attend(q[at].float(), k[seen], v[seen], last, scale, window, soft_cap)
            continue
        size = max(1, _MOST_PRODUCTS // (q.shape[1] * q.shape[2] * length))
        for a in range(begin, end, size):
            b = min(a + size, end)
            last = torch.arange(length - (end - a), length - (end - b), device=q.device)  # [T'], the token's own slot
            out[a:b] = _attend(q[a:b].float(), k, v, last, scale, window, soft_cap)
    return out


def tree_paths(parents: list[int], begin: int) -> list[list[int]] | None:
    """For each token of a row its ancestors and itself, counted from the row's first; None where the row is a chain.

    Raises:
        IndexError: a parent is no earlier token of the row.
    """
    if all(p == begin + j for j, p in enumerate(parents[1:])):
        return None
    paths = [[0]]
    for j, parent in enumerate(parents[1:], 1):
        if not 0 <= parent - begin < j:
            raise IndexError(
                f"paged_attention: token {begin + j} follows token {parent}, not one of {begin}..{begin + j - 1}"
            )
        paths.append([*paths[parent - begin], j])
    return paths


def _attend(
    q: torch.Tensor,
    k: torch.Tensor,
    v: torch.Tensor,
    last: torch.Tensor,
    scale: float,
    window: int,
    soft_cap: float,
) -> torch.Tensor:
    """q [T', Hq, D] over k, v [L, Hk, D]; token t sees slots up to last[t] -> [T', Hq, D]."""
    heads = torch.arange(q.shape[1], device=q.device) // (q.shape[1] // k.shape[1])
    k, v = k.movedim(0, 1)[heads], v.movedim(0, 2)[heads]  # [Hq, L, D], [Hq, D, L]
    scores = fold(q.unsqueeze(2) * k) * scale  # [T', Hq, L]
    if soft_cap > 0.0:
        scores = soft_cap * (1.0 - 2.0 / (exp(scores * (2.0 / soft_cap)) + 1.0))  # tanh
    slots = torch.arange(k.shape[1], device=q.device)
    hidden = slots > last.unsqueeze(1)
    if window > 0:
        hidden |= slots <= last.unsqueeze(1) - window
    hidden = hidden.unsqueeze(1)  # [T', 1, L]
    scores = scores.masked_fill(hidden, -torch.inf)
    p = exp(scores - scores.amax(-1, keepdim=True))
    products = (p.unsqueeze(2) * v).masked_fill(hidden.unsqueeze(2), 0.0)  # [T', Hq, D, L]
    return fold(products) / fold(p).unsqueeze(-1)
