"""A model whose every number is a small integer or a dyadic fraction, so that no order of summing can change a bit.

It reads its KV pages through the block tables like a real one: a wrong slot, position or table changes its tokens.
"""

from itertools import pairwise

import torch

from paceline.engine.nn.model import Batch, KVCache
from paceline.engine.types import ModelConfig

WIDTH = 8


class ToyModel:
    """Deterministic from ``seed``; needs fp32 pages."""

    def __init__(self, vocab_size: int = 97, seed: int = 0) -> None:
        self.config = ModelConfig(
            architecture="Toy",
            vocab_size=vocab_size,
            hidden_size=WIDTH,
            num_layers=2,
            num_heads=1,
            num_kv_heads=1,
            head_dim=WIDTH,
            intermediate_size=WIDTH,
            max_position=4096,
        )
        rng = torch.Generator().manual_seed(seed)
        self._embedding = torch.randint(-3, 4, (vocab_size, WIDTH), generator=rng).float()
        self._head = torch.randint(-4, 5, (vocab_size, WIDTH), generator=rng).float()
        self._offset = torch.randperm(vocab_size, generator=rng).float() / 4096

    def forward(self, batch: Batch, kv: KVCache, layers: dict[int, torch.Tensor] | None = None) -> torch.Tensor:
        tokens, positions = batch.token_ids.long(), batch.positions.long()
        for pages in (*kv.k, *kv.v):
            pages.view(-1, WIDTH)[batch.slots.long()] = self._embedding[tokens] * (1 + positions % 5)[:, None]
        hidden = torch.empty(len(tokens), WIDTH)
        starts = batch.query_starts.tolist()
        for row, (start, end) in enumerate(pairwise(starts)):
            context = int(batch.context_lens[row])
            blocks = batch.block_tables[row, : -(-context // kv.block_size)].long()
            held = (kv.k[0][blocks] + kv.v[-1][blocks]).view(-1, WIDTH)[:context]
            first = context - (end - start)
            before = list(range(start - 1, end - 1)) if batch.parents is None else batch.parents[start:end].tolist()
            seen: list[torch.Tensor] = []
            for j, parent in enumerate(before):
                seen.append(held[first + j] + (seen[parent - start] if j else held[:first].sum(0)))
                assert not j or positions[start + j] == positions[parent] + 1
            hidden[start:end] = (torch.stack(seen) % 17) - 8
        return hidden

    def logits(self, hidden: torch.Tensor) -> torch.Tensor:
        return hidden @ self._head.T / 16 + self._offset
