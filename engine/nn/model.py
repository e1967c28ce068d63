"""What a model is to the rest of the engine: two calls over a packed, ragged batch.

Knows nothing of requests, schedules or sampling.
"""

from dataclasses import dataclass
from typing import Protocol

import torch

from ..types import ModelConfig


@dataclass(slots=True)
class KVCache:
    """The KV pages of all layers. Element l is ``[num_blocks, block_size, num_kv_heads, head_dim]``."""

    k: list[torch.Tensor]
    v: list[torch.Tensor]
    block_size: int


@dataclass(slots=True)
class Batch:
    """Rows packed end to end: T tokens of R rows. Built once a step, read by every layer."""

    token_ids: torch.Tensor  # int32 [T]
    positions: torch.Tensor  # int32 [T]
    slots: torch.Tensor  # int32 [T], block * block_size + offset where K and V of the token go
    query_starts: torch.Tensor  # int32 [R + 1], row r owns tokens query_starts[r] .. query_starts[r+1]-1
    context_lens: torch.Tensor  # int32 [R], tokens visible to the row's last token, itself included
    block_tables: torch.Tensor  # int32 [R, max_blocks], unused entries 0
    parents: torch.Tensor | None = None  # int32 [T] as in ops.paged_attention; None = no row is a tree


class Model(Protocol):
    """A decoder-only transformer with its weights."""

    config: ModelConfig

    def forward(self, batch: Batch, kv: KVCache, layers: dict[int, torch.Tensor] | None = None) -> torch.Tensor:
        """Hidden states after the final norm, [T, hidden_size], fp32 on a CPU; writes K and V of the T tokens.

        For each layer number that is a key of ``layers``, a copy of its output [T, hidden_size], residual included, is
        put there.
        """
        ...

    def logits(self, hidden: torch.Tensor) -> torch.Tensor:
        """[S, hidden_size] -> fp32 [S, vocab_size]."""
        ...
