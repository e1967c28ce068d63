"""Logits of every model plug-in against transformers, on small random weights."""

import warnings
from collections.abc import Callable
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest
import torch
from model_runs import all_logits, feed, fresh_cache, greedy, load
from tiny_models import LLAMA3_SCALING, make_gguf, make_llama, make_qwen2

from paceline.engine.models.llama import Decoder

TOKENS = [1, 7, 300, 45, 45, 2, 511, 0, 99, 120, 63, 64, 8, 200, 31, 77, 450, 3, 12, 6] * 4

CASES: dict[str, tuple[Callable[..., Path], dict[str, Any]]] = {
    "llama": (make_llama, {}),
    "llama untied": (make_llama, {"tie_word_embeddings": False, "num_hidden_layers": 3}),
    "llama, all heads have keys": (make_llama, {"num_key_value_heads": 4}),
    "llama, one key head": (make_llama, {"num_key_value_heads": 1, "num_attention_heads": 6, "hidden_size": 96}),
    "llama, biased": (make_llama, {"attention_bias": True}),
    "llama 3 scaling": (make_llama, {"rope_scaling": LLAMA3_SCALING, "rope_theta": 500000.0, "head_dim": 32}),
    "llama, linear scaling": (make_llama, {"rope_scaling": {"rope_type": "linear", "factor": 4.0}}),
    "mistral, sliding window": (make_llama, {"architecture": "MistralForCausalLM", "sliding_window": 9}),
    "qwen2": (make_qwen2, {}),
    "qwen2 untied": (make_qwen2, {"tie_word_embeddings": False, "rope_theta": 1e6}),
}


def reference(folder: Path) -> Any:
    """The same folder in transformers, fp32."""
    from transformers import AutoModelForCausalLM
    from transformers.utils import logging

    logging.disable_progress_bar()
    logging.set_verbosity_error()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        model = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32, attn_implementation="eager")
    return model.eval()


@torch.inference_mode()
def reference_logits(folder: Path, token_ids: list[int]) -> torch.Tensor:
    return reference(folder)(torch.tensor([token_ids])).logits[0]


@pytest.mark.parametrize("case", CASES)
def test_logits_are_those_of_transformers(tmp_path: Path, case: str) -> None:
    make, sizes = CASES[case]
    folder = make(tmp_path, seed=len(case), **sizes)
    want = reference_logits(folder, TOKENS)
    torch.testing.assert_close(all_logits(load(folder), TOKENS), want, rtol=0, atol=3e-4)
    for dtype, bound in (("bfloat16", 0.06), ("int8", 0.12)):
        error = (all_logits(load(folder, dtype), TOKENS) - want).square().mean().sqrt() / want.std()
        assert error < bound, dtype


def test_scaling_and_window_make_a_difference(tmp_path: Path) -> None:
    """Else the cases above could pass without them."""
    plain = all_logits(load(make_llama(tmp_path / "p", head_dim=32, rope_theta=500000.0)), TOKENS)
    scaled = {"head_dim": 32, "rope_theta": 500000.0, "rope_scaling": LLAMA3_SCALING}
    window = {"head_dim": 32, "rope_theta": 500000.0, "architecture": "MistralForCausalLM", "sliding_window": 9}
    for name, sizes in {"s": scaled, "w": window}.items():
        other = all_logits(load(make_llama(tmp_path / name, **sizes)), TOKENS)
        assert (other - plain)[-1].abs().max() > 0.01


@pytest.mark.parametrize("kind", ["llama", "qwen2"])
def test_a_gguf_is_the_same_model(tmp_path: Path, kind: str) -> None:
    sizes = {"rope_scaling": LLAMA3_SCALING, "head_dim": 32, "tie_word_embeddings": kind == "llama"}
    folder = (make_qwen2 if kind == "qwen2" else make_llama)(tmp_path / "hf", **sizes)
    path = make_gguf(tmp_path / "m.gguf", kind=kind, **sizes)
    want = reference_logits(folder, TOKENS)
    torch.testing.assert_close(all_logits(load(path), TOKENS), want, rtol=0, atol=3e-4)


def test_shards_are_the_same_model(tmp_path: Path) -> None:
    whole = all_logits(load(make_llama(tmp_path / "1")), TOKENS)
    assert torch.equal(all_logits(load(make_llama(tmp_path / "3", num_shards=3)), TOKENS), whole)


def test_bf16_checkpoint(tmp_path: Path) -> None:
    folder = make_llama(tmp_path, dtype="bfloat16")
    torch.testing.assert_close(
        all_logits(load(folder), TOKENS), reference_logits(folder, TOKENS), rtol=0, atol=3e-4
    )


def test_greedy_tokens_are_those_of_transformers(tmp_path: Path) -> None:
    folder = make_llama(tmp_path)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        want = reference(folder).generate(
            torch.tensor([TOKENS[:6]]), max_new_tokens=24, do_sample=False, eos_token_id=None, pad_token_id=0
        )
    got = greedy(load(folder), TOKENS[:6], 24)
    assert got == want[0, 6:].tolist()
    assert len(set(got)) > 8


@torch.inference_mode()
def test_chunks_change_no_bit_of_the_default(tmp_path: Path) -> None:
    model = load(make_qwen2(tmp_path), "int8")
    whole = feed(model, fresh_cache(model, len(TOKENS)), TOKENS, 0)
    cache = fresh_cache(model, len(TOKENS))
    cuts = [0, 1, 2, 19, 35, 36, len(TOKENS)]
    parts = [feed(model, cache, TOKENS[a:b], a) for a, b in pairwise(cuts)]
    assert torch.equal(torch.cat(parts), whole)
    assert torch.equal(model.logits(whole[5:6]), model.logits(whole)[5:6])


@pytest.mark.parametrize("dtype", ["int8", "int4"])
@pytest.mark.parametrize("case", CASES)
@torch.inference_mode()
def test_layers_in_one_call_are_the_layers_one_by_one(tmp_path: Path, case: str, dtype: str) -> None:
    make, changes = CASES[case]
    model = load(make(tmp_path, **changes), dtype)
    assert isinstance(model, Decoder) and model.fused is not None
    last = model.config.num_layers - 1
    runs: list[tuple[torch.Tensor, ...]] = []
    for _ in range(2):
        cache, taps = fresh_cache(model, len(TOKENS)), {at: torch.empty(0) for at in (0, last)}
        hidden = feed(model, cache, TOKENS, 0, taps)
        runs.append((hidden, *taps.values(), *cache.k, *cache.v))
        model.fused = None
    assert all(torch.equal(fused, single) for fused, single in zip(*runs, strict=True))


def test_what_no_op_multiplies_runs_layer_by_layer(tmp_path: Path) -> None:
    model = load(make_llama(tmp_path), "float32")
    assert isinstance(model, Decoder) and model.fused is None
