"""Values read from GGUF files, against the gguf package's own reader."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tiny_models
import torch
from gguf import GGUFReader, dequantize
from tiny_models import located

from paceline.engine.errors import BadModelFileError
from paceline.engine.formats import gguf, safetensors


@pytest.mark.parametrize("ggml_type", ["F32", "F16", "BF16", "Q4_0", "Q4_1", "Q8_0"])
def test_values_are_the_packages(tmp_path: Path, ggml_type: str) -> None:
    # Odd numbers of rows too: they cannot all be joined in powers of two.
    sizes = {"intermediate_size": 96, "vocab_size": 515, "num_hidden_layers": 1}
    path = tiny_models.make_gguf(tmp_path / "m.gguf", kind="qwen2", ggml_type=ggml_type, **sizes)
    source = gguf.open(located(path))
    for theirs in GGUFReader(path).tensors:
        want = dequantize(theirs.data, theirs.tensor_type).reshape(*reversed(theirs.shape.tolist()))
        name = gguf.hugging_face_name(theirs.name)
        assert source.shape(name) == want.shape
        np.testing.assert_array_equal(source.read(name).float().numpy(), want)


def test_llama_queries_and_keys_come_back_in_order(tmp_path: Path) -> None:
    sizes: dict[str, Any] = {"num_attention_heads": 4, "num_key_value_heads": 2, "head_dim": 24, "seed": 3}
    ours = gguf.open(located(tiny_models.make_gguf(tmp_path / "m.gguf", **sizes)))
    theirs = safetensors.open(located(tiny_models.make_llama(tmp_path / "m", **sizes)))
    assert set(ours.names) == set(theirs.names)
    for name in theirs.names:
        assert torch.equal(ours.read(name), theirs.read(name)), name


def test_rows_are_put_in_order_before_they_are_dequantised(tmp_path: Path) -> None:
    quantised = gguf.open(located(tiny_models.make_gguf(tmp_path / "m.gguf", ggml_type="Q8_0")))
    original = safetensors.open(located(tiny_models.make_llama(tmp_path / "m")))
    name = "model.layers.0.self_attn.q_proj.weight"
    assert (quantised.read(name) - original.read(name)).abs().max() < 0.01


def test_a_changed_file_is_refused(tmp_path: Path) -> None:
    path = tiny_models.make_gguf(tmp_path / "m.gguf")
    before = located(path)
    with path.open("ab") as file:
        file.write(b"x")
    with pytest.raises(BadModelFileError, match="when checked"):
        gguf.open(before)


def test_tensors_outlive_the_source(tmp_path: Path) -> None:
    source = gguf.open(located(tiny_models.make_gguf(tmp_path / "m.gguf")))
    tensor = source.read("model.norm.weight")
    before = tensor.clone()
    source.close()
    assert torch.equal(tensor, before)


def test_unknown_names_stay() -> None:
    assert gguf.hugging_face_name("blk.3.attn_output.weight") == "model.layers.3.self_attn.o_proj.weight"
    assert gguf.hugging_face_name("output.weight") == "lm_head.weight"
    for name in ("blk.3.ffn_gate_inp.weight", "blk.x.attn_q.weight", "rope_freqs", "per_layer.weight"):
        assert gguf.hugging_face_name(name) == name


@pytest.mark.parametrize("ggml_type", ["F16", "Q4_0", "Q4_1", "Q8_0"])
@pytest.mark.parametrize("kind", ["llama", "qwen2"])
def test_rows_by_themselves_are_the_tensors_rows(tmp_path: Path, kind: str, ggml_type: str) -> None:
    source = gguf.open(located(tiny_models.make_gguf(tmp_path / "m.gguf", kind=kind, ggml_type=ggml_type)))
    for name in ("model.embed_tokens.weight", "model.layers.0.self_attn.q_proj.weight"):
        assert source.kind(name) == ggml_type
        blocks, whole = source.blocks(name), source.read(name)
        assert blocks.dtype == torch.uint8 and len(blocks) == len(whole)
        decode, rows = source.decoder(name), torch.tensor([3, 0, 3, 7])
        assert torch.equal(decode(blocks[rows]), whole[rows])
        assert decode(blocks[:0]).shape == (0, whole.shape[1])


def test_decoding_outlives_the_source(tmp_path: Path) -> None:
    source = gguf.open(located(tiny_models.make_gguf(tmp_path / "m.gguf", ggml_type="Q4_1")))
    name = "model.embed_tokens.weight"
    want, blocks, decode = source.read(name), source.blocks(name), source.decoder(name)
    source.close()
    assert torch.equal(decode(blocks), want)
