"""KV pages of a head's one layer: which entries of which request stand where, and the batch that reads and writes them.

A request's entries may begin anywhere: what came before was never seen, because it was found in the prefix cache, or
while nobody drafted for it, or it lost its pages to others. Rotary positions are relative, so the layer works on what
it has. Positions of one request::

    0 ... begin-1 | begin ......... begin+num_fed-1 | ...... next-1 | .......
    never seen    | in the pages                    | pending       | drafts, over which later entries are written
"""

from collections.abc import Container, Sequence
from dataclasses import dataclass, field

import numpy as np
import torch

from ...engine.execution.state import Held
from ...engine.nn.model import Batch
from ..draft_blocks import DraftBlocks


@dataclass(slots=True)
class Followed:
    """A request's entries; see the module's position map."""

    held: Held
    begin: int = 0
    num_fed: int = 0
    blocks: list[int] = field(default_factory=list)
    pending: list[torch.Tensor] = field(default_factory=list)
    """Features [n, hidden_size] that were not fed yet."""
    num_pending: int = 0

    @property
    def next(self) -> int:
        """Position of the entry that is missed next."""
        return self.begin + self.num_fed + self.num_pending

    def take(self, start: int, features: torch.Tensor) -> None:
        """Features of positions from ``start`` on; those known already are skipped, behind a gap all begins anew."""
        if start > self.next or not self.num_fed + self.num_pending:
            self.restart(start)
        fresh = features[self.next - start :]
        if len(fresh):
            self.pending.append(fresh)
            self.num_pending += len(fresh)

    def restart(self, begin: int) -> None:
        """Forget all entries but the pages for them."""
        self.begin, self.num_fed, self.num_pending = begin, 0, 0
        self.pending.clear()

    def lose(self) -> None:
        """Its pages went to others: what is pending is all there is."""
        self.begin += self.num_fed
        self.num_fed = 0
        self.blocks = []


class Pages:
    """Room for entries, and batches over it."""

    def __init__(self, num_blocks: int, block_size: int, device: torch.device | str) -> None:
        self.blocks = DraftBlocks(num_blocks, block_size)
        self._block_size = block_size
        self._device = device

    def make_room(self, followed: Followed, num_entries: int, busy: Container[str]) -> bool:
        """Whether ``followed`` has pages for its first ``num_entries``; others than ``busy`` may lose theirs for it."""
        request_id = followed.held.request_id
        new = self.blocks.grow(request_id, num_entries, busy)
        if new is None:
            return False
        followed.blocks += new
        return True

    def has_lost(self, followed: Followed) -> bool:
        """Did it lose its pages since it was fed?"""
        return bool(followed.blocks) and not self.blocks.count(followed.held.request_id)

    def pack(self, rows: Sequence[tuple[Followed, int, int]]) -> Batch:
        """Rows (request, first entry counted from ``begin``, entries) -> the layer's batch; tokens are the caller's."""
        positions: list[int] = []
        slots: list[int] = []
        size = self._block_size
        for followed, first, num in rows:
            positions += range(followed.begin + first, followed.begin + first + num)
            slots += [followed.blocks[entry // size] * size + entry % size for entry in range(first, first + num)]
        tables = np.zeros((len(rows), max(len(followed.blocks) for followed, _, _ in rows)), np.int32)
        for place, (followed, _, _) in enumerate(rows):
            tables[place, : len(followed.blocks)] = followed.blocks
        starts = np.cumsum([0, *(num for _, _, num in rows)])

        def tensor(values: Sequence[int] | np.ndarray) -> torch.Tensor:
            return torch.from_numpy(np.asarray(values, np.int32)).to(self._device)

        return Batch(
            token_ids=tensor([]),
            positions=tensor(positions),
            slots=tensor(slots),
            query_starts=tensor(starts),
            context_lens=tensor([first + num for _, first, num in rows]),
            block_tables=tensor(tables),
        )
