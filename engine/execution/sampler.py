"""From raw logits to each position's processed ones: edits, then temperature, then filters. In place, row by row.

Order: penalties, logit_bias, bad_words, allowed_token_ids, min_tokens, grammar, temperature, top_k, top_p, min_p. At
temperature 0 the edits still apply and the filters do not. A batch in which nobody asks for anything costs nothing; the
draw itself is ``kernels.ops.sample``, called by the acceptance rule.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch

from ..core.plan import DraftLaw, depths, path_to
from . import filters
from .acceptance import VerifyBatch
from .grammar_masks import StepMasks
from .state import Held


@dataclass(slots=True)
class Ask:
    """A request's positions in a step: one for each of its drafts and one behind them."""

    held: Held
    draft_ids: list[int]
    context: np.ndarray  # int32, committed tokens, then the drafts
    draft_q: list[DraftLaw] | None = None
    parents: list[int] | None = None
    """Of a tree, as in ``Row``. The first position is then the root's, the one behind it that of node 0."""


def process(logits: torch.Tensor, asks: Sequence[Ask], masks: StepMasks | None = None) -> VerifyBatch:
    """Turn raw logits fp32 [S, vocab_size] into what a rule verifies; ``logits`` is overwritten.

    S = the sum of ``len(ask.draft_ids) + 1``, positions of one ask next to each other. ``masks`` are those of the asks
    that stand under a grammar.
    """
    starts = [0]
    for ask in asks:
        starts.append(starts[-1] + len(ask.draft_ids) + 1)
    assert starts[-1] == len(logits), f"{len(logits)} rows of logits for {starts[-1]} positions"
    for ask, start in zip(asks, starts, strict=False):
        if ask.held.edits is not None:
            _edit(logits[start : start + len(ask.draft_ids) + 1], ask)
    if masks is not None:
        masks.apply(logits, starts)
    temperatures, seeds, positions = _keys(asks)
    if any(t not in (0.0, 1.0) for t in temperatures):
        divisor = torch.tensor([t or 1.0 for t in temperatures], dtype=torch.float32, device=logits.device)
        logits.div_(divisor[:, None])
    _filter(logits, asks, starts)

    def tensor(values: list[int] | list[float], dtype: type) -> torch.Tensor:
        made = torch.from_numpy(np.array(values, dtype))  # numpy reads lists faster
        return made if logits.is_cpu else made.to(logits.device)

    return VerifyBatch(
        logits=logits,
        temperatures=tensor(temperatures, np.float32),
        seeds=tensor(seeds, np.int64),
        positions=tensor(positions, np.int64),
        starts=starts,
        draft_ids=[ask.draft_ids for ask in asks],
        parents=[ask.parents for ask in asks],
        q=[ask.draft_q for ask in asks],
    )


def _edit(rows: torch.Tensor, ask: Ask) -> None:
    """Edit the k + 1 rows of one ask in place."""
    host = rows.cpu()  # the same memory on a CPU
    if ask.parents is None:
        _edit_chain(host.numpy(), ask)
    else:
        _edit_tree(host.numpy(), ask, ask.parents)
    if host is not rows:
        rows.copy_(host)


def _edit_chain(rows: np.ndarray, ask: Ask) -> None:
    """Row i sees the counts and the context that drafts 1..i would leave behind."""
    edits, drafts = ask.held.edits, ask.draft_ids
    assert edits is not None
    length = len(ask.context) - len(drafts)
    for i in range(len(drafts) + 1):
        edits.apply(rows[i], ask.context[: length + i])
        edits.push(drafts[i : i + 1])
    edits.pop(drafts)


def _edit_tree(rows: np.ndarray, ask: Ask, parents: list[int]) -> None:
    """A node's row sees the counts and the context that its ancestors and itself would leave behind."""
    edits, drafts = ask.held.edits, ask.draft_ids
    assert edits is not None
    length = len(ask.context) - len(drafts)
    context = ask.context.copy()
    for node in range(-1, len(drafts)):
        path = path_to(node, parents)
        tokens = [drafts[n] for n in path]
        context[length : length + len(path)] = tokens
        edits.push(tokens)
        edits.apply(rows[1 + node], context[: length + len(path)])
        edits.pop(tokens)


def _keys(asks: Sequence[Ask]) -> tuple[list[float], list[int], list[int]]:
    """Temperature, seed and index of the chosen token, for each position."""
    temperatures: list[float] = []
    seeds: list[int] = []
    positions: list[int] = []
    for ask in asks:
        count = len(ask.draft_ids) + 1
        temperatures += [ask.held.params.temperature] * count
        seeds += [ask.held.seed] * count
        first = ask.held.length
        positions += range(first, first + count) if ask.parents is None else _tree_positions(first, ask.parents)
    return temperatures, seeds, positions


def _tree_positions(first: int, parents: list[int]) -> list[int]:
    return [first, *(first + 1 + depth for depth in depths(parents))]


def _filter(logits: torch.Tensor, asks: Sequence[Ask], starts: list[int]) -> None:
    places = [p for i, ask in enumerate(asks) if ask.held.filtered for p in range(starts[i], starts[i + 1])]
    if places:
        params = [ask.held.params for ask in asks if ask.held.filtered for _ in range(len(ask.draft_ids) + 1)]
        filters.apply(logits, places, params)
