"""From a head's logits to candidates for the target's own choice, the likeliest first, and from candidates to drafts.

At temperature 0 candidates are the highest logits; above, with the noise that the target will use at that position, so
that head and target agree as often as their laws allow. Knows no network.
"""

import heapq
from collections.abc import Sequence
from typing import NamedTuple

import torch

from ...engine.execution.acceptance import VerifyBatch
from ...kernels import ops

_RANK_CHANCE = 0.3
"""Under shared noise the order says more than the law: each further candidate counts so much of the one before."""


class Candidates(NamedTuple):
    """For each place, ``width`` ids and the chance of each, falling; 0 where there was no further id."""

    ids: list[list[int]]
    chances: list[list[float]]


class Tree(NamedTuple):
    """Nodes, parents first and the likeliest first: any beginning of the lists is a tree again."""

    token_ids: list[int]
    parents: list[int]
    """-1 = the root."""
    confidence: list[float]
    """Of each node, given its parent."""


def draw(batch: VerifyBatch, width: int, *, seeded: bool) -> Candidates:
    """The best ``width`` ids at each of the S places; ``batch.logits`` is overwritten. ``seeded``: with the noise."""
    temperatures = batch.temperatures if seeded else torch.zeros_like(batch.temperatures)
    chances = torch.softmax(batch.logits, -1).nan_to_num_(0.0)
    if not bool((temperatures > 0).any()):
        found, ids = torch.topk(chances, min(width, chances.shape[1]), -1)
        return Candidates(ids.tolist(), found.tolist())
    columns: list[torch.Tensor] = []
    for _ in range(width):
        drawn = ops.sample(batch.logits, temperatures, batch.seeds, batch.positions)
        columns.append(drawn)
        batch.logits.scatter_(1, drawn[:, None], -torch.inf)
    ids = torch.stack(columns, 1)
    found = chances.gather(1, ids)
    by_rank = found[:, :1] * _RANK_CHANCE ** torch.arange(width, dtype=torch.float32, device=found.device)
    found = torch.where((temperatures > 0)[:, None] & (found > 0), by_rank, found)
    return Candidates(ids.tolist(), found.tolist())


def best_tree(levels: Sequence[Sequence[tuple[int, float]]], num_nodes: int) -> Tree:
    """The ``num_nodes`` likeliest nodes where every node of a level may hang below every one of the level before.

    ``levels``: of each depth its candidates (id, chance), falling.
    """
    tree = Tree([], [], [])
    if not levels or not levels[0]:
        return tree
    # (-chance of the whole path, depth, rank, parent, chance of the parent's path); ties go to the shallower one.
    heap = [(-levels[0][0][1], 0, 0, -1, 1.0)]
    while heap and len(tree.token_ids) < num_nodes:
        negative, depth, rank, parent, above = heapq.heappop(heap)
        token, chance = levels[depth][rank]
        if negative >= 0:
            continue
        node = len(tree.token_ids)
        tree.token_ids.append(token)
        tree.parents.append(parent)
        tree.confidence.append(chance)
        if rank + 1 < len(levels[depth]):
            heapq.heappush(heap, (-above * levels[depth][rank + 1][1], depth, rank + 1, parent, above))
        if depth + 1 < len(levels) and levels[depth + 1]:
            heapq.heappush(heap, (negative * levels[depth + 1][0][1], depth + 1, 0, node, -negative))
    return tree


def comb(levels: Sequence[Sequence[tuple[int, float]]], num_nodes: int) -> Tree:
    """A chain of every level's best, the others of a level as its leaves: the ``num_nodes`` likeliest of them."""
    nodes: list[tuple[float, int, int]] = []  # (-chance of the whole path, depth, rank)
    above = 1.0
    for depth, level in enumerate(levels):
        nodes += [(-above * chance, depth, rank) for rank, (_, chance) in enumerate(level) if above * chance > 0]
        above *= level[0][1] if level else 0.0
    tree = Tree([], [], [])
    spine = {-1: -1}  # depth -> its best one's node
    for _, depth, rank in sorted(nodes)[:num_nodes]:
        token, chance = levels[depth][rank]
        if rank == 0:
            spine[depth] = len(tree.token_ids)
        tree.token_ids.append(token)
        tree.parents.append(spine[depth - 1])
        tree.confidence.append(chance)
    return tree
