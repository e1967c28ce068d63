"""Drafts against committed tokens: chains, trees, tables of outcomes."""

import pytest
from core_sim import VOCAB, Harness, config

from paceline.engine.core.drafts import advance, is_sound
from paceline.engine.core.plan import Drafts


def drafts(ids: list[int], parents: list[int] | None = None) -> Drafts:
    return Drafts("r", 0, 5, ids, parents)


@pytest.mark.parametrize(
    ("committed", "left"),
    [([], [1, 2, 3]), ([1], [2, 3]), ([1, 2, 3], []), ([1, 2, 3, 4], []), ([2], None), ([1, 2, 4, 4], None)],
)
def test_a_chain_advances(committed: list[int], left: list[int] | None) -> None:
    assert advance(drafts([1, 2, 3]), committed) == left
    assert advance(drafts([1, 2, 3], [-1, 0, 1]), committed) == left  # the same chain, written as a tree


@pytest.mark.parametrize(
    ("committed", "left"),
    [([], [1, 3]), ([1], [3]), ([2], [4, 6]), ([2, 5], []), ([2, 5, 7], []), ([2, 7], None), ([7], None)],
)
def test_a_tree_advances_to_the_best_child(committed: list[int], left: list[int] | None) -> None:
    #        1 - 3
    # root <      4 - 6
    #        2 <
    #             5
    tree = drafts([1, 2, 3, 4, 5, 6], [-1, -1, 0, 1, 1, 3])
    assert advance(tree, committed) == left


def test_nothing_advances_to_nothing() -> None:
    assert advance(drafts([]), []) == [] == advance(drafts([], []), [])


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
