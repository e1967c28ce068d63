"""Slots copied to slots in plain torch."""

from collections.abc import Sequence

import torch


def run(pages: Sequence[torch.Tensor], sources: torch.Tensor, targets: torch.Tensor) -> None:
    """See ``ops.move_kv``."""
    num_slots = pages[0].shape[0] * pages[0].shape[1]
    for slots in (sources, targets):
        outside = torch.nonzero((slots < 0) | (slots >= num_slots)).flatten()
        if len(outside):
            i = int(outside[0])
            raise IndexError(f"move_kv: slot {int(slots[i])} of move {i} is outside 0..{num_slots - 1}")
    source, target = sources.long(), targets.long()
    for of_layer in pages:
        flat = of_layer.view(num_slots, -1)
        flat[target] = flat[source]
