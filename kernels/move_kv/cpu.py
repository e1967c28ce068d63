"""Slots copied to slots through the native library, all pages in one call."""

from collections.abc import Sequence

import torch

from ..native import load, tensors

why_not = load.why_not
_move_kv = load.function("pl_move_kv")


def run(pages: Sequence[torch.Tensor], sources: torch.Tensor, targets: torch.Tensor) -> None:
    """See ``ops.move_kv``."""
    first = pages[0]
    for of_layer in pages:
        if of_layer.shape != first.shape or of_layer.dtype is not first.dtype or not of_layer.is_contiguous():
            raise tensors.misfit("move_kv", "pages", of_layer, first)
    if sources.numel() != targets.numel():
        raise tensors.misfit("move_kv", "targets", targets, sources)
    num_slots = first.shape[0] * first.shape[1]
    addresses = torch.tensor([p.data_ptr() for p in pages], dtype=torch.int64)
    slot_bytes = first[0, 0].numel() * first.element_size()
    bad = _move_kv(
        addresses.data_ptr(), len(pages), tensors.int32(sources), tensors.int32(targets), sources.numel(), slot_bytes,
        num_slots,
    )  # fmt: skip
    if bad:
        slot = next(int(s[bad - 1]) for s in (sources, targets) if not 0 <= int(s[bad - 1]) < num_slots)
        raise IndexError(f"move_kv: slot {slot} of move {bad - 1} is outside 0..{num_slots - 1}")
