"""One draft at each place, from a drafting model's processed logits, as the acceptance rule needs it drawn.

``shared`` with the noise of the target at the same position (rule coupled); ``likeliest`` where the rule is told no
law; ``sparse`` from the likeliest ids and exactly the numbers that are sent with the draft, so that the rule's
division is by the law it was drawn from.
"""

from typing import Literal, NamedTuple, TypeAlias

import torch

from ..engine.core.plan import DraftLaw
from ..engine.execution.acceptance import VerifyBatch
from ..kernels import noise, ops

How: TypeAlias = Literal["shared", "likeliest", "sparse"]

MOST_IDS = 64
"""Ids of a sparse law: about half a kilobyte a draft."""


class Draw(NamedTuple):
    """One draft."""

    token_id: int
    chance: float
    """By the drafting model, all ids counted."""
    law: DraftLaw | None
    """What it was drawn from; None = sure, or drawn with the shared noise."""
    rivals: list[int]
    """The ids that would have been drawn next, likeliest first; fewer where filters left no more."""


def draw(batch: VerifyBatch, how: How, windows: list[int], num_rivals: int = 0) -> list[Draw]:
    """A draft for each of the S places. ``windows`` [S]: the committed tokens when each draft is made."""
    logits, temperatures = batch.logits, batch.temperatures
    if how != "shared":
        temperatures = torch.zeros_like(temperatures) if how == "likeliest" else temperatures
    if how == "sparse":
        ids, laws = _draw_sparse(batch, windows)
    else:
        ids = ops.sample(logits, temperatures, batch.seeds, batch.positions)
        laws = [None] * len(windows)
    chances = torch.softmax(logits, -1).gather(1, ids[:, None])[:, 0].nan_to_num(0.0)
    rivals: list[list[int]] = [[] for _ in windows]
    last = ids
    for _ in range(num_rivals):
        logits.scatter_(1, last[:, None], -torch.inf)
        last = ops.sample(logits, temperatures, batch.seeds, batch.positions)
        possible = (logits.gather(1, last[:, None])[:, 0] > -torch.inf).tolist()  # filters may have left fewer ids
        for place, token in enumerate(last.tolist()):
            if possible[place]:
                rivals[place].append(token)
    return [Draw(*one) for one in zip(ids.tolist(), chances.tolist(), laws, rivals, strict=True)]


def _draw_sparse(batch: VerifyBatch, windows: list[int]) -> tuple[torch.Tensor, list[DraftLaw | None]]:
    """Ids int64 [S] and their laws; the noise is of the stream that nothing but drafts is drawn from."""
    logits = batch.logits
    scores, ids = logits.topk(min(MOST_IDS, logits.shape[1]), -1)
    weights = torch.softmax(scores, -1)
    few = torch.full_like(logits, -torch.inf).scatter_(1, ids, weights.log())
    window = torch.tensor(windows, dtype=torch.int64, device=logits.device)
    keys = noise.keys(batch.seeds, batch.positions, noise.DRAFT, window)
    drawn = ops.sample(few, batch.temperatures, keys, batch.positions)
    laws: list[DraftLaw | None] = []
    for heat, names, chances in zip(batch.temperatures.tolist(), ids.tolist(), weights.tolist(), strict=True):
        kept = [(name, chance) for name, chance in zip(names, chances, strict=True) if chance > 0]
        laws.append(([name for name, _ in kept], [chance for _, chance in kept]) if heat > 0 else None)
    return drawn, laws
