"""The loader: which plug-in, which dtype, and what it says when checkpoint and config do not fit."""

from collections.abc import Callable
from pathlib import Path
from typing import cast

import msgspec
import pytest
import torch
from model_runs import all_logits, config_of, greedy, load
from safetensors.torch import load_file, save_file
from tiny_models import located, make_gguf, make_llama

from paceline.engine import plugins
from paceline.engine.errors import BadModelFileError, ConfigError
from paceline.engine.nn.load import Loader, find_block_quants, find_model, load_model, open_weights
from paceline.engine.nn.weights import BlockSource, Quant
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
    with pytest.raises(ConfigError, match=r"'int3'.*auto, mixed, int4, int8"):
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


@pytest.mark.parametrize("kind", ["llama", "qwen2"])
@pytest.mark.parametrize("ggml_type", ["Q4_0", "Q4_1", "Q5_0", "Q5_1", "Q8_0"])
def test_files_of_blocks_lose_nothing_but_activations(tmp_path: Path, kind: str, ggml_type: str) -> None:
    path = make_gguf(tmp_path / "m.gguf", kind=kind, ggml_type=ggml_type)
    tokens = list(range(5, 45))
    exact, ours = all_logits(load(path, "float32"), tokens), all_logits(load(path, "auto"), tokens)
    assert (ours - exact).square().mean().sqrt() < 0.05 * exact.std()


def test_matrices_of_different_kinds_stand_side_by_side(tmp_path: Path) -> None:
    """As in Q4_K_M files, whose values have more bits than queries and keys."""
    sizes = {"num_hidden_layers": 1, "seed": 4}
    four, eight = (make_gguf(tmp_path / f"{t}.gguf", kind="qwen2", ggml_type=t, **sizes) for t in ("Q4_1", "Q8_0"))
    mixed = MixedSource(*(cast(BlockSource, open_weights(located(path))) for path in (four, eight)))
    int8 = cast(Quant, plugins.load("engine.quant", "int8"))
    width = config_of(four).hidden_size
    x = torch.randn(3, width, generator=torch.Generator().manual_seed(0))
    names = {name: mixed.shape(f"{name}.weight")[0] for name in (f"model.layers.0.self_attn.{p}_proj" for p in "qkv")}
    with Loader(mixed, int8, "mixed", torch.device("cpu"), None, find_block_quants(["Q4_1", "Q8_0"])) as loader:
        got = loader.linear(names, width, bias=True)(x)
    weight = torch.cat([mixed.read(f"{name}.weight") for name in names])
    bias = torch.cat([mixed.read(f"{name}.bias") for name in names])
    torch.testing.assert_close(got, x @ weight.T + bias, rtol=0, atol=0.03 * float((x @ weight.T).std()))


class MixedSource:
    """Values of one file among the tensors of another."""

    where = "mixed"

    def __init__(self, most: BlockSource, values: BlockSource) -> None:
        self._most, self._values = most, values
        self.names = most.names

    def _of(self, name: str) -> BlockSource:
        return self._values if "v_proj.weight" in name else self._most

    def shape(self, name: str) -> tuple[int, ...]:
        return self._of(name).shape(name)

    def read(self, name: str) -> torch.Tensor:
        return self._of(name).read(name)

    def kind(self, name: str) -> str:
        return self._of(name).kind(name)

    def blocks(self, name: str) -> torch.Tensor:
        return self._of(name).blocks(name)

    def decoder(self, name: str) -> Callable[[torch.Tensor], torch.Tensor]:
        return self._of(name).decoder(name)

    def close(self) -> None:
        """Both stay open."""
