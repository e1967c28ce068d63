"""A stream that begins anew, cut where its caller stands: the same text in any pieces, told once."""

import msgspec
from hypothesis import given, settings
from hypothesis import strategies as st

from paceline.actors.call import joined
from paceline.actors.messages import Part, PositionLogprobs, TextDelta, TextLogprob
from paceline.actors.told import Gap, Told


def stream(parts: list[list[Part]]) -> list[TextDelta]:
    """One delta for each token: what it says, its id and its log-probability; the last one ends."""
    deltas: list[TextDelta] = []
    offset = 0
    for i, said in enumerate(parts):
        is_plain = all(part.kind == "content" for part in said)
        delta = TextDelta(
            "c", 0, offset, "".join(p.text for p in said if p.kind == "content"), i + 1, [i],
            [PositionLogprobs(TextLogprob(i, "", b"", -1.0, 1), [])], [None] if i == 0 else None,
            "length" if i == len(parts) - 1 else None, num_cached=4, parts=[] if is_plain else said,
        )  # fmt: skip
        offset += delta.num_chars
        deltas.append(delta)
    return deltas


def packed(deltas: list[TextDelta], sizes: list[int]) -> list[TextDelta]:
    """The same in other pieces."""
    found: list[TextDelta] = []
    rest = iter(deltas)
    for size in [*sizes, *[1] * len(deltas)]:
        taken = [d for _, d in zip(range(size), rest, strict=False)]
        if taken:
            whole = taken[0]
            for delta in taken[1:]:
                whole = joined(whole, delta)
            found.append(whole)
    return found


def told_of(deltas: list[TextDelta]) -> tuple[object, ...]:
    """All that a caller can know, however it came."""
    pieces: list[list[object]] = []
    for piece in (p for d in deltas for p in d.pieces):
        if pieces and pieces[-1][:2] == [piece.kind, piece.index] and piece.kind != "call":
            pieces[-1][2] = f"{pieces[-1][2]}{piece.text}"
        else:
            pieces.append([piece.kind, piece.index, piece.text])
    return (
        pieces,
        [i for d in deltas for i in d.token_ids],
        [p for d in deltas for p in d.logprobs or []],
        [d.prompt_logprobs for d in deltas if d.prompt_logprobs is not None],
        [d.finish_reason for d in deltas if d.finish_reason is not None],
        deltas[-1].num_tokens,
        max(d.num_cached for d in deltas),
    )


kinds = st.sampled_from(["content", "content", "reasoning", "call", "arguments"])
part = st.builds(Part, kinds, st.text("ab", min_size=1, max_size=4))


@settings(max_examples=300, deadline=None)
@given(
    st.lists(st.lists(part, max_size=3), min_size=1, max_size=12),
    st.lists(st.tuples(st.integers(0, 12), st.lists(st.integers(1, 6), max_size=6)), max_size=3),
)
def test_deaths_between_any_two_deltas_change_nothing(
    parts: list[list[Part]], lives: list[tuple[int, list[int]]]
) -> None:
    """Each life: how many deltas come before the next one, and how many tokens each of them has."""
    whole = stream(parts)
    told, got = Told(), list[TextDelta]()
    for num, sizes in [*lives, (len(whole), [3, 1, 2])]:
        again = [msgspec.structs.replace(d, num_cached=d.num_cached if not got else 99) for d in packed(whole, sizes)]
        for delta in again[:num]:
            news = told.news(delta)
            if news is not None:
                assert news.offset == sum(d.num_chars for d in got)
                got.append(news)
        told.begin_again()
    assert told.is_over
    assert told_of(got) == told_of(whole)


def test_nothing_new_is_not_told_and_a_gap_is_an_error() -> None:
    whole = stream([[Part("content", "ab")], [], [Part("content", "c")]])
    told = Told()
    assert [told.news(d) is not None for d in whole[:2]] == [True, True]
    told.begin_again()
    assert [told.news(d) for d in whole[:2]] == [None, None]
    try:
        told.news(msgspec.structs.replace(whole[2], offset=3))
    except Gap:
        pass
    else:
        raise AssertionError("a gap was taken")
    last = told.news(whole[2])
    assert last is not None and (last.text, last.offset) == ("c", 2)
    assert told.news(whole[2]) is None
