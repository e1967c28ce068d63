"""One choice: however tokens are grouped into outputs, doubled or cut, the client gets the same text, ids and end."""

from itertools import pairwise

import msgspec
from hypothesis import given, settings
from hypothesis import strategies as st
from tiny_tokenizers import byte_level

from paceline.actors.choice import Choice
from paceline.actors.messages import Sampling, TextDelta
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
