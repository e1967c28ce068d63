"""Read a safetensors header, and the index of a sharded checkpoint. Knows no model and no torch.

The file is not trusted: the header's length is compared with the file before it is read, and each tensor's place with
its shape and dtype. Layout: u64 length of the JSON, the JSON, the data; offsets count from the start of the data.
Source: the safetensors format description; the 100 MB bound on the header is the reference library's.
"""

import json
import os
import struct
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ...errors import BadModelFileError

MAX_HEADER_BYTES = 100_000_000
MAX_INDEX_BYTES = 100_000_000
INDEX_NAME = "model.safetensors.index.json"

# safetensors dtype -> bytes of an element
DTYPES: dict[str, int] = {
    "BOOL": 1,
    "U8": 1,
    "I8": 1,
    "F8_E4M3": 1,
    "F8_E5M2": 1,
    "I16": 2,
    "U16": 2,
    "F16": 2,
    "BF16": 2,
    "I32": 4,
    "U32": 4,
    "F32": 4,
    "I64": 8,
    "U64": 8,
    "F64": 8,
}


@dataclass(frozen=True, slots=True)
class TensorInfo:
    """Place and kind of one tensor."""

    shape: tuple[int, ...]
    dtype: str
    offset: int
    """From the start of the file, bytes."""
    num_bytes: int


@dataclass(frozen=True, slots=True)
class SafetensorsHeader:
    """What a safetensors file says before its weights."""

    path: str
    metadata: dict[str, str]
    tensors: dict[str, TensorInfo]
    data_start: int
    file_size: int


def read_header(path: str | os.PathLike[str]) -> SafetensorsHeader:
    """Parse and check the header of ``path``; weights are neither read nor mapped.

    Raises:
        BadModelFileError: truncated, hostile or unsupported; names file, tensor and bound.
    """
    name = os.fspath(path)
    try:
        with open(name, "rb") as file:
            size = os.fstat(file.fileno()).st_size
            start = file.read(8)
            (length,) = struct.unpack("<Q", start) if len(start) == 8 else (0,)
            if len(start) < 8 or not 2 <= length <= size - 8:
                raise _bad(name, f"byte 0: a header of {length} bytes does not fit a file of {size}")
            if length > MAX_HEADER_BYTES:
                raise _bad(name, f"byte 0: a header of {length} bytes is over the bound of {MAX_HEADER_BYTES}")
            raw = file.read(length)
    except OSError as e:
        raise BadModelFileError(f"{name}: cannot be read: {e.strerror or e}; check the path and its permissions") from e
    if len(raw) < length:
        raise _bad(name, f"byte {8 + len(raw)}: the header of {length} bytes is cut short")
    tree = _parse_json(name, raw)
    metadata = tree.pop("__metadata__", {})
    if not isinstance(metadata, dict) or not all(isinstance(v, str) for v in metadata.values()):
        raise _bad(name, "__metadata__ is not a table of strings")
    data_start = 8 + length
    tensors = {key: _check_tensor(name, key, entry, data_start) for key, entry in tree.items()}
    _check_places(name, tensors, data_start, size)
    return SafetensorsHeader(name, metadata, tensors, data_start, size)


def read_index(path: str | os.PathLike[str]) -> dict[str, str]:
    """Tensor name -> file name from a ``model.safetensors.index.json``.

    Raises:
        BadModelFileError: not such a file, or a file name that leaves its folder.
    """
    name = os.fspath(path)
    try:
        with open(name, "rb") as file:
            raw = file.read(MAX_INDEX_BYTES + 1)
    except OSError as e:
        raise BadModelFileError(f"{name}: cannot be read: {e.strerror or e}; check the path and its permissions") from e
    if len(raw) > MAX_INDEX_BYTES:
        raise _bad(name, f"is over the bound of {MAX_INDEX_BYTES} bytes")
    weight_map = _parse_json(name, raw).get("weight_map")
    if not isinstance(weight_map, dict) or not weight_map:
        raise _bad(name, "has no weight_map")
    for tensor, file_name in weight_map.items():
        if not isinstance(file_name, str) or file_name in ("", ".", "..") or Path(file_name).name != file_name:
            raise _bad(name, f"weight_map puts {tensor!r} into {str(file_name)[:80]!r}, which is no file name")
    return weight_map


def _bad(path: str, what: str) -> BadModelFileError:
    return BadModelFileError(f"{path}: {what}; the file is damaged or cut short, fetch it again")


def _parse_json(path: str, raw: bytes) -> dict[str, Any]:
    def no_duplicates(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
        table = dict(pairs)
        if len(table) != len(pairs):
            raise ValueError("a key is there twice")
        return table

    try:
        tree = json.loads(raw, object_pairs_hook=no_duplicates)
    except (ValueError, RecursionError) as e:
        raise _bad(path, f"is not the JSON it should be: {str(e)[:120]}") from e
    if not isinstance(tree, dict):
        raise _bad(path, "its JSON is not a table")
    return tree


def _is_size(value: Any) -> bool:
    return type(value) is int and 0 <= value < 1 << 63


def _check_tensor(path: str, name: str, entry: Any, data_start: int) -> TensorInfo:
    where = f"tensor {name[:120]!r}"
    if not isinstance(entry, dict) or set(entry) != {"dtype", "shape", "data_offsets"}:
        raise _bad(path, f"{where} needs dtype, shape and data_offsets, and nothing else")
    dtype, shape, place = entry["dtype"], entry["shape"], entry["data_offsets"]
    if not isinstance(dtype, str) or dtype not in DTYPES:
        raise BadModelFileError(
            f"{path}: {where} has unknown dtype {str(dtype)[:40]!r}; use one of {', '.join(DTYPES)}"
        )
    if not isinstance(shape, list) or len(shape) > 8 or not all(map(_is_size, shape)):
        raise _bad(path, f"{where} has shape {str(shape)[:80]}")
    if not isinstance(place, list) or len(place) != 2 or not all(map(_is_size, place)):
        raise _bad(path, f"{where} has data_offsets {str(place)[:80]}")
    num_bytes = DTYPES[dtype]
    for dim in shape:
        num_bytes *= dim
    start, end = place
    if end - start != num_bytes:
        raise _bad(path, f"{where} of shape {shape} and {dtype} is {num_bytes} bytes, its place has {end - start}")
    return TensorInfo(tuple(shape), dtype, data_start + start, num_bytes)


def _check_places(path: str, tensors: dict[str, TensorInfo], data_start: int, size: int) -> None:
    end = data_start
    for name, info in sorted(tensors.items(), key=lambda item: (item[1].offset, item[1].num_bytes)):
        if info.offset != end:
            raise _bad(path, f"tensor {name[:120]!r} starts at byte {info.offset}, the one before ends at {end}")
        end += info.num_bytes
    if end != size:
        raise _bad(path, f"its tensors end at byte {end}, the file at {size}")
