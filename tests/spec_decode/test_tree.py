"""What is left of a tree of drafts once tokens were committed; the core's own walk is the judge."""

import random

import pytest

from paceline.engine.core.drafts import advance
from paceline.engine.core.plan import Drafts
from paceline.spec_decode.tree import descend


@pytest.mark.parametrize("seed", range(200))
def test_the_proposer_walks_as_the_core_does(seed: int) -> None:
    rng = random.Random(seed)
    num = rng.randint(1, 9)
    parents = [rng.randint(-1, node - 1) for node in range(num)] if rng.random() < 0.8 else None
    ids: list[int] = []
    for node in range(num):  # siblings differ, as a speculator's do
        parent = parents[node] if parents is not None else node - 1
        used = {ids[other] for other in range(node) if parents is not None and parents[other] == parent}
        ids.append(rng.choice([token for token in range(12) if token not in used]))
    committed = [ids[0], *(rng.randrange(12) for _ in range(rng.randint(0, 2)))] if rng.random() < 0.8 else [11]
    expected = advance(Drafts("r", 0, 1, ids, parents), committed)
    agreed, left, below = descend(ids, parents, committed)
    assert 0 <= agreed <= len(committed)
    if expected is None or not expected.token_ids:
        assert left == []
    else:
        assert agreed == len(committed) and left == expected.token_ids
        chain = list(range(-1, len(left) - 1))
        assert (chain if below is None else below) == (expected.parents or chain)
