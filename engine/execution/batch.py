"""Pack the rows of a step into the tensors a model reads: one indexing pass over the request table, no padding."""

from collections.abc import Sequence

import numpy as np
import torch

from ..core.plan import Row
from ..nn.model import Batch
from .state import Fed, RequestTable

_CPU = torch.device("cpu")


def pack(
    rows: Sequence[Fed], table: RequestTable, block_size: int, device: torch.device | str = "cpu"
) -> tuple[Batch, np.ndarray]:
    """Rows (at least one) -> the model's batch, and ``query_starts`` [R + 1] once more for the host.

    Row r feeds tokens ``start .. start + count - 1`` of its request; drafts already lie behind the committed tokens.
    """
    num_rows = len(rows)
    lines = np.fromiter([f.held.line for f in rows], np.int64, num_rows)
    starts = np.fromiter([f.row.start for f in rows], np.int32, num_rows)
    counts = np.fromiter([f.count for f in rows], np.int32, num_rows)
    most_blocks = max(f.held.num_blocks for f in rows)
    query_starts = np.zeros(num_rows + 1, np.int32)
    np.cumsum(counts, out=query_starts[1:])
    if query_starts[-1] == num_rows:
        owners, positions = lines, starts
    else:
        owners = np.repeat(lines, counts)
        positions = np.arange(query_starts[-1], dtype=np.int32) + np.repeat(starts - query_starts[:-1], counts)
    block, offset = np.divmod(positions, np.int32(block_size))
    slot = table.blocks[owners, block] * np.int32(block_size) + offset
    tokens = table.tokens[owners, positions]
    parents = None
    if any(f.row.draft_parents is not None for f in rows):
        parents = np.arange(-1, len(positions) - 1, dtype=np.int32)
        for f, end in zip(rows, query_starts[1:].tolist(), strict=True):
            if f.row.draft_parents is not None:
                _bend(positions, parents, f.row, end)
    arrays = (tokens, positions, slot, query_starts, starts + counts, table.blocks[lines, :most_blocks])
    tree = None if parents is None else _tensor(parents, device)
    token_ids, where, slots, bounds, context_lens, block_tables = (_tensor(a, device) for a in arrays)
    return Batch(token_ids, where, slots, bounds, context_lens, block_tables, tree), query_starts


def _bend(positions: np.ndarray, parents: np.ndarray, row: Row, end: int) -> None:
    """Nodes of a tree lie one behind the other; each follows its parent, which gives it its position. In place."""
    first = end - len(row.draft_ids)
    for node, parent in enumerate(row.draft_parents or ()):
        before = first + parent if parent >= 0 else first - 1
        parents[first + node] = before
        positions[first + node] = positions[before] + 1


def _tensor(array: np.ndarray, device: torch.device | str) -> torch.Tensor:
    made = torch.from_numpy(array)
    return made if device == _CPU else made.to(device)
