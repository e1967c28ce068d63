"""Hash chains against looking at every position."""

import random

import pytest

from paceline.spec_decode.token_index import KEY_LENGTH, TokenIndex


def naive_matches(text: list[int], tail: list[int]) -> list[tuple[int, int]]:
    """(length, index behind it in ``text``) of every earlier occurrence, newest first."""
    found: list[tuple[int, int]] = []
    for at in range(len(text) - 1, KEY_LENGTH - 1, -1):
        length = 0
        while length < min(len(tail), at) and text[at - length - 1] == tail[-length - 1]:
            length += 1
        if length >= KEY_LENGTH:
            found.append((length, at))
    return found


@pytest.mark.parametrize("vocab", [2, 5, 40, 200_000])
def test_matches_are_those_of_a_full_search(vocab: int) -> None:
    rng = random.Random(vocab)
    index, text = TokenIndex(600), list[int]()
    for _ in range(150):
        more = [rng.randrange(vocab) for _ in range(rng.randint(1, 3))]
        if rng.random() < 0.5 and len(text) > 10:
            start = rng.randrange(len(text) - 8)
            more = text[start : start + 6]
        more = more[: 600 - len(text)]
        index.extend(more)
        text += more
        tail = text[-8:]
        assert index.tail(8) == tail
        wanted = naive_matches(text, tail)
        found = [(length, at - 1) for length, at in index.matches(tail, 700)]  # positions begin at 1
        assert found == wanted
        for _, at in wanted[:5]:
            assert index.spans([at + 1], 7) == [text[at : at + 7]]


def test_only_the_newest_are_told() -> None:
    index = TokenIndex(100)
    index.extend([1, 2, 3] * 10)
    assert index.matches([1, 2, 3], 2) == [(3, 28), (3, 25)]
    assert index.matches([3], 5) == []


def test_an_old_ring_forgets_what_it_has_overwritten() -> None:
    rng = random.Random(0)
    index, text = TokenIndex(64), [0]  # one token before the first, so that positions are indices
    for _ in range(40):
        more = [rng.randrange(4) for _ in range(rng.randint(1, 30))]
        index.extend(more)
        text += more
        assert index.end == len(text) and index.end - index.floor <= 64
        for length, at in index.matches(text[-6:], 50):
            assert at - length >= index.floor
            assert text[at - length : at] == text[-length:]


def test_memory_is_fixed() -> None:
    index = TokenIndex(1000)
    before = index.num_bytes()
    index.extend([1, 2, 3, 4] * 5000)
    assert index.num_bytes() == before <= 24 * 1024


def test_texts_are_kept_apart() -> None:
    index = TokenIndex(100)
    index.extend([1, 2, 3])
    index.separate()
    index.extend([4, 1, 2])
    assert index.tail(9) == [4, 1, 2]
    assert index.matches([9, 1, 2], 9) == [(2, 3)]  # behind its own end stands nothing yet
    assert index.spans([2], 9) == [[2, 3]]
    assert index.matches([3, 4], 9) == []  # nobody wrote 3, 4 in one text


def test_a_run_at_the_end_repeats_itself() -> None:
    index = TokenIndex(100)
    index.extend([5, 1, 2, 3])
    assert index.run(2, 7) == [1, 2, 3, 1, 2, 3, 1]
    assert index.run(2, 2) == [1, 2]
    index.separate()
    index.extend([9])
    assert index.run(2, 7) == [1, 2, 3]
