"""The loader: which plug-in, which dtype, and what it says when checkpoint and config do not fit."""

from pathlib import Path

import msgspec
import pytest
import torch
from model_runs import all_logits, config_of, greedy, load
from safetensors.torch import load_file, save_file
from tiny_models import located, make_llama

from paceline.engine import plugins
from paceline.engine.errors import BadModelFileError, ConfigError
from paceline.engine.nn.load import find_model, load_model
from paceline.engine.store.located import Located
from paceline.engine.types import ModelConfig

NOWHERE = Located(name="none", kind="safetensors", folder="none", files=[], sizes=[], digests=[])


def changed(folder: Path, **tensors: torch.Tensor | None) -> Path:
    """Replace tensors of the folder by (short) name, or drop them."""
    path = folder / "model.safetensors"
    weights = load_file(path)
    for short, tensor in tensors.items():
        (name,) = [n for n in weights if n.endswith(f"layers.1.{short.replace('__', '.')}.weight")]
        if tensor is None:
            del weights[name]
        else:
            weights[name] = tensor
    save_file(weights, path)
    return folder


def test_every_model_plug_in_names_its_architectures() -> None:
    seen: set[str] = set()
    for name in plugins.names("engine.models"):
        architectures = plugins.load("engine.models", name).ARCHITECTURES
        assert architectures and not seen & set(architectures)
        seen |= set(architectures)
        assert all(find_model(a) is plugins.load("engine.models", name) for a in architectures)


def test_every_format_plug_in_claims_one_kind() -> None:
    kinds = {"safetensors", "gguf"}
    for name in plugins.names("engine.formats"):
        plugin = plugins.load("engine.formats", name)
        claimed = {k for k in kinds if plugin.claims(msgspec.structs.replace(NOWHERE, kind=k))}
        assert claimed == {name}


def test_an_unknown_architecture_lists_the_known(tmp_path: Path) -> None:
    config = msgspec.structs.replace(config_of(make_llama(tmp_path)), architecture="Other")
    with pytest.raises(BadModelFileError, match=r"'Other'.*LlamaForCausalLM"):
        load_model(config, located(tmp_path))


def test_an_unknown_dtype_lists_the_known(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"'int3'.*auto, int4, int8"):
        load(make_llama(tmp_path), "int3")


def test_auto_is_int8_on_a_cpu(tmp_path: Path) -> None:
    make_llama(tmp_path)
    tokens = [5, 6, 7]
    assert torch.equal(all_logits(load(tmp_path, "auto"), tokens), all_logits(load(tmp_path, "int8"), tokens))


@pytest.mark.parametrize("short", ["self_attn__k_proj", "mlp__down_proj", "input_layernorm"])
def test_a_missing_tensor_is_named(tmp_path: Path, short: str) -> None:
    with pytest.raises(BadModelFileError, match=rf"layers.1.{short.replace('__', '.')}.weight' is missing"):
        load(changed(make_llama(tmp_path), **{short: None}))


def test_a_wrong_shape_is_named(tmp_path: Path) -> None:
    folder = changed(make_llama(tmp_path), self_attn__k_proj=torch.zeros(48, 64))
    with pytest.raises(BadModelFileError, match=r"k_proj.weight' has shape \[48, 64\], .* asks for \[32, 64\]"):
        load(folder)


def test_weights_do_not_hang_on_their_files(tmp_path: Path) -> None:
    model = load(make_llama(tmp_path), "float32")
    before = all_logits(model, [1, 2, 3])
    path = tmp_path / "model.safetensors"
    path.write_bytes(bytes(path.stat().st_size))
    assert torch.equal(all_logits(model, [1, 2, 3]), before)


@pytest.mark.parametrize("bias", [False, True])
def test_tiny_needs_no_files(bias: bool) -> None:
    config = ModelConfig(
        architecture="TinyForTesting",
        vocab_size=300,
        hidden_size=64,
        num_layers=2,
        num_heads=4,
        num_kv_heads=2,
        head_dim=16,
        intermediate_size=96,
        max_position=128,
        tie_embeddings=not bias,
        attention_bias=bias,
    )
    first, again = (greedy(load_model(config, NOWHERE, dtype="int8"), [1, 2, 3], 12) for _ in range(2))
    assert first == again and len(set(first)) > 3
