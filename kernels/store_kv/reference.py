"""Write keys and values into pages, in plain torch."""

import torch


def run(k: torch.Tensor, v: torch.Tensor, k_pages: torch.Tensor, v_pages: torch.Tensor, slots: torch.Tensor) -> None:
    """See ``ops.store_kv``."""
    where = slots.long()
    for new, pages in ((k, k_pages), (v, v_pages)):
        pages.flatten(0, 1)[where] = new.to(pages.dtype)
