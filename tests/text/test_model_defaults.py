"""What a model comes with, where a client says nothing of it."""

from typing import Any

import pytest
from tiny_cards import card
from tiny_tokenizers import byte_level

from paceline.actors.messages import Chat, Generate, Sampling
from paceline.actors.text.model_defaults import with_opening, with_stops
from paceline.actors.text.prompt import PromptEncoder
from paceline.actors.text.sampling import SamplingResolver, Sizes
from paceline.engine.errors import InvalidRequestError

HI, HO = {"role": "user", "content": "hi"}, {"role": "assistant", "content": "ho"}
ASK = {"role": "user", "content": "and?"}
FOX, CAT = {"role": "system", "content": "a fox"}, {"role": "system", "content": "a cat"}


@pytest.mark.parametrize(
    ("given", "comes_with", "rendered"),
    [
        ([ASK], {}, [ASK]),
        ([ASK], {"system": "a fox"}, [FOX, ASK]),
        ([CAT, ASK], {"system": "a fox"}, [CAT, ASK]),
        ([CAT, ASK], {"messages": [HI, HO]}, [CAT, HI, HO, ASK]),
        ([ASK], {"system": "a fox", "messages": [HI, HO]}, [FOX, HI, HO, ASK]),
        ([CAT | {"role": "developer"}], {"system": "a fox"}, [CAT | {"role": "developer"}]),
        ([ASK, CAT], {"system": "a fox"}, [FOX, ASK, CAT]),
    ],
)
def test_conversations(given: list[Any], comes_with: dict[str, Any], rendered: list[Any]) -> None:
    chat = Chat(messages=given, add_generation_prompt=False)
    made = with_opening(chat, card(**comes_with))
    assert made.messages == rendered and not made.add_generation_prompt and chat.messages == given
    tokenizer = byte_level()
    ids = PromptEncoder(tokenizer, card(**comes_with)).encode_chat(chat, False)
    assert ids == PromptEncoder(tokenizer, card()).encode_chat(
        Chat(messages=rendered, add_generation_prompt=False), False
    )


def test_stops() -> None:
    comes_with = card(defaults={"stop": ["a", "b"]})
    call = Generate("c", Sampling(seed=1), prompts=["x"])
    assert with_stops(call, comes_with).sampling == Sampling(seed=1, stop=["a", "b"])
    own = Generate("c", Sampling(stop=["z"]), prompts=["x"])
    assert with_stops(own, comes_with) is own and with_stops(call, card()) is call


def resolved(defaults: dict[str, Any], num_prompt: int = 10, *, is_chat: bool = True, **fields: Any) -> Any:
    until_full = fields.pop("until_full", False)
    resolver = SamplingResolver(byte_level(), card(defaults=defaults))
    return resolver.resolve(
        Sampling(**fields), num_prompt, Sizes(100, 512), is_chat=is_chat, until_full=until_full
    )  # fmt: skip


def test_penalties() -> None:
    defaults = {"presence_penalty": 0.5, "frequency_penalty": -0.5}
    found = resolved(defaults)
    assert (found.presence_penalty, found.frequency_penalty) == (0.5, -0.5)
    found = resolved(defaults, presence_penalty=0.0, frequency_penalty=0.0)
    assert (found.presence_penalty, found.frequency_penalty) == (0.0, 0.0)


def test_the_length_of_an_answer() -> None:
    for is_chat in (True, False):
        assert resolved({"max_tokens": 30}, is_chat=is_chat).max_tokens == 30
        assert resolved({"max_tokens": 30}, 80, is_chat=is_chat).max_tokens == 20, "never a reason to refuse a call"
        assert resolved({"max_tokens": 30}, is_chat=is_chat, max_tokens=5).max_tokens == 5
        assert resolved({"max_tokens": 30}, is_chat=is_chat, until_full=True).max_tokens == 90


def test_a_model_may_have_more_stops_than_a_client() -> None:
    stops = [f"s{i}" for i in range(9)]
    assert resolved({"stop": stops}, stop=stops)
    with pytest.raises(InvalidRequestError, match="9 strings: at most 4"):
        resolved({}, stop=stops)
