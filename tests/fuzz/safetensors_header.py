"""safetensors header -> tensor table, index -> shards; nothing points outside the file or the folder."""

import json
import struct
from random import Random

from fuzzing.scratch import write
from fuzzing.target import Target
from fuzzing.tree_mutator import json_mutator

from paceline.engine.errors import BadModelFileError
from paceline.engine.formats.headers import safetensors

_json = json_mutator()


def run(data: bytes) -> None:
    """A first byte below 64: an index; else a file of weights."""
    is_index, raw = data[:1] < b"\x40", data[1:]
    path = write("index.json" if is_index else "model.safetensors", raw)
    try:
        if is_index:
            assert all("/" not in name for name in safetensors.read_index(path).values())
            return
        header = safetensors.read_header(path)
    except BadModelFileError as e:
        assert path in str(e) and "\n" not in str(e), str(e)
        raise
    assert all(t.offset + t.num_bytes <= len(raw) for t in header.tensors.values())


def weights(header: bytes, data: bytes) -> bytes:
    return b"\xff" + struct.pack("<Q", len(header)) + header + data


def _mutate(data: bytes, rng: Random) -> bytes:
    if data[:1] < b"\x40":
        return data[:1] + _json(data[1:], rng)
    (length,) = struct.unpack("<Q", data[1:9]) if len(data) >= 9 else (0,)
    changed = _json(data[9 : 9 + length], rng) if rng.random() < 0.8 else data[9 : 9 + length]
    rest = data[9 + length :][: rng.choice((0, 1, 15, 1 << 20))] if rng.random() < 0.2 else data[9 + length :]
    if rng.random() < 0.2:
        length = rng.choice((0, 1, 2, 7, len(changed) + 1, 100_000_001, 2**63, 2**64 - 1))
        return b"\xff" + struct.pack("<Q", length) + changed + rest
    return weights(changed, rest)


_HEADER = {
    "__metadata__": {"format": "pt"},
    "a": {"dtype": "F32", "shape": [2, 2], "data_offsets": [0, 16]},
    "b": {"dtype": "BF16", "shape": [4], "data_offsets": [16, 24]},
}
_INDEX = {"metadata": {"total_size": 24}, "weight_map": {"a": "model-1.safetensors", "b": "model-2.safetensors"}}
_seeds = [weights(json.dumps(_HEADER).encode(), bytes(24)), b"\x00" + json.dumps(_INDEX).encode()]
TARGET = Target(run=run, seeds=_seeds, mutate=_mutate, expected=(BadModelFileError,))
