"""From candidates to trees: parents first, likeliest first, and every beginning is a tree again."""

import itertools
import random

import pytest

from paceline.spec_decode.heads.draw import Tree, best_tree, comb


def some_levels(rng: random.Random) -> list[list[tuple[int, float]]]:
    levels: list[list[tuple[int, float]]] = []
    for _ in range(rng.randint(1, 4)):
        chances = sorted((rng.random() for _ in range(rng.randint(1, 4))), reverse=True)
        levels.append([(rng.randrange(1000), chance) for chance in chances])
    return levels


def chances(tree: Tree) -> list[float]:
    """Of the whole path to each node."""
    found: list[float] = []
    for parent, chance in zip(tree.parents, tree.confidence, strict=True):
        found.append(chance * (found[parent] if parent >= 0 else 1.0))
    return found


def sound(tree: Tree) -> None:
    assert all(-1 <= parent < node for node, parent in enumerate(tree.parents))
    found = chances(tree)
    assert found == sorted(found, reverse=True)


@pytest.mark.parametrize("seed", range(30))
def test_the_best_tree_is_the_best_of_all(seed: int) -> None:
    rng = random.Random(seed)
    levels = some_levels(rng)
    num = rng.randint(1, 20)
    tree = best_tree(levels, num)
    sound(tree)
    every = []
    for depth in range(1, len(levels) + 1):
        for path in itertools.product(*levels[:depth]):
            chance = 1.0
            for _, each in path:
                chance *= each
            every.append(chance)
    assert sorted(chances(tree), reverse=True) == pytest.approx(sorted(every, reverse=True)[:num])


@pytest.mark.parametrize("seed", range(30))
def test_a_comb_is_a_chain_with_leaves(seed: int) -> None:
    rng = random.Random(seed)
    levels = some_levels(rng)
    tree = comb(levels, rng.randint(1, 16))
    sound(tree)
    bests = [level[0][0] for level in levels]
    for node in {parent for parent in tree.parents if parent >= 0}:
        assert tree.token_ids[node] in bests
    whole = comb(levels, 100)
    assert len(whole.token_ids) == sum(map(len, levels))
    assert whole.token_ids[: len(tree.token_ids)] == tree.token_ids


def test_what_cannot_be_is_no_node() -> None:
    levels = [[(1, 0.5), (2, 0.0)], [(3, 0.0)]]
    assert best_tree(levels, 9) == comb(levels, 9) == Tree([1], [-1], [0.5])
    assert best_tree([], 9) == comb([], 9) == best_tree([[(1, 0.5)]], 0) == Tree([], [], [])
