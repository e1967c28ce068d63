"""vLLM's flags of speculation mean what they mean there, or are refused by name; ``--draft-model`` is the short way."""

import argparse
import json
from typing import Any

import pytest

from paceline.actors import cli, flags
from paceline.engine import config
from paceline.engine.config import Speculation
from paceline.engine.errors import ConfigError


def section(*words: str) -> Speculation:
    args = cli.parse("serve", ["m", *words])
    assert isinstance(args, argparse.Namespace)
    return config.load(None, args.overrides, {}).speculation


def of(**wish: Any) -> Speculation:
    return section("--speculative-config", json.dumps(wish))


def test_every_key_of_vllm_that_has_a_meaning_here() -> None:
    ngram = of(method="ngram", num_speculative_tokens=5, prompt_lookup_min=2, prompt_lookup_max=4)
    assert (ngram.methods, ngram.max_draft_tokens) == (["ngram"], 5)
    assert ngram.settings == {"ngram": {"min_match": 2, "max_match": 4}}
    suffix = of(
        method="suffix",
        suffix_decoding_max_tree_depth=16,
        suffix_decoding_max_cached_requests=10,
        suffix_decoding_max_spec_factor=2.0,
        suffix_decoding_min_token_prob=0.2,
    )
    assert suffix.settings["suffix"] == {
        "max_depth": 16,
        "global_requests": 10,
        "max_factor": 2.0,
        "min_token_prob": 0.2,
    }
    draft = of(model="small", num_speculative_tokens=4, rejection_sample_method="block")
    assert (draft.methods, draft.rule) == (["draft_model"], "block")
    assert draft.settings == {"draft_model": {"model": "small"}}
    assert of(method="eagle3", model="heads").methods == ["eagle"]
    table = of(method="suffix", num_speculative_tokens_per_batch_size=[[1, 4, 3]])
    assert (table.policy, table.table) == ("table", [(1, 4, 3)])
    assert of(prompt_lookup_max=3).methods == ["ngram"]
    assert "ngram" not in of(method="ngram", model="[ngram]").settings


@pytest.mark.parametrize(
    ("wish", "told"),
    [
        ('{"method": "suffix", "quantization": "fp8"}', "'quantization' is not supported; known: method"),
        ('{"num_speculative_tokens": 3, "rejection_sample_method": "block"}', "names no method"),
        ('{"method": "suffix", "prompt_lookup_max": 3}', "belongs to method ngram"),
        ('{"method": "suffix", "rejection_sample_method": "fast"}', "use standard or block"),
        ('{"method": ["suffix"]}', "must be a name"),
        ("{method: suffix}", "is no JSON"),
        ("[]", "must be a JSON object"),
    ],
)
def test_what_has_no_meaning_is_refused_by_name(wish: str, told: str) -> None:
    with pytest.raises(flags.UsageError, match="--speculative-config") as refused:
        section("--speculative-config", wish)
    assert told in str(refused.value) and "\n" not in str(refused.value)


def test_a_method_that_does_not_exist_is_refused_with_those_that_do() -> None:
    with pytest.raises(ConfigError, match=r"mtp.*suffix"):
        of(method="mtp")


@pytest.mark.parametrize("order", [(0, 1, 2), (2, 1, 0), (1, 2, 0)])
def test_short_forms_come_in_any_order(order: tuple[int, ...]) -> None:
    words = [("--spec-method", "draft_model"), ("--spec-model", "small"), ("--spec-tokens", "3")]
    found = section(*(word for place in order for word in words[place]))
    assert (found.methods, found.max_draft_tokens) == (["draft_model"], 3)
    assert found.settings == {"draft_model": {"model": "small"}}


def test_the_depth_alone_leaves_the_methods_to_the_config() -> None:
    found = section("-s", 'speculation.methods=["suffix"]', "--spec-tokens", "3")
    assert (found.methods, found.max_draft_tokens) == (["suffix"], 3)


def test_a_draft_model_drafts_behind_text_that_is_looked_up() -> None:
    found = section("--draft-model", "small", "--spec-tokens", "4")
    assert (found.methods, found.max_draft_tokens) == (["suffix", "draft_model"], 4)
    assert found.settings == {"draft_model": {"model": "small"}}
