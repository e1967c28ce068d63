"""One choice: however tokens are grouped into outputs, doubled or cut, the client gets the same text, ids and end."""

from itertools import pairwise

import msgspec
from hypothesis import given, settings
from hypothesis import strategies as st
from tiny_tokenizers import byte_level

from paceline.actors.choice import Choice
from paceline.actors.messages import Reading, Sampling, TextDelta
from paceline.actors.text.response.formats import resolve
from paceline.actors.text.response.reader import OutputReader
from paceline.actors.text.token_bytes import TokenBytes
from paceline.engine.core.plan import RequestOutput, TokenLogprobs

TOKENS = TokenBytes(byte_level())
IDS = st.lists(st.integers(3, byte_level().get_vocab_size() - 1), min_size=1, max_size=30)
STOPS = st.lists(st.sampled_from(["a", "th", "e ", "fo", "\ufffd", "é", " s"]), max_size=3)


def outputs(ids: list[int], cuts: list[int], ended: bool) -> list[RequestOutput]:
    bounds = [0, *sorted(cuts), len(ids)]
    made = [
        RequestOutput("c-0", a, ids[a:b], logprobs=[TokenLogprobs(i, -1.0, 1, [], []) for i in ids[a:b]])
        for a, b in pairwise(bounds)
    ]
    made[-1] = msgspec.structs.replace(made[-1], finish_reason="stop" if ended else "length")
    return made


def run(sampling: Sampling, made: list[RequestOutput]) -> tuple[str, list[int], list[int], object, object, int]:
    choice = Choice("c", 0, "c-0", TOKENS, [5], sampling, prompt_logprobs=False, return_token_ids=True)
    deltas: list[TextDelta] = []
    for output in made:
        delta = choice.apply(output)
        if delta is not None:
            assert delta.offset == sum(len(d.text) for d in deltas)
            deltas.append(delta)
    assert choice.is_done
    assert [d.finish_reason is not None for d in deltas] == [False] * (len(deltas) - 1) + [True]
    last = deltas[-1]
    return (
        "".join(d.text for d in deltas),
        [i for d in deltas for i in d.token_ids],
        [p.chosen.token_id for d in deltas for p in d.logprobs or []],
        last.finish_reason,
        last.stop_reason,
        last.num_tokens,
    )


@settings(max_examples=300, deadline=None)
@given(IDS, STOPS, st.booleans(), st.booleans(), st.integers(0, 4), st.data())
def test_grouping_and_doubling_change_nothing(
    ids: list[int], stops: list[str], include: bool, ended: bool, min_tokens: int, data: st.DataObject
) -> None:
    sampling = Sampling(stop=stops, include_stop_str_in_output=include, min_tokens=min_tokens, logprobs=0)
    whole = run(sampling, outputs(ids, [], ended))
    cuts = data.draw(st.lists(st.integers(0, len(ids) - 1), max_size=6))
    made = outputs(ids, cuts, ended)
    doubled = [made[i] for i in range(len(made)) for _ in range(data.draw(st.integers(1, 2)))]
    assert run(sampling, made) == whole
    assert run(sampling, doubled) == whole
    text, shown, logprobs, finish, stop, num_tokens = whole
    assert shown == logprobs == ids[: len(shown)]
    assert num_tokens == len(shown)
    if stop is None:
        assert shown == ids
        visible = ids[:-1] if ended and not include else ids
        assert text == byte_level().decode(visible, skip_special_tokens=True)
    else:
        assert finish == "stop" and stop in stops


# --- read as parts ---------------------------------------------------------------------------------------------------


def read(text: str, sizes: int, *, reading: Reading, ended: bool = True) -> list[TextDelta]:
    """The deltas of an output whose text is ``text``, ``sizes`` tokens at a time."""
    ids = [*byte_level().encode(text, add_special_tokens=False).ids, 2]
    parser = OutputReader(resolve("tools <tool_call> arguments </think>")).parser(reading, "<|im_start|>assistant\n")
    choice = Choice(
        "c", 0, "c-0", TOKENS, [5], Sampling(logprobs=0), prompt_logprobs=False, return_token_ids=False, parser=parser,
        reading=reading,
    )  # fmt: skip
    deltas: list[TextDelta] = []
    for output in outputs(ids, list(range(sizes, len(ids), sizes)), ended):
        if (delta := choice.apply(output)) is not None:
            assert delta.offset == sum(d.num_chars for d in deltas)
            deltas.append(delta)
    assert choice.is_done and deltas[-1].finish_reason is not None
    return deltas


F = {"type": "function", "function": {"name": "f"}}
ANSWER = '<think>hm so</think>Fine.\n<tool_call>{"name": "f", "arguments": {"a": 1}}</tool_call>'


def test_an_output_becomes_parts_however_its_tokens_come() -> None:
    for sizes in (1, 3, 1000):
        deltas = read(ANSWER, sizes, reading=Reading(tools=[F]))
        told: dict[str, str] = {}
        for part in (p for d in deltas for p in d.pieces):
            told[part.kind] = told.get(part.kind, "") + part.text
        assert told == {"reasoning": "hm so", "content": "Fine.", "call": "f", "arguments": '{"a": 1}'}
        assert "".join(d.text for d in deltas) == "Fine."
        num_thought = len(byte_level().encode("<think>hm so</think>", add_special_tokens=False).ids)
        assert 0 < deltas[-1].num_reasoning <= num_thought


def test_hidden_reasoning_takes_its_logprobs_along_and_is_counted() -> None:
    shown, hidden = (read(ANSWER, 2, reading=Reading(hides_reasoning=hides)) for hides in (False, True))
    assert not any(p.kind == "reasoning" for d in hidden for p in d.pieces)
    assert hidden[-1].num_reasoning == shown[-1].num_reasoning > 0
    num_positions = [sum(len(d.logprobs or ()) for d in deltas) for deltas in (shown, hidden)]
    assert num_positions[1] == num_positions[0] - shown[-1].num_reasoning


def test_an_answer_ends_behind_the_last_wanted_call() -> None:
    deltas = read(ANSWER + ANSWER, 4, reading=Reading(tools=[F], max_calls=1))
    assert sum(p.kind == "call" for d in deltas for p in d.pieces) == 1
    assert deltas[-1].finish_reason == "stop" and deltas[-1].stop_reason is None
    assert deltas[-1].num_tokens < len(byte_level().encode(ANSWER * 2).ids)
