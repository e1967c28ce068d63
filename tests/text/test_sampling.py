from typing import Any, Literal

import pytest
from hypothesis import given
from hypothesis import strategies as st
from tiny_cards import card
from tiny_tokenizers import byte_level

from paceline.actors.messages import Embed, Sampling
from paceline.actors.text.sampling import SamplingResolver, Sizes, choice_seed
from paceline.engine.errors import InvalidRequestError
from paceline.engine.types import Pooling, SamplingParams

SIZES = Sizes(max_model_len=100, logits_width=512)


def resolve(
    num_prompt: int = 10, *, is_chat: bool = False, defaults: dict[str, Any] | None = None, **fields: Any
) -> SamplingParams:
    resolver = SamplingResolver(byte_level(), card(defaults=defaults or {}))
    return resolver.resolve(Sampling(**fields), num_prompt, SIZES, is_chat=is_chat)


def test_defaults_without_a_model_that_has_any() -> None:
    params = resolve(seed=7)
    assert params == SamplingParams(max_tokens=16, seed=7, end_ids=[2, 0])


def test_the_models_defaults_and_the_clients_wishes() -> None:
    defaults = {"temperature": 0.6, "top_p": 0.9, "top_k": 40, "min_p": 0.1, "repetition_penalty": 1.1}
    params = resolve(defaults=defaults)
    assert {name: getattr(params, name) for name in defaults} == defaults
    wishes = {"temperature": 0.0, "top_p": 1.0, "top_k": 0, "min_p": 0.0, "repetition_penalty": 1.0}
    params = resolve(defaults=defaults, **wishes)
    assert {name: getattr(params, name) for name in wishes} == wishes
    assert resolve(defaults={"temperature": "hot"}).temperature == 1.0


@pytest.mark.parametrize(("asked", "used"), [(0.0, 0.0), (1e-9, 0.01), (0.01, 0.01), (2.0, 2.0)])
def test_temperatures_just_above_zero_are_raised(asked: float, used: float) -> None:
    assert resolve(temperature=asked).temperature == used


def test_a_completion_fills_the_context_only_where_it_is_told_to() -> None:
    resolver = SamplingResolver(byte_level(), card())
    wishes = (True, False)
    told = [resolver.resolve(Sampling(), 40, SIZES, is_chat=False, until_full=w).max_tokens for w in wishes]
    assert told == [60, 16]
    assert resolver.resolve(Sampling(max_tokens=5), 40, SIZES, is_chat=False, until_full=True).max_tokens == 5


def test_top_k_minus_one_is_off() -> None:
    assert resolve(top_k=-1).top_k == 0


@pytest.mark.parametrize(
    ("num_prompt", "is_chat", "asked", "used"),
    [(10, False, None, 16), (95, False, None, 5), (10, True, None, 90), (10, True, 90, 90), (100, False, 0, 0)],
)
def test_max_tokens(num_prompt: int, is_chat: bool, asked: int | None, used: int) -> None:
    assert resolve(num_prompt, is_chat=is_chat, max_tokens=asked).max_tokens == used


@pytest.mark.parametrize(
    ("num_prompt", "asked", "param", "message"),
    [
        (60, 41, "max_tokens", "60 tokens and max_tokens is 41: 101 exceeds the context of 100; use max_tokens <= 40"),
        (100, None, "prompt", "100 tokens: the context of 100 leaves no room for output; shorten it to less than 100"),
        (120, 5, "prompt", "120 tokens: the context of 100 leaves no room for output; shorten it to less than 100"),
    ],
)
def test_the_context_bounds_prompt_and_output(num_prompt: int, asked: int | None, param: str, message: str) -> None:
    with pytest.raises(InvalidRequestError) as caught:
        resolve(num_prompt, max_tokens=asked)
    assert str(caught.value) == f"prompt has {message}"
    assert (caught.value.param, caught.value.code) == (param, "context_length_exceeded")


@pytest.mark.parametrize(
    ("fields", "param"),
    [
        ({"stop_token_ids": [512]}, "stop_token_ids"),
        ({"stop_token_ids": [-1]}, "stop_token_ids"),
        ({"logit_bias": {512: 1.0}}, "logit_bias"),
        ({"allowed_token_ids": [0, 9999]}, "allowed_token_ids"),
        ({"logprob_token_ids": [512]}, "logprob_token_ids"),
        ({"min_tokens": 17}, "min_tokens"),
        ({"stop": ["a"] * 5}, "stop"),
        ({"stop": [""]}, "stop"),
        ({"bad_words": [" "]}, "bad_words.0"),
        ({"bad_words": ["x"] * 129}, "bad_words"),
        ({"bad_words": ["0123456789" * 120]}, "bad_words"),
    ],
)
def test_what_does_not_fit_the_model_is_refused(fields: dict[str, Any], param: str) -> None:
    with pytest.raises(InvalidRequestError) as caught:
        resolve(**fields)
    assert caught.value.param == param


def test_ids_up_to_the_logits_width_are_taken() -> None:
    """The width, not the tokenizer's length: padded rows are ids too."""
    assert resolve(stop_token_ids=[511], logit_bias={511: 1.0}, allowed_token_ids=[511]).stop_token_ids == [511]


def test_bad_words_are_banned_with_and_without_a_space() -> None:
    words = resolve(bad_words=["fox", " dog"]).bad_words
    assert words is not None
    assert [byte_level().decode(w) for w in words] == ["fox", " fox", "dog", " dog"]


@given(st.integers(-(2**63), 2**63 - 1), st.integers(1, 1023), st.integers(1, 1023))
def test_seeds_of_choices(seed: int, one: int, other: int) -> None:
    assert choice_seed(seed, 0) == seed
    assert 0 <= choice_seed(seed, one) < 2**63
    assert (choice_seed(seed, one) == choice_seed(seed, other)) == (one == other)


def test_seeds_of_choices_never_change() -> None:
    """A restart, another machine or a new version must draw the same text."""
    assert [choice_seed(42, i) for i in range(3)] == [42, 1923813095814325443, 5539777071347460704]


# --- vectors ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", ["last", "mean"])
def test_a_vector_needs_no_room_for_output(kind: Literal["last", "mean"]) -> None:
    resolver = SamplingResolver(byte_level(), card(pooling=kind))
    assert resolver.pooled(Embed(), 100, SIZES) == SamplingParams(max_tokens=0, pooling=Pooling(kind))
    with pytest.raises(InvalidRequestError, match=r"input\.3 has 101 tokens: the context is 100") as e:
        resolver.pooled(Embed(), 101, SIZES, "input.3")
    assert (e.value.param, e.value.code) == ("input.3", "context_length_exceeded")


@pytest.mark.parametrize(
    ("allowed", "asked", "says"),
    [
        ([], 8, ""),
        ([], 4, "it can only be 8; leave it out"),
        ([2, 4], 4, ""),
        ([2, 4], 3, "it must be one of 2, 4, 8"),
        ([-1], 3, ""),
        ([-1], 9, "it must be at most 8"),
    ],
)
def test_vectors_are_cut_only_where_the_model_allows_it(allowed: list[int], asked: int, says: str) -> None:
    resolver = SamplingResolver(byte_level(), card(embedding_dimensions=allowed))
    if not says:
        assert resolver.pooled(Embed(asked), 5, SIZES).pooling == Pooling("last", asked)
        return
    with pytest.raises(InvalidRequestError, match=says) as e:
        resolver.pooled(Embed(asked), 5, SIZES)
    assert (e.value.param, e.value.code) == ("dimensions", None if allowed else "unsupported_parameter")


def test_a_pooling_that_is_not_done_here_is_refused() -> None:
    with pytest.raises(InvalidRequestError, match="made for cls pooling") as e:
        SamplingResolver(byte_level(), card(pooling="cls")).pooled(Embed(), 5, SIZES)
    assert e.value.code == "unsupported_parameter"
