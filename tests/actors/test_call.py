"""The buffer of one call: order, gaps, duplicates, joining for slow readers, and errors that travel."""

import anyio
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from paceline.actors.call import MAX_BUFFERED, Call, error_of
from paceline.actors.messages import Admitted, PositionLogprobs, PromptInfo, TextDelta, TextLogprob, Tokenized
from paceline.engine.errors import (
    ActorError,
    DeadlineError,
    InvalidRequestError,
    PacelineError,
    UnavailableError,
)


def delta(offset: int, text: str, *, index: int = 0, last: bool = False, num: int = 1) -> TextDelta:
    return TextDelta("c", index, offset, text, num, [num], finish_reason="stop" if last else None)


async def read_all(call: Call) -> list[TextDelta]:
    items: list[TextDelta] = []
    while (item := await call.next()) is not None:
        assert isinstance(item, TextDelta)
        items.append(item)
    return items


@settings(max_examples=60, deadline=None)
@given(st.lists(st.tuples(st.integers(0, 2), st.text(max_size=5), st.integers(0, 4)), max_size=3 * MAX_BUFFERED))
def test_a_reader_of_any_speed_gets_all_text_in_order(parts: list[tuple[int, str, int]]) -> None:
    """Each part: choice, text, and how many items the reader takes after it."""

    async def main() -> None:
        call = Call(3)
        sent, got = ["", "", ""], ["", "", ""]
        counts = [0, 0, 0]
        ids: list[list[int]] = [[], [], []]

        def take(item: object) -> None:
            assert isinstance(item, TextDelta) and item.offset == len(got[item.index])
            got[item.index] += item.text
            ids[item.index] += item.token_ids

        for index, text, reads in parts:
            counts[index] += 1
            call.put(delta(len(sent[index]), text, index=index, num=counts[index]))
            sent[index] += text
            assert len(call._buffer) <= MAX_BUFFERED + 2
            for _ in range(min(reads, len(call._buffer))):
                take(await call.next())
        for index in range(3):
            call.put(delta(len(sent[index]), "", index=index, last=True, num=counts[index] + 1))
        for item in await read_all(call):
            take(item)
        assert got == sent
        assert ids == [list(range(1, n + 2)) for n in counts]
        assert call.is_over

    anyio.run(main)


def test_joining_keeps_logprobs_and_what_is_told_once() -> None:
    async def main() -> None:
        at = [PositionLogprobs(TextLogprob(1, "x", b"x", -1.0, 1), [])]
        call = Call(1)
        call.put(TextDelta("c", 0, 0, "x", 1, [5], at, [None, *at], num_cached=7, queue_s=0.5))
        for i in range(1, 2 * MAX_BUFFERED):
            call.put(TextDelta("c", 0, i, "x", i + 1, [5], at))
        call.put(TextDelta("c", 0, 2 * MAX_BUFFERED, "", 2 * MAX_BUFFERED, finish_reason="length", stop_reason=3))
        items = await read_all(call)
        assert len(items) == MAX_BUFFERED
        assert sum(len(item.logprobs or []) for item in items) == 2 * MAX_BUFFERED
        assert items[0].prompt_logprobs == [None, *at] and items[0].num_cached == 7 and items[0].queue_s == 0.5
        assert (items[-1].finish_reason, items[-1].stop_reason) == ("length", 3)
        assert items[-1].num_tokens == 2 * MAX_BUFFERED

    anyio.run(main)


def test_duplicates_are_dropped_and_a_gap_is_an_error() -> None:
    async def main() -> None:
        call = Call(1)
        call.put(delta(0, "ab"))
        call.put(delta(0, "ab"))
        call.put(delta(2, "c"))
        call.put(delta(5, "f"))
        assert [(await call.next()).text for _ in range(2)] == ["ab", "c"]  # type: ignore[union-attr]
        with pytest.raises(ActorError, match="after character 3"):
            await call.next()

    anyio.run(main)


def test_a_choice_ends_once() -> None:
    call = Call(2)
    call.put(delta(0, "a", last=True))
    call.put(delta(1, "", last=True))
    call.put(delta(1, "b"))
    assert call.num_open == 1 and not call.is_over


def test_an_error_comes_after_what_was_sent_before_it_and_the_first_one_counts() -> None:
    async def main() -> None:
        call = Call(1)
        call.put(Admitted("c", [PromptInfo(3)]))
        call.fail(ActorError("first"))
        call.fail(ActorError("second"))
        assert isinstance(await call.next(), Admitted)
        with pytest.raises(ActorError, match="first"):
            await call.next()
        assert call.is_over

    anyio.run(main)


def test_an_answer_to_tokenize_ends_its_call() -> None:
    async def main() -> None:
        call = Call(1)
        call.put(Tokenized("c", [1], []))
        assert call.is_over
        assert isinstance(await call.next(), Tokenized)
        assert await call.next() is None

    anyio.run(main)


@pytest.mark.parametrize(
    "error",
    [
        InvalidRequestError("bad", param="messages.0.role", code="c"),
        InvalidRequestError("gone", not_found=True),
        UnavailableError("busy", code="queue_full", retry_after_s=7.5),
        DeadlineError("late"),
        ActorError("broken"),
    ],
    ids=lambda e: type(e).__name__,
)
def test_errors_survive_the_way(error: PacelineError) -> None:
    again = error_of(error.info())
    assert type(again) is type(error) and again.info() == error.info()
