"""Every bound of a request is checked, at its edge, with the parameter named."""

import math
from typing import Any

import pytest
from core_sim import VOCAB, config

from paceline.engine.core.limits import check_request
from paceline.engine.errors import InvalidRequestError
from paceline.engine.types import Pooling, SamplingParams

CONFIG = config(num_blocks=8, block_size=4, max_model_len=40)  # 32 slots


def check(prompt: list[int] | None = None, output: tuple[int, ...] = (), priority: int = 0, **fields: Any) -> None:
    params = SamplingParams(**{"max_tokens": 8, **fields})
    check_request([1, 2] if prompt is None else prompt, output, params, priority, CONFIG)


@pytest.mark.parametrize(
    "fields",
    [
        {},
        {"max_tokens": 0},
        {"max_tokens": 30},
        {"min_tokens": 8},
        {"temperature": 0.0, "top_p": 1e-9, "min_p": 1.0, "top_k": 10**9},
        {"temperature": 2.0, "presence_penalty": -2.0, "frequency_penalty": 2.0, "repetition_penalty": 1e-6},
        {"seed": -(2**63)},
        {"seed": 2**64 - 1},
        {"logprobs": -1, "prompt_logprobs": VOCAB},
        {"stop_token_ids": [VOCAB - 1] * 128, "logprob_token_ids": [0] * 128},
        {"logit_bias": {0: -100.0, VOCAB - 1: 100.0}},
        {"allowed_token_ids": [0]},
        {"bad_words": [[1] * 1024]},
        {"output": (1, 2, 3)},
        {"max_tokens": 0, "pooling": Pooling("mean", 3)},
        {"prompt": [0, VOCAB - 1]},
    ],
)
def test_accepted(fields: dict[str, Any]) -> None:
    check(**fields)


@pytest.mark.parametrize(
    ("param", "fields"),
    [
        ("prompt", {"prompt": []}),
        ("prompt", {"prompt": [VOCAB]}),
        ("prompt", {"prompt": [-1]}),
        ("prompt", {"prompt": [2**63]}),
        ("output_ids", {"output": (1, VOCAB)}),
        ("max_tokens", {"output": (1,) * 9}),
        ("max_tokens", {"max_tokens": -1}),
        ("max_tokens", {"max_tokens": 39}),
        ("prompt", {"prompt": [1] * 40}),
        ("max_tokens", {"prompt": [1] * 3, "max_tokens": 30}),  # one more than the pool holds
        ("prompt", {"prompt": [1] * 32, "max_tokens": 1}),
        ("max_tokens", {"max_tokens": 1, "pooling": Pooling()}),
        ("max_tokens", {"max_tokens": 0, "pooling": Pooling(), "prompt_logprobs": 0}),
        ("max_tokens", {"max_tokens": 0, "pooling": Pooling(), "grammar": "start: A"}),
        ("dimensions", {"max_tokens": 0, "pooling": Pooling("last", -1)}),
        ("prompt", {"max_tokens": 0, "pooling": Pooling(), "prompt": [1] * 41}),
        ("min_tokens", {"min_tokens": 9}),
        ("min_tokens", {"min_tokens": -1}),
        ("temperature", {"temperature": 2.1}),
        ("temperature", {"temperature": -0.1}),
        ("temperature", {"temperature": math.nan}),
        ("temperature", {"temperature": math.inf}),
        ("top_p", {"top_p": 0.0}),
        ("top_p", {"top_p": 1.1}),
        ("min_p", {"min_p": -0.1}),
        ("top_k", {"top_k": -1}),
        ("presence_penalty", {"presence_penalty": 2.1}),
        ("frequency_penalty", {"frequency_penalty": -2.1}),
        ("repetition_penalty", {"repetition_penalty": 0.0}),
        ("repetition_penalty", {"repetition_penalty": math.inf}),
        ("seed", {"seed": 2**64}),
        ("seed", {"seed": -(2**63) - 1}),
        ("logprobs", {"logprobs": -2}),
        ("prompt_logprobs", {"prompt_logprobs": VOCAB + 1}),
        ("end_ids", {"end_ids": [VOCAB]}),
        ("stop_token_ids", {"stop_token_ids": [VOCAB]}),
        ("stop_token_ids", {"stop_token_ids": [0] * 129}),
        ("logprob_token_ids", {"logprob_token_ids": [-1]}),
        ("logprob_token_ids", {"logprob_token_ids": [0] * 129}),
        ("logit_bias", {"logit_bias": {VOCAB: 1.0}}),
        ("logit_bias", {"logit_bias": dict.fromkeys(range(1025), 1.0)}),
        ("logit_bias.3", {"logit_bias": {3: 100.1}}),
        ("logit_bias.3", {"logit_bias": {3: math.nan}}),
        ("allowed_token_ids", {"allowed_token_ids": []}),
        ("allowed_token_ids", {"allowed_token_ids": [VOCAB]}),
        ("allowed_token_ids", {"allowed_token_ids": [0] * (VOCAB + 1)}),
        ("bad_words", {"bad_words": [[1]] * 129}),
        ("bad_words", {"bad_words": [[1] * 1025]}),
        ("bad_words", {"bad_words": [[1], []]}),
        ("bad_words[0]", {"bad_words": [[VOCAB]]}),
        ("priority", {"priority": 1}),
    ],
)
def test_refused(param: str, fields: dict[str, Any]) -> None:
    with pytest.raises(InvalidRequestError) as caught:
        check(**fields)
    assert caught.value.param == param
    assert "\n" not in str(caught.value) and param.split(".")[0].split("[")[0] in str(caught.value)


def test_the_message_says_what_would_work() -> None:
    with pytest.raises(InvalidRequestError) as caught:
        check([1] * 12, max_tokens=30)
    assert str(caught.value) == (
        "prompt has 12 tokens and max_tokens is 30: 42 exceeds the context of 40; use max_tokens <= 28"
    )
    assert caught.value.code == "context_length_exceeded"


def test_logprobs_are_bounded_as_at_the_gateway() -> None:
    few = config(max_logprobs=20)
    check_request([1], (), SamplingParams(max_tokens=1, logprobs=20, prompt_logprobs=0), 0, few)
    for logprobs, prompt_logprobs in ((21, None), (-1, None), (None, 21)):
        params = SamplingParams(max_tokens=1, logprobs=logprobs, prompt_logprobs=prompt_logprobs)
        with pytest.raises(InvalidRequestError, match="must be 0 to 20"):
            check_request([1], (), params, 0, few)


def test_the_priority_policy_takes_priorities() -> None:
    check_request([1], (), SamplingParams(max_tokens=1), -3, config(policy="priority"))


@pytest.mark.parametrize(
    "field", ["num_blocks", "block_size", "max_num_seqs", "max_num_batched_tokens", "max_in_flight", "vocab_size"]
)
def test_sizes_must_be_positive(field: str) -> None:
    with pytest.raises(ValueError, match=f"{field} = 0: must be at least 1"):
        config(**{field: 0})


def test_queue_bounds() -> None:
    with pytest.raises(ValueError, match="max_queued_tokens = -1"):
        config(max_queued_tokens=-1)
    assert config(num_blocks=2, block_size=4).queued_token_limit == 64
    assert config(max_queued_tokens=5).queued_token_limit == 5
