"""Sizes from config.json and from GGUF metadata: what they become, and that a bad table names its key."""

from pathlib import Path
from typing import Any

import msgspec
import pytest
import tiny_models

from paceline.engine.errors import BadModelFileError
from paceline.engine.formats.headers.gguf import GGUFHeader, read_header
from paceline.engine.formats.headers.gguf_config import model_config_from_gguf
from paceline.engine.formats.headers.hf_config import model_config_from_hf
from paceline.engine.types import ModelConfig, RopeScaling

LLAMA_32_1B: dict[str, Any] = {
    "architectures": ["LlamaForCausalLM"],
    "attention_bias": False,
    "head_dim": 64,
    "hidden_act": "silu",
    "hidden_size": 2048,
    "intermediate_size": 8192,
    "max_position_embeddings": 131072,
    "mlp_bias": False,
    "num_attention_heads": 32,
    "num_hidden_layers": 16,
    "num_key_value_heads": 8,
    "rms_norm_eps": 1e-05,
    "rope_scaling": {
        "factor": 32.0,
        "high_freq_factor": 4.0,
        "low_freq_factor": 1.0,
        "original_max_position_embeddings": 8192,
        "rope_type": "llama3",
    },
    "rope_theta": 500000.0,
    "tie_word_embeddings": True,
    "vocab_size": 128256,
}
QWEN2: dict[str, Any] = {
    "architectures": ["Qwen2ForCausalLM"],
    "hidden_size": 896,
    "intermediate_size": 4864,
    "max_position_embeddings": 32768,
    "max_window_layers": 21,
    "num_attention_heads": 14,
    "num_hidden_layers": 24,
    "num_key_value_heads": 2,
    "rms_norm_eps": 1e-06,
    "rope_theta": 1000000.0,
    "sliding_window": 4096,
    "tie_word_embeddings": True,
    "use_sliding_window": False,
    "vocab_size": 151936,
}


def without(table: dict[str, Any], key: str) -> dict[str, Any]:
    return {k: v for k, v in table.items() if k != key}


def test_llama_of_transformers_4_and_5() -> None:
    want = ModelConfig(
        architecture="LlamaForCausalLM",
        vocab_size=128256,
        hidden_size=2048,
        num_layers=16,
        num_heads=32,
        num_kv_heads=8,
        head_dim=64,
        intermediate_size=8192,
        max_position=131072,
        rms_norm_eps=1e-5,
        rope_theta=500000.0,
        rope_scaling=RopeScaling(kind="llama3", factor=32.0, original_max_position=8192),
        tie_embeddings=True,
    )
    assert model_config_from_hf(LLAMA_32_1B) == want
    five = without(without(LLAMA_32_1B, "rope_theta"), "rope_scaling")
    five["rope_parameters"] = {**LLAMA_32_1B["rope_scaling"], "rope_theta": 500000.0}
    assert model_config_from_hf(five) == want


def test_sliding_windows() -> None:
    mistral = {**LLAMA_32_1B, "architectures": ["MistralForCausalLM"], "rope_scaling": None, "sliding_window": 4096}
    assert model_config_from_hf(mistral).sliding_window == 4096
    assert model_config_from_hf({**mistral, "sliding_window": None}).sliding_window is None
    assert model_config_from_hf({**LLAMA_32_1B, "sliding_window": 4096}).sliding_window is None
    assert model_config_from_hf(QWEN2).sliding_window is None
    slides = {**QWEN2, "use_sliding_window": True}
    assert model_config_from_hf({**slides, "max_window_layers": 0}).sliding_window == 4096
    assert model_config_from_hf({**slides, "max_window_layers": 24}).sliding_window is None
    with pytest.raises(BadModelFileError, match="mixes"):
        model_config_from_hf(slides)


def test_defaults_are_those_of_transformers() -> None:
    config = model_config_from_hf(without(without(without(QWEN2, "tie_word_embeddings"), "rope_theta"), "rms_norm_eps"))
    assert (config.tie_embeddings, config.rope_theta, config.rms_norm_eps) == (False, 10000.0, 1e-6)
    assert config.head_dim == 64 and config.attention_bias
    assert model_config_from_hf(without(LLAMA_32_1B, "num_key_value_heads")).num_kv_heads == 32


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"hidden_size": None}, "hidden_size is missing"),
        ({"vocab_size": "many"}, "vocab_size is 'many'"),
        ({"num_hidden_layers": True}, "num_hidden_layers"),
        ({"num_hidden_layers": 1 << 40}, "num_hidden_layers"),
        ({"num_attention_heads": 0}, "num_attention_heads"),
        ({"num_attention_heads": 30}, "30 attention heads cannot share 8"),
        ({"head_dim": 63}, "odd"),
        ({"rms_norm_eps": float("nan")}, "rms_norm_eps"),
        ({"rope_theta": -1}, "rope_theta"),
        ({"rope_scaling": {"rope_type": "yarn", "factor": 4.0}}, "yarn"),
        ({"rope_scaling": {"rope_type": "linear"}}, "factor is missing"),
        ({"rope_scaling": 3}, "not a table"),
        ({"rope_scaling": {**LLAMA_32_1B["rope_scaling"], "low_freq_factor": 4.0}}, "not below"),
        ({"architectures": ["GPT2LMHeadModel"]}, "GPT2LMHeadModel"),
        ({"architectures": []}, "architecture None"),
        ({"quantization_config": {}}, "quantization_config"),
        ({"hidden_act": "gelu"}, "hidden_act"),
        ({"mlp_bias": True}, "mlp_bias"),
    ],
)
def test_a_bad_config_names_its_key(change: dict[str, Any], said: str) -> None:
    with pytest.raises(BadModelFileError, match=said) as caught:
        model_config_from_hf({**LLAMA_32_1B, **change}, "models/x/config.json")
    assert str(caught.value).startswith("models/x/config.json: ") and "; " in str(caught.value)


@pytest.mark.parametrize("kind", ["llama", "qwen2"])
def test_gguf_and_folder_agree(tmp_path: Path, kind: str) -> None:
    sizes = {"num_attention_heads": 6, "num_key_value_heads": 3, "head_dim": 20, "tie_word_embeddings": False}
    folder = tiny_models.make_qwen2(tmp_path, **sizes) if kind == "qwen2" else tiny_models.make_llama(tmp_path, **sizes)
    hf = model_config_from_hf(msgspec.json.decode((folder / "config.json").read_bytes()))
    ours = model_config_from_gguf(read_header(tiny_models.make_gguf(tmp_path / "m.gguf", kind=kind, **sizes)))
    assert ours.rms_norm_eps == pytest.approx(hf.rms_norm_eps)
    assert msgspec.structs.replace(ours, rms_norm_eps=hf.rms_norm_eps) == hf


def test_a_bad_gguf_names_its_key(tmp_path: Path) -> None:
    good = read_header(tiny_models.make_gguf(tmp_path / "m.gguf"))
    cases: dict[str, tuple[str, Any]] = {
        "general.architecture is 'mamba'": ("general.architecture", "mamba"),
        "general.architecture is \\['llama'\\]": ("general.architecture", ["llama"]),
        "block_count is missing": ("llama.block_count", None),
        "head_count is": ("llama.attention.head_count", [4, 4]),
        "expert_count is 8": ("llama.expert_count", 8),
        "rope.dimension_count is 8": ("llama.rope.dimension_count", 8),
        "rope.scaling.type is 'yarn'": ("llama.rope.scaling.type", "yarn"),
        "token_embd.weight": ("llama.embedding_length", 65),
    }
    for said, (key, value) in cases.items():
        metadata = {k: v for k, v in {**good.metadata, key: value}.items() if v is not None}
        header = GGUFHeader(good.path, 3, metadata, good.tensors, 32, good.data_start, good.file_size)
        with pytest.raises(BadModelFileError, match=said):
            model_config_from_gguf(header)
