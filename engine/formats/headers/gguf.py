"""Read a GGUF header: key-values and tensor table, versions 2 and 3, little-endian. Knows no model and no torch.

The file is not trusted. Every count, length, dimension and offset is compared with the bytes that are really there
before anything of that size is made, so memory stays proportional to the header read. Layout::

    magic "GGUF" | u32 version | u64 num_tensors | u64 num_kv
    num_kv x (string key, u32 kind, value)        string = u64 length + bytes; array = u32 kind, u64 count, items
    num_tensors x (string name, u32 num_dims, u64 dims[], u32 type, u64 offset)     dims fastest first
    padding to ``general.alignment``, then the data; offsets count from there

Source: ggml's docs/gguf.md. The caps below are far above any published file.
"""

import os
import struct
from dataclasses import dataclass, field
from typing import Any, BinaryIO

from ...errors import BadModelFileError

MAX_HEADER_BYTES = 128 << 20
MAX_KEY_VALUES = 1 << 16
MAX_TENSORS = 1 << 18
MAX_ARRAY_ITEMS = 1 << 22  # over all arrays of a header
MAX_KEY_BYTES = 4096
MAX_NAME_BYTES = 512
MAX_DIMS = 4
DEFAULT_ALIGNMENT = 32
MAX_ALIGNMENT = 1 << 20
_MAX_SAID = 300  # characters of a message that may come from the file

# ggml type number -> (name, weights in a block, bytes of a block), from ggml.h.
GGML_TYPES: dict[int, tuple[str, int, int]] = {
    0: ("F32", 1, 4),
    1: ("F16", 1, 2),
    2: ("Q4_0", 32, 18),
    3: ("Q4_1", 32, 20),
    6: ("Q5_0", 32, 22),
    7: ("Q5_1", 32, 24),
    8: ("Q8_0", 32, 34),
    9: ("Q8_1", 32, 40),
    10: ("Q2_K", 256, 84),
    11: ("Q3_K", 256, 110),
    12: ("Q4_K", 256, 144),
    13: ("Q5_K", 256, 176),
    14: ("Q6_K", 256, 210),
    15: ("Q8_K", 256, 292),
    16: ("IQ2_XXS", 256, 66),
    17: ("IQ2_XS", 256, 74),
    18: ("IQ3_XXS", 256, 98),
    19: ("IQ1_S", 256, 50),
    20: ("IQ4_NL", 32, 18),
    21: ("IQ3_S", 256, 110),
    22: ("IQ2_S", 256, 82),
    23: ("IQ4_XS", 256, 136),
    24: ("I8", 1, 1),
    25: ("I16", 1, 2),
    26: ("I32", 1, 4),
    27: ("I64", 1, 8),
    28: ("F64", 1, 8),
    29: ("IQ1_M", 256, 56),
    30: ("BF16", 1, 2),
    34: ("TQ1_0", 256, 54),
    35: ("TQ2_0", 256, 66),
    39: ("MXFP4", 32, 17),
    40: ("NVFP4", 64, 36),
}

_STRING, _ARRAY = 8, 9
_SCALARS = {0: "B", 1: "b", 2: "H", 3: "h", 4: "I", 5: "i", 6: "f", 7: "?", 10: "Q", 11: "q", 12: "d"}
_FIXED = {kind: struct.Struct("<" + code) for kind, code in _SCALARS.items()}
_U32 = _FIXED[4]
_U64 = _FIXED[10]


@dataclass(frozen=True, slots=True)
class TensorInfo:
    """Place and kind of one tensor."""

    shape: tuple[int, ...]
    """In torch's order: slowest dimension first."""
    ggml_type: int
    offset: int
    """From the start of the file, bytes."""
    num_bytes: int

    @property
    def type_name(self) -> str:
        """Such as ``Q4_1``."""
        return GGML_TYPES[self.ggml_type][0]


@dataclass(frozen=True, slots=True)
class SkippedArray:
    """Stands for an array that ``skip_arrays`` left unread."""

    num_items: int


@dataclass(frozen=True, slots=True)
class GGUFHeader:
    """What a GGUF file says before its weights."""

    path: str
    version: int
    metadata: dict[str, Any]
    """Values as Python numbers, booleans, strings and lists; broken UTF-8 reads as U+FFFD."""
    tensors: dict[str, TensorInfo]
    alignment: int
    data_start: int
    file_size: int


def read_header(path: str | os.PathLike[str], *, skip_arrays: bool = False) -> GGUFHeader:
    """Parse and check the header of ``path``; weights are neither read nor mapped.

    Args:
        skip_arrays: leave arrays (vocabulary, merges) out as ``SkippedArray``; several times faster.

    Raises:
        BadModelFileError: truncated, hostile or unsupported; names file, byte and bound.
    """
    name = os.fspath(path)
    try:
        with open(name, "rb", buffering=0) as file:
            return _read(_Cursor(name, file, os.fstat(file.fileno()).st_size), skip_arrays)
    except OSError as e:
        raise BadModelFileError(f"{name}: cannot be read: {e.strerror or e}; check the path and its permissions") from e


@dataclass(slots=True)
class _Cursor:
    """A position in the file's beginning, which is read on as it is needed."""

    path: str
    file: BinaryIO | Any
    size: int
    data: bytearray = field(default_factory=bytearray)
    pos: int = 0
    num_items: int = 0

    def fail(self, what: str) -> BadModelFileError:
        """The error at this place. ``what`` may hold a key as the file spells it, with line breaks and escapes."""
        said = "".join(c if c.isprintable() else "\ufffd" for c in what[:_MAX_SAID])
        remedy = "the file is damaged or cut short; fetch it again"
        return BadModelFileError(f"{self.path}: byte {self.pos} of {self.size}: {said}; {remedy}")

    def need(self, num_bytes: int, what: str) -> None:
        """Make the next ``num_bytes`` available in ``data``."""
        end = self.pos + num_bytes
        if end <= len(self.data):
            return
        if end > self.size:
            raise self.fail(f"{what} needs {num_bytes} bytes, {self.size - self.pos} are left")
        if end > MAX_HEADER_BYTES:
            raise self.fail(f"{what} ends past the header bound of {MAX_HEADER_BYTES} bytes")
        goal = min(max(end, 2 * len(self.data), 1 << 21), self.size, MAX_HEADER_BYTES)
        while len(self.data) < goal:
            chunk = self.file.read(goal - len(self.data))
            if not chunk:
                raise self.fail("the file became shorter while it was read")
            self.data += chunk

    def scalar(self, kind: int, what: str) -> Any:
        form = _FIXED[kind]
        self.need(form.size, what)
        (value,) = form.unpack_from(self.data, self.pos)
        self.pos += form.size
        return value

    def u32(self, what: str) -> int:
        return self.scalar(4, what)

    def u64(self, what: str) -> int:
        return self.scalar(10, what)

    def text(self, bound: int, what: str) -> str:
        length = self.u64(what)
        if length > bound:
            self.pos -= 8
            raise self.fail(f"{what} is {length} bytes long, at most {bound} are possible")
        self.need(length, what)
        self.pos += length
        return self.data[self.pos - length : self.pos].decode(errors="replace")


def _read(at: _Cursor, skip_arrays: bool) -> GGUFHeader:
    version = _read_magic(at)
    num_tensors = at.u64("tensor count")
    num_kv = at.u64("key count")
    left = at.size - at.pos
    # The least a key takes is 13 bytes, the least a tensor takes 33.
    if num_kv > min(MAX_KEY_VALUES, left // 13) or num_tensors > min(MAX_TENSORS, left // 33):
        raise at.fail(f"{num_kv} keys and {num_tensors} tensors do not fit into the {left} bytes that follow")
    metadata: dict[str, Any] = {}
    for _ in range(num_kv):
        key = at.text(MAX_KEY_BYTES, "key")
        if key in metadata:
            raise at.fail(f"key {key!r} is there twice")
        metadata[key] = _read_value(at, key, skip_arrays)
    alignment = metadata.get("general.alignment", DEFAULT_ALIGNMENT)
    if type(alignment) is not int or not 1 <= alignment <= MAX_ALIGNMENT or alignment & (alignment - 1):
        raise at.fail(f"general.alignment is {str(alignment)[:40]}, not a power of two up to {MAX_ALIGNMENT}")
    table = [_read_tensor(at, alignment) for _ in range(num_tensors)]
    data_start = (at.pos + alignment - 1) // alignment * alignment
    tensors = _place(at, table, data_start)
    return GGUFHeader(at.path, version, metadata, tensors, alignment, data_start, at.size)


def _read_magic(at: _Cursor) -> int:
    if at.size < 24:
        what = f"{at.path}: byte {at.size}: the file ends"
        raise BadModelFileError(f"{what}, too few bytes for a GGUF header of 24; fetch the file again")
    at.need(24, "header")
    if at.data[:4] != b"GGUF":
        raise BadModelFileError(
            f"{at.path}: byte 0: no GGUF magic but {bytes(at.data[:4])!r}; pass a .gguf file or a safetensors folder"
        )
    at.pos = 4
    version = at.u32("version")
    if version not in (2, 3):
        big = " (big-endian)" if version and not version & 0xFFFF else ""
        raise BadModelFileError(
            f"{at.path}: byte 4: GGUF version {version}{big} is not 2 or 3, little-endian; convert it with a newer tool"
        )
    return version


def _read_value(at: _Cursor, key: str, skip_arrays: bool) -> Any:
    kind = at.u32(f"kind of {key}")
    if kind in _FIXED:
        return at.scalar(kind, key)
    if kind == _STRING:
        return at.text(at.size - at.pos, key)
    if kind != _ARRAY:
        raise at.fail(f"{key} has unknown kind {kind}")
    item = at.u32(f"item kind of {key}")
    count = at.u64(f"length of {key}")
    if item != _STRING and item not in _FIXED:
        raise at.fail(f"{key} is an array of unsupported kind {item}")
    least = 8 if item == _STRING else _FIXED[item].size
    if count > (at.size - at.pos) // least:
        raise at.fail(f"{key} says {count} items, more than the rest of the file can hold")
    at.num_items += count
    if at.num_items > MAX_ARRAY_ITEMS:
        raise at.fail(f"{key} brings the items of all arrays to {at.num_items}, over the bound of {MAX_ARRAY_ITEMS}")
    if item == _STRING:
        return _read_strings(at, key, count, skip_arrays)
    at.need(count * least, key)
    start = at.pos
    at.pos += count * least
    if skip_arrays:
        return SkippedArray(count)
    return list(struct.unpack_from(f"<{count}{_SCALARS[item]}", at.data, start))


def _read_strings(at: _Cursor, key: str, count: int, skip_arrays: bool) -> list[str] | SkippedArray:
    # The inner loop runs for every token and merge of a vocabulary: it works on locals and rarely asks for more bytes.
    data, pos, have = at.data, at.pos, len(at.data)
    unpack = _U64.unpack_from
    spans: list[tuple[int, int]] = []
    for _ in range(count):
        if pos + 8 > have:
            at.pos = pos
            at.need(8, key)
            have = len(data)
        start = pos + 8
        end = start + unpack(data, pos)[0]
        if end > have:
            at.pos = start
            at.need(end - start, key)
            have = len(data)
        if not skip_arrays:
            spans.append((start, end))
        pos = end
    at.pos = pos
    if skip_arrays:
        return SkippedArray(count)
    return [data[start:end].decode(errors="replace") for start, end in spans]


def _read_tensor(at: _Cursor, alignment: int) -> tuple[str, TensorInfo]:
    """One row of the tensor table; ``offset`` still counts from the start of the data."""
    name = at.text(MAX_NAME_BYTES, "tensor name")
    num_dims = at.u32(f"dimensions of {name}")
    if not 1 <= num_dims <= MAX_DIMS:
        raise at.fail(f"tensor {name!r} has {num_dims} dimensions, 1 to {MAX_DIMS} are possible")
    dims = [at.u64(f"dimension of {name}") for _ in range(num_dims)]
    kind = at.u32(f"type of {name}")
    offset = at.u64(f"offset of {name}")
    if kind not in GGML_TYPES:
        raise BadModelFileError(
            f"{at.path}: byte {at.pos}: tensor {name!r} has unknown ggml type {kind}; use a Q4_K, Q8_0 or F16 file"
        )
    type_name, block, block_bytes = GGML_TYPES[kind]
    num_weights = 1
    for dim in dims:
        num_weights *= dim
    if not num_weights or dims[0] % block:
        raise at.fail(f"tensor {name!r} of shape {dims[::-1]} cannot be cut into {type_name} blocks of {block}")
    num_bytes = num_weights // block * block_bytes
    if num_bytes > at.size or offset > at.size:
        raise at.fail(f"tensor {name!r} takes {num_bytes} bytes at {offset}, past the end of the file")
    if offset % alignment:
        raise at.fail(f"tensor {name!r} starts at {offset}, not a multiple of {alignment}")
    return name, TensorInfo(tuple(reversed(dims)), kind, offset, num_bytes)


def _place(at: _Cursor, table: list[tuple[str, TensorInfo]], data_start: int) -> dict[str, TensorInfo]:
    """Turn data offsets into file offsets; refuse duplicates, overlaps and anything past the end of the file."""
    tensors: dict[str, TensorInfo] = {}
    end, before = data_start, ""
    for name, info in sorted(table, key=lambda row: row[1].offset):
        start = data_start + info.offset
        if name in tensors:
            raise at.fail(f"tensor {name!r} is there twice")
        if start < end:
            raise at.fail(f"tensors {before!r} and {name!r} overlap at byte {start}")
        end, before = start + info.num_bytes, name
        if end > at.size:
            raise at.fail(f"tensor {name!r} ends at byte {end}, past the end of the file")
        tensors[name] = TensorInfo(info.shape, info.ggml_type, start, info.num_bytes)
    return tensors
