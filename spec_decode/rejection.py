"""What the ``token`` and ``block`` rules share: a batch of rows as the tensors of ``ops.verify``, and back.

Both keep the target's distribution exactly, not the text of a seed. Each draft needs the law it was drawn from, and
must not have been picked or dropped by its own value before it came here: that biases the text by percents.
"""

from typing import Literal

import torch

from ..engine.core.plan import DraftLaw
from ..engine.execution.acceptance import Accepted, VerifyBatch
from ..kernels import ops


class Rejection:
    """Stateless: every draw is keyed by seed, position, stream and the row's number of committed tokens."""

    def __init__(self, rule: Literal["token", "block"]) -> None:
        self._rule = rule

    def accept(self, batch: VerifyBatch) -> list[Accepted]:
        """Keep the drafts that the rule lets stand, and add the next token.

        Raises:
            ValueError: a row is a tree; these rules verify chains.
        """
        if batch.parents and any(parents is not None for parents in batch.parents):
            raise ValueError(f"rule {self._rule!r} verifies chains, not trees; use the coupled rule for trees")
        keys = (batch.temperatures, batch.seeds, batch.positions)
        draft_ids, q_ids, q_weights = _tensors(batch)
        decided = ops.verify(batch.logits, *keys, draft_ids, q_ids, q_weights, self._rule).tolist()
        answers = zip(batch.draft_ids, decided, strict=True)
        return [Accepted([*drafts[:num], token], num) for drafts, (num, token) in answers]


def _tensors(batch: VerifyBatch) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """draft_ids [S], q_ids [S, M], q_weights [S, M], M the most ids of a law; a draft without a law was sure."""
    chains: list[int] = []
    laws: list[DraftLaw] = []
    for row, drafts in enumerate(batch.draft_ids):
        given = batch.q[row] if batch.q else None
        chains += [*drafts, -1]
        laws += given or [([x], [1.0]) for x in drafts]
        laws.append(([0], [1.0]))  # behind the last draft: not read
    most = max((len(ids) for ids, _ in laws), default=1)
    q_ids = [ids + [0] * (most - len(ids)) for ids, _ in laws]
    q_weights = [weights + [0.0] * (most - len(weights)) for _, weights in laws]
    device = batch.logits.device
    return (
        torch.tensor(chains, dtype=torch.int64, device=device),
        torch.tensor(q_ids, dtype=torch.int64, device=device).reshape(-1, most),
        torch.tensor(q_weights, dtype=torch.float32, device=device).reshape(-1, most),
    )
