"""The safetensors reader: values and shards, and that nothing but BadModelFileError comes out of a bad file."""

import json
import random
import re
import struct
from pathlib import Path
from typing import Any

import pytest
import tiny_models
import torch
from safetensors.torch import load_file, save_file
from tiny_models import located

from paceline.engine.errors import BadModelFileError
from paceline.engine.formats import safetensors
from paceline.engine.formats.headers.safetensors import read_header, read_index


def build(path: Path, header: Any, data: int = 0, length: int | None = None) -> Path:
    raw = header if isinstance(header, bytes) else json.dumps(header).encode()
    path.write_bytes(struct.pack("<Q", len(raw) if length is None else length) + raw + bytes(data))
    return path


def entry(shape: list[Any], place: list[Any], dtype: str = "F32") -> dict[str, Any]:
    return {"dtype": dtype, "shape": shape, "data_offsets": place}


@pytest.mark.parametrize("dtype", [torch.float32, torch.float16, torch.bfloat16])
def test_values_are_the_reference_librarys(tmp_path: Path, dtype: torch.dtype) -> None:
    path = tmp_path / "model.safetensors"
    tensors = {"a": torch.randn(3, 5).to(dtype), "b": torch.randn(7).to(dtype), "none": torch.empty(0, 4, dtype=dtype)}
    save_file(tensors, path)
    source = safetensors.open(located(tmp_path))
    assert set(source.names) == {"a", "b", "none"}
    for name, want in load_file(path).items():
        assert source.shape(name) == tuple(want.shape)
        assert torch.equal(source.read(name), want) and source.read(name).dtype == dtype


def test_data_that_is_not_aligned_is_read(tmp_path: Path) -> None:
    header = b'{"a":{"dtype":"F32","shape":[2],"data_offsets":[0,8]}}'
    header += b" " * (1 - (8 + len(header)) % 4 + 4)
    path = tmp_path / "model.safetensors"
    path.write_bytes(struct.pack("<Q", len(header)) + header + struct.pack("<2f", 1.5, -2.0))
    assert (8 + len(header)) % 4
    assert safetensors.open(located(tmp_path)).read("a").tolist() == [1.5, -2.0]


def test_shards_are_one_model(tmp_path: Path) -> None:
    whole = safetensors.open(located(tiny_models.make_llama(tmp_path / "whole")))
    shards = safetensors.open(located(tiny_models.make_llama(tmp_path / "shards", num_shards=3)))
    assert set(whole.names) == set(shards.names)
    for name in whole.names:
        assert torch.equal(whole.read(name), shards.read(name))


def test_index_and_shards_must_agree(tmp_path: Path) -> None:
    folder = tiny_models.make_llama(tmp_path, num_shards=3)
    index = folder / "model.safetensors.index.json"
    good = json.loads(index.read_text())

    def refused(weight_map: Any) -> str:
        index.write_text(json.dumps({"weight_map": weight_map}))
        with pytest.raises(BadModelFileError) as caught:
            safetensors.open(located(folder))
        return str(caught.value)

    files = sorted(set(good["weight_map"].values()))
    assert "lacks it" in refused({**good["weight_map"], "extra.weight": files[0]})
    assert "which is not there" in refused({**good["weight_map"], "extra.weight": "model-9.safetensors"})
    for name in ("../model.safetensors", "", 3, "a/b"):
        assert "which is no file name" in refused({"a": name})
    for weight_map in (None, [], {}):
        assert "no weight_map" in refused(weight_map)
    index.write_text(json.dumps(good))
    shard = folder / files[1]
    missing = located(folder)
    shard.unlink()
    with pytest.raises(BadModelFileError, match=files[1]):
        safetensors.open(missing)


def test_a_tensor_in_two_files_is_refused(tmp_path: Path) -> None:
    for name in ("a", "b"):
        save_file({"same": torch.ones(2)}, tmp_path / f"{name}.safetensors")
    with pytest.raises(BadModelFileError, match=r"is in .*a.safetensors too"):
        safetensors.open(located(tmp_path))


def test_integer_and_quantised_weights_are_refused_when_read(tmp_path: Path) -> None:
    save_file({"codes": torch.ones(2, dtype=torch.int32)}, tmp_path / "model.safetensors")
    with pytest.raises(BadModelFileError, match="'codes' is I32"):
        safetensors.open(located(tmp_path)).read("codes")


def test_bad_headers_are_refused(tmp_path: Path) -> None:
    path = tmp_path / "bad.safetensors"
    cases: list[tuple[Any, int, str]] = [
        (b"not json", 0, "JSON"),
        (b"[1]", 0, "not a table"),
        (b"[" * 100_000, 0, "JSON"),
        (b'{"a": 1, "a": 2}', 0, "twice"),
        (b"\xff\xfe{}", 0, "JSON"),
        ({"a": 1}, 0, "needs dtype"),
        ({"a": entry([2], [0, 8], "F99")}, 8, "unknown dtype"),
        ({"a": entry([-1], [0, 8])}, 8, "has shape"),
        ({"a": entry([True], [0, 4])}, 4, "has shape"),
        ({"a": entry([1 << 70], [0, 8])}, 8, "has shape"),
        ({"a": entry([1 << 62, 1 << 62], [0, 8])}, 8, "its place has"),
        ({"a": entry([2], [0, 8, 9])}, 8, "data_offsets"),
        ({"a": entry([2], [8, 0])}, 8, "its place has"),
        ({"a": entry([2], [0, 8]), "b": entry([2], [4, 12])}, 12, "the one before ends"),
        ({"a": entry([2], [4, 12])}, 12, "the one before ends"),
        ({"a": entry([2], [0, 8])}, 7, "the file at"),
        ({"a": entry([2], [0, 8])}, 9, "the file at"),
        ({"__metadata__": {"a": 1}}, 0, "__metadata__"),
    ]
    for header, data, said in cases:
        with pytest.raises(BadModelFileError, match=said) as caught:
            read_header(build(path, header, data))
        assert str(path) in str(caught.value) and "\n" not in str(caught.value)
    for length in (0, 1, 3, 1 << 63, (1 << 64) - 1):
        with pytest.raises(BadModelFileError, match="does not fit"):
            read_header(build(path, b"{}", length=length))
    with pytest.raises(BadModelFileError, match="cannot be read"):
        read_index(tmp_path / "none.json")


def test_a_cut_file_is_named_with_the_byte(tmp_path: Path) -> None:
    whole = tiny_models.make_llama(tmp_path / "m", num_hidden_layers=1).joinpath("model.safetensors").read_bytes()
    end = 8 + struct.unpack("<Q", whole[:8])[0]
    path = tmp_path / "cut.safetensors"
    for place in (0, 4, 8, end // 2, end, (end + len(whole)) // 2, len(whole) - 1):
        path.write_bytes(whole[:place])
        with pytest.raises(BadModelFileError, match=rf"{re.escape(str(path))}: .*byte \d+"):
            read_header(path)


def test_truncations_and_flips_give_a_header_or_one_error(tmp_path: Path) -> None:
    whole = tiny_models.make_llama(tmp_path / "m", num_hidden_layers=1).joinpath("model.safetensors").read_bytes()
    path = tmp_path / "bad.safetensors"
    end = 8 + struct.unpack("<Q", whole[:8])[0]
    for place in [*range(64), *range(64, end, 31), end, len(whole) - 1]:
        path.write_bytes(whole[:place])
        with pytest.raises(BadModelFileError):
            read_header(path)
    rng = random.Random(2)
    refused = 0
    for _ in range(500):
        raw = bytearray(whole)
        for _ in range(rng.randint(1, 4)):
            raw[rng.randrange(end)] = rng.randrange(256)
        path.write_bytes(raw)
        try:
            header = read_header(path)
        except BadModelFileError:
            refused += 1
        else:
            assert all(t.offset + t.num_bytes <= len(raw) for t in header.tensors.values())
    assert 100 < refused < 500
