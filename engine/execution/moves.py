"""K and V of the accepted nodes of a tree are brought to the slots of their positions, before the next step reads them.

A tree's nodes lie in the slots behind the committed tokens, one behind the other; the path that stands is scattered
among them. Knows slots only. All those slots were written in this step by
their own request: no shared block is touched.
"""

from collections.abc import Sequence

import numpy as np
import torch

from ...kernels import ops
from ..nn.model import KVCache


class Moves:
    """Gathers one step's moves over all its rows."""

    def __init__(self) -> None:
        self._sources: list[int] = []
        self._targets: list[int] = []

    def straighten(self, blocks: np.ndarray, length: int, path: Sequence[int], block_size: int) -> None:
        """Node ``path[d]`` goes from the slot of position ``length + path[d]`` to that of ``length + d``."""
        for depth, node in enumerate(path):
            if node != depth:
                for where, slots in ((length + node, self._sources), (length + depth, self._targets)):
                    slots.append(int(blocks[where // block_size]) * block_size + where % block_size)

    def apply(self, kv: KVCache) -> None:
        """Move them in all layers. A path rises, so no source was a target before it is read."""
        if self._sources:
            device = kv.k[0].device
            source, target = (torch.tensor(s, dtype=torch.int32, device=device) for s in (self._sources, self._targets))
            ops.move_kv([*kv.k, *kv.v], source, target)
