import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from paceline.actors.text.stop_strings import StopStrings

TEXTS = st.text("abc", max_size=30)
STOPS = st.lists(st.text("abc", min_size=1, max_size=4), min_size=1, max_size=4)


def run(stops: list[str], pieces: list[str], include: bool = False) -> tuple[str, str | None]:
    search = StopStrings(stops, include=include)
    shown = ""
    for piece in pieces:
        shown += search.feed(piece)
        if search.hit is not None:
            return shown, search.hit
    return shown + search.flush(), None


def expected(stops: list[str], text: str, include: bool) -> tuple[str, str | None]:
    """The obvious way: the shortest beginning of ``text`` that ends on a stop string; the longest such string."""
    for end in range(1, len(text) + 1):
        found = max((s for s in stops if text[:end].endswith(s)), key=len, default=None)
        if found is not None:
            return (text[:end] if include else text[: end - len(found)]), found
    return text, None


@settings(max_examples=300, deadline=None)
@given(TEXTS, STOPS, st.booleans(), st.data())
def test_any_split_gives_what_the_whole_gives(text: str, stops: list[str], include: bool, data: st.DataObject) -> None:
    cuts = sorted(data.draw(st.lists(st.integers(0, len(text)), max_size=8)))
    pieces = [text[a:b] for a, b in zip([0, *cuts], [*cuts, len(text)], strict=True)]
    assert run(stops, pieces, include) == expected(stops, text, include)


@settings(max_examples=200, deadline=None)
@given(TEXTS, STOPS)
def test_held_back_is_the_longest_end_that_may_still_become_a_stop_string(text: str, stops: list[str]) -> None:
    search = StopStrings(stops)
    shown = ""
    for end, character in enumerate(text, 1):
        shown += search.feed(character)
        if search.hit is not None:
            assert shown + search.hit == text[:end]
            return
        ends = [text[start:end] for start in range(end)]
        assert text[len(shown) : end] == next((e for e in ends if any(s.startswith(e) for s in stops)), "")


def test_first_complete_wins_then_the_longest() -> None:
    assert run(["abcd", "bc"], ["abcd"]) == ("a", "bc")
    assert run(["bc", "abc"], ["xabcd"]) == ("x", "abc")


def test_no_stops_hold_nothing_back() -> None:
    assert StopStrings([]).feed("abc") == "abc"


def test_include_keeps_the_stop_string_and_drops_the_rest() -> None:
    assert run(["END"], ["one E", "ND two"], include=True) == ("one END", "END")


def test_text_that_only_began_like_a_stop_string_comes_out() -> None:
    search = StopStrings(["</s>"])
    assert search.feed("a</") == "a"
    assert search.feed("b") == "</b"
    assert search.flush() == ""


def test_empty_stop_string_is_a_bug_of_ours() -> None:
    with pytest.raises(ValueError, match="empty"):
        StopStrings([""])
