"""Drafts against committed tokens: chains, trees, tables of outcomes."""

import math

import pytest
from core_sim import VOCAB, Harness, config

from paceline.engine.core.drafts import Left, advance, cut, is_sound
from paceline.engine.core.plan import DraftLaw, Drafts, depths, is_path


def drafts(ids: list[int], parents: list[int] | None = None) -> Drafts:
    return Drafts("r", 0, 5, ids, parents)


def chain(ids: list[int] | None) -> Left | None:
    return None if ids is None else Left(ids, None, None)


@pytest.mark.parametrize(
    ("committed", "left"),
    [([], [1, 2, 3]), ([1], [2, 3]), ([1, 2, 3], []), ([1, 2, 3, 4], []), ([2], None), ([1, 2, 4, 4], None)],
)
def test_a_chain_advances(committed: list[int], left: list[int] | None) -> None:
    assert advance(drafts([1, 2, 3]), committed) == chain(left)
    assert advance(drafts([1, 2, 3], [-1, 0, 1]), committed) == chain(left)  # the same chain, written as a tree


#        1 - 3
# root <      4 - 6
#        2 <
#             5
TREE = drafts([1, 2, 3, 4, 5, 6], [-1, -1, 0, 1, 1, 3])


@pytest.mark.parametrize(
    ("committed", "left"),
    [([], [1, 3]), ([1], [3]), ([2], [4, 6]), ([2, 5], []), ([2, 5, 7], []), ([2, 7], None), ([7], None)],
)
def test_without_trees_the_best_child_goes_on(committed: list[int], left: list[int] | None) -> None:
    assert advance(TREE, committed, trees=False) == chain(left)


@pytest.mark.parametrize(
    ("committed", "left"),
    [
        ([], Left(TREE.token_ids, TREE.parents, None)),
        ([1], Left([3], None, None)),
        ([2], Left([4, 5, 6], [-1, -1, 0], None)),
        ([2, 4], Left([6], None, None)),
        ([2, 5, 7], Left([], None, None)),
        ([2, 7], None),
    ],
)
def test_a_tree_advances_to_the_tree_below(committed: list[int], left: Left | None) -> None:
    assert advance(TREE, committed) == left


def test_equal_siblings_become_one() -> None:
    twice = drafts([1, 1, 2, 3, 2, 4], [-1, -1, 0, 1, 1, 4])
    assert advance(twice, []) == Left([1, 2, 3, 4], [-1, 0, 0, 1], None)
    assert advance(twice, [1, 2]) == Left([4], None, None)


def test_laws_go_with_their_drafts() -> None:
    laws = [([i], [1.0]) for i in range(6)]
    tree = Drafts("r", 0, 5, TREE.token_ids, TREE.parents, draft_q=laws)
    assert advance(tree, [2]) == Left([4, 5, 6], [-1, -1, 0], [laws[3], laws[4], laws[5]])
    assert advance(tree, [2], trees=False) == Left([4, 6], None, [laws[3], laws[5]])
    line = Drafts("r", 0, 5, [1, 2, 3], draft_q=laws[:3])
    left = advance(line, [1])
    assert left is not None and left == Left([2, 3], None, laws[1:3])
    assert cut(left, 1, 9) == Left([2], None, laws[1:2])


def test_a_cut_leaves_a_tree() -> None:
    left = Left(TREE.token_ids, TREE.parents, [([i], [1.0]) for i in range(6)])
    assert cut(left, 6, 3) is left
    for most in range(7):
        for deepest in range(4):
            ids, parents, laws = cut(left, most, deepest)
            assert parents is not None and laws is not None and len(ids) == len(parents) == len(laws)
            wanted = [i for i, d in enumerate(depths(TREE.parents or [])) if d < deepest][:most]
            assert ids == [TREE.token_ids[i] for i in wanted] and [x for (x,), _ in laws] == wanted
            names = [-1, *wanted]
            assert [names[p + 1] for p in parents] == [(TREE.parents or [])[i] for i in wanted]
    assert cut(Left([1, 2, 3], None, None), 5, 2) == Left([1, 2], None, None)
    assert cut(Left([1, 2, 3], None, None), 5, -1) == Left([], None, None)


@pytest.mark.parametrize(
    ("path", "fits"),
    [([], True), ([0], True), ([1, 3, 5], True), ([3], False), ([0, 3], False), ([6], False), ([-1], False)],
)
def test_paths_go_down_from_the_root(path: list[int], fits: bool) -> None:
    assert is_path(path, TREE.parents or []) is fits


def test_nothing_advances_to_nothing() -> None:
    assert advance(drafts([]), []) == Left([], None, None) == advance(drafts([], []), [])


@pytest.mark.parametrize(
    ("laws", "sound"),
    [
        ([([1, 2], [1.0, 0.0])], True),
        ([([1], [3e38])], False),
        ([([1, 2], [0.5, 0.25]), ([1], [1.0])], False),
        ([], False),
        ([([], [])], False),
        ([([1, 2], [1.0])], False),
        ([([1, 1], [0.5, 0.5])], False),
        ([([10], [1.0])], False),
        ([([-1], [1.0])], False),
        ([([1], [0.0])], False),
        ([([1], [1e-46])], False),
        ([([1, 2], [1.0, -0.5])], False),
        ([([1], [math.nan])], False),
        ([([1, 2], [1.0, math.nan])], False),
        ([([1], [math.inf])], False),
    ],
)
def test_soundness_of_laws(laws: list[DraftLaw], sound: bool) -> None:
    assert is_sound(Drafts("r", 0, 5, [1], draft_q=laws), 10) is sound


@pytest.mark.parametrize(
    ("ids", "parents", "sound"),
    [
        ([0, 9], None, True),
        ([], [], True),
        ([10], None, False),
        ([-1], None, False),
        ([1, 2], [-1, 0], True),
        ([1, 2], [-1], False),
        ([1, 2], [-1, 1], False),
        ([1, 2], [-2, 0], False),
    ],
)
def test_soundness(ids: list[int], parents: list[int] | None, sound: bool) -> None:
    assert is_sound(drafts(ids, parents), 10) is sound


def test_an_offer_says_what_waits() -> None:
    harness = Harness(config())
    stream = harness.add("r", [1, 2, 3])
    harness.step()  # one plan in flight: it is answered at once
    assert len(stream.output) == 1
    token, length = stream.output[0], 4
    assert harness.core.offer(Drafts("r", 0, length, [5, 6])) == [5, 6]
    assert harness.core.offer(Drafts("r", 0, length - 1, [token, 7])) == [7]  # made before that token was known
    assert harness.core.offer(Drafts("r", 0, length - 1, [token + 1, 7])) == []
    assert harness.core.offer(Drafts("r", 1, length, [5])) == [] == harness.core.offer(Drafts("x", 0, 1, [5]))
    assert harness.core.offer(Drafts("r", 0, length, [VOCAB])) == []
    assert harness.core.offer(Drafts("r", 0, length, [5])) == []  # its source broke the rules
