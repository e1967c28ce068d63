"""A toy model whose text often repeats itself, as code does: what followed a token is likely to follow it again."""

from typing import Any

import torch
from toy_model import ToyModel

from paceline.engine.nn.model import Batch, KVCache

VOCAB = 97


class Loop(ToyModel):
    """Of two with the same ``seed``, one with ``doubt`` agrees less often: a drafter for the other."""

    def __init__(self, vocab_size: int = VOCAB, seed: int = 0, doubt: float = 0.0) -> None:
        super().__init__(vocab_size, seed)
        rng = torch.Generator().manual_seed(seed + 1)
        self._after = torch.randperm(vocab_size, generator=rng)
        self._doubtful = torch.rand(vocab_size, generator=rng) < doubt

    def forward(self, batch: Batch, kv: KVCache, layers: Any = None) -> torch.Tensor:
        hidden = super().forward(batch, kv, layers)
        return torch.cat([hidden, batch.token_ids.float()[:, None]], 1)

    def logits(self, hidden: torch.Tensor) -> torch.Tensor:
        logits = super().logits(hidden[:, :-1])
        last = hidden[:, -1].long()
        follows = (self._after[last] + self._doubtful[last]) % 11
        logits[torch.arange(len(logits)), follows] += 14
        return logits
