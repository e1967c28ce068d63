"""Log-probabilities of given tokens by the model alone: one forward pass over one sequence, in this process.

No server, scheduler, batch or block reuse: what comes over HTTP is held against this.
"""

from collections.abc import Callable

import torch

from paceline.engine.config import Config
from paceline.engine.execution.kv_pool import allocate, page_dtype
from paceline.engine.nn.load import load_model
from paceline.engine.nn.model import Batch
from paceline.engine.store import card, resolve

Scorer = Callable[[list[int], int], tuple[float, bool]]


def scorer(name: str) -> Scorer:
    """For ids and the number of those that are context: the sum of the others' log-probabilities, and whether each of
    them is the likeliest."""
    config, located = Config(), resolve.locate(name, download=False)
    model = load_model(card.read(located), located, dtype=config.target.dtype)

    @torch.inference_mode()
    def score(token_ids: list[int], num_context: int) -> tuple[float, bool]:
        def ints(values: list[int]) -> torch.Tensor:
            return torch.tensor(values, dtype=torch.int32)

        where = ints(list(range(len(token_ids))))
        kv = allocate(model.config, 1, len(token_ids), page_dtype(config.cache.dtype))
        length, block = ints([len(token_ids)]), ints([0]).view(1, 1)
        batch = Batch(ints(token_ids), where, where.clone(), ints([0, len(token_ids)]), length, block)
        logits = model.logits(model.forward(batch, kv)[num_context - 1 : -1])
        wanted = torch.tensor(token_ids[num_context:])
        chosen = torch.log_softmax(logits.double(), -1).gather(-1, wanted[:, None])
        return float(chosen.sum()), bool((logits.argmax(-1) == wanted).all())

    return score
