"""Patterns of response templates against Python's ``re``, however the text is cut; and what they refuse."""

import re

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from paceline.actors.text.response.patterns import PatternError, compile_literals, compile_pattern
from paceline.actors.text.response.scanner import MAX_DELIMITER_CHARS, Hit, Scanner, Watch

SOURCES = [
    r"\s*<tool_call>\s*<function=(?P<name>[^>\s]+)>", r"\s*</think>\s*", r"\[A\](?:x|y{2,3}?)*", r"<a.*?>", r"a|ab|abc",
    r"(?:<p>|[;\n])\s*(?=\{)", r"(?P<a>x+?)(?P<b>x*)y", r"x{2,}y?", r"\x3cp\u003e", r"\w+\.\d", r"[]a]z|[^]a]q", r"a\Z",
]  # fmt: skip
PIECES = ["<tool_call>", "<function=ab>", " ", "\n", "</think>", "[A]", "x", "yy", "{", "<p>", ";", "z", "<", "a", "b",
          "abc", ">", "1.2", "]", "q"]  # fmt: skip


def found(sources: list[str], pieces: list[str], *, is_start: bool = False) -> list[str | Hit]:
    """Text and delimiters in order, neighbouring texts joined."""
    watch = Watch([compile_pattern(s) for s in sources])
    scanner, out = Scanner(watch, is_start=is_start), list[str | Hit]()

    def put(text: str) -> None:
        if text and out and isinstance(out[-1], str):
            out[-1] += text
        elif text:
            out.append(text)

    for piece in [*pieces, None]:
        text = piece or ""
        while (one := scanner.feed(text, is_last=piece is None)).hit is not None:
            put(one.before)
            out.append(one.hit)
            scanner, text = Scanner(watch), one.rest
        put(one.before)
    return out


@settings(max_examples=400, deadline=None)
@given(st.sampled_from(SOURCES), st.lists(st.sampled_from(PIECES), max_size=12))
def test_what_re_finds_is_found_however_the_text_is_cut(source: str, pieces: list[str]) -> None:
    text = "".join(pieces)
    expected = [(m[0], m.groupdict()) for m in re.finditer(source, text, re.DOTALL)]
    for cut in ([text], pieces, list(text)):
        hits = [h for h in found([source], cut) if isinstance(h, Hit)]
        assert [(h.text, h.groups) for h in hits] == [(t, {k: v for k, v in g.items() if v is not None})
                                                      for t, g in expected]  # fmt: skip


@settings(max_examples=300, deadline=None)
@given(st.lists(st.sampled_from(SOURCES), min_size=1, max_size=4), st.lists(st.sampled_from(PIECES), max_size=12))
def test_several_together_are_the_same_however_the_text_is_cut(sources: list[str], pieces: list[str]) -> None:
    text = "".join(pieces)
    whole = found(sources, [text])
    assert found(sources, list(text)) == whole and found(sources, pieces) == whole
    assert "".join(one if isinstance(one, str) else one.text for one in whole) == text


def test_the_earliest_wins_then_the_longest_then_the_first() -> None:
    def texts(*sources: str) -> list[object]:
        return [h if isinstance(h, str) else (h.which, h.text) for h in found(list(sources), ["aab"])]

    assert texts("ab", "aab") == [(1, "aab")]
    assert texts("a", "aa") == [(1, "aa"), "b"]
    assert texts("aa", "a+") == [(0, "aa"), "b"]


def test_a_complete_literal_is_told_at_once_and_text_is_held_no_longer_than_it_may_be_one() -> None:
    scanner = Scanner(Watch([compile_literals(["<end>"])]))
    assert scanner.feed("ab<e").before == "ab"
    assert scanner.feed("n").before == ""
    assert scanner.feed("x").before == "<enx"
    assert scanner.feed("<end>").hit == Hit(0, "<end>", {})


def test_the_start_of_the_text_is_a_place() -> None:
    assert found([r"\A\s*x"], list(" x x"), is_start=True) == [Hit(0, " x", {}), " x"]
    assert found([r"\Ax"], ["x"]) == ["x"]


def test_threads_that_stand_at_one_place_are_one() -> None:
    scanner = Scanner(Watch([compile_pattern(r"\s*<tool_call>"), compile_pattern(r"\s*(?:\s|a)*</think>")]))
    scanner.feed(" " * 500)
    assert all(len(lane.threads) <= len(lane.pattern.ops) for lane in scanner._lanes)


def test_what_is_too_long_for_a_delimiter_is_none() -> None:
    flood = " " * (3 * MAX_DELIMITER_CHARS)
    scanner = Scanner(Watch([compile_pattern(r"\s*<tool_call>")]))
    assert len(scanner.feed(flood).before) >= 2 * MAX_DELIMITER_CHARS
    assert (hit := scanner.feed("<tool_call>").hit) is not None and hit.text.endswith(" <tool_call>")


@pytest.mark.parametrize(
    "source",
    ["(", "a**", r"\bx", r"(a)\1", "^a", "(?<=a)b", "(?!a)b", "(?=a)b", "a{1000}", "x" * 3000, "", "a?", "(?:)|b",
     "(?i)a", "((((a{200}){200}){200}){200})", "(" * 40 + "a" + ")" * 40, "(?:a$)*"],
    ids=lambda s: s[:20],
)  # fmt: skip
def test_what_cannot_be_used_is_refused_in_one_line(source: str) -> None:
    with pytest.raises(PatternError) as refused:
        compile_pattern(source)
    assert "\n" not in str(refused.value) and len(str(refused.value)) < 300


def test_runs_of_plain_characters_are_known() -> None:
    assert compile_pattern(r"\s*\[TOOL_CALLS\](?P<n>\w+)ab?<x>").literals == ["[TOOL_CALLS]", "a", "<x>"]
