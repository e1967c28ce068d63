"""GGUF files from a description of them, which may be wrong in every place that a description can be."""

import struct
from random import Random
from typing import Any

from fuzzing.byte_mutator import mutate_bytes
from tiny_tokenizers import byte_level_metadata, sentence_piece_metadata

_CODES = {0: "B", 1: "b", 2: "H", 3: "h", 4: "I", 5: "i", 6: "f", 7: "?", 10: "Q", 11: "q", 12: "d"}
_SIZES = [0, 1, 2, 31, 32, 33, 256, 4096, 2**31, 2**32 - 1, 2**62, 2**63, 2**64 - 1]

_MODEL: list[list[Any]] = [
    ["general.architecture", 8, "llama"], ["general.file_type", 4, 2], ["general.alignment", 4, 32],
    ["llama.embedding_length", 4, 32], ["llama.attention.head_count", 4, 2], ["llama.attention.head_count_kv", 4, 1],
    ["llama.block_count", 4, 1], ["llama.feed_forward_length", 4, 32], ["llama.context_length", 4, 128],
    ["llama.attention.layer_norm_rms_epsilon", 6, 1e-5], ["llama.rope.freq_base", 6, 1e4],
    ["llama.pooling_type", 4, 1], ["general.sampling.temp", 6, 0.5], ["general.sampling.top_k", 5, 3],
    ["tokenizer.chat_template", 8, "{{ messages }}"],
]  # fmt: skip


def tokenizer_keys(metadata: dict[str, Any]) -> list[list[Any]]:
    """Tokenizer metadata as keys with kinds."""
    keys: list[list[Any]] = []
    for key, value in metadata.items():
        if isinstance(value, list):
            kind = {str: 8, float: 6, int: 5}[type(value[0])]
            keys.append([key, 9, [kind, value]])
        else:
            keys.append([key, {str: 8, bool: 7, int: 4}[type(value)], value])
    return keys


def descriptions() -> list[dict[str, Any]]:
    """Good ones: without a tokenizer, and with one of either kind."""
    tensors = [["token_embd.weight", [32, 8], 0, 0], ["output.weight", [32, 8], 8, 1024]]
    plain = {"version": 3, "counts": None, "keys": _MODEL, "tensors": tensors, "data": 1024 + 8 * 34 + 64}
    vocabularies = [sentence_piece_metadata(), byte_level_metadata()]
    return [plain, *(plain | {"keys": _MODEL + tokenizer_keys(v)} for v in vocabularies)]


def build(given: dict[str, Any]) -> bytes:
    """The file; numbers that do not fit their field are cut to it."""
    keys = b"".join(_text(key) + struct.pack("<I", kind % 2**32) + _value(kind, v) for key, kind, v in given["keys"])
    tensors = b"".join(
        _text(name) + struct.pack("<I", len(dims)) + b"".join(_u64(d) for d in dims)
        + struct.pack("<I", kind % 2**32) + _u64(offset)
        for name, dims, kind, offset in given["tensors"]
    )  # fmt: skip
    num_tensors, num_keys = given["counts"] or (len(given["tensors"]), len(given["keys"]))
    head = b"GGUF" + struct.pack("<I", given["version"] % 2**32) + _u64(num_tensors) + _u64(num_keys) + keys + tensors
    return head + bytes(-len(head) % 32 + given["data"])


def mutate(data: bytes, rng: Random) -> bytes:
    """Half of the time a file from a wrong description, else bytes of this one changed, mostly before the weights."""
    if rng.random() < 0.5:
        return mutate_bytes(data, rng)
    given = rng.choice(descriptions())
    given = given | {"keys": [[*k] for k in given["keys"]], "tensors": [[*t] for t in given["tensors"]]}
    for _ in range(rng.randint(1, 3)):
        rng.choice((_wrong_key, _wrong_key, _wrong_key, _wrong_tensor, _wrong_count, _wrong_end))(given, rng)
    return build(given)


def _wrong_key(given: dict[str, Any], rng: Random) -> None:
    keys = given["keys"]
    row = rng.choice(keys)
    match rng.randrange(6):
        case 0:
            keys.remove(row)
            keys.append([rng.choice(["", "x" * 5000, row[0], "general.alignment"]), 4, rng.choice(_SIZES)])
        case 1:
            row[1:] = [4, rng.choice(_SIZES)]
        case 2:
            row[1:] = [rng.choice((6, 12)), rng.choice((0.0, -1.0, float("nan"), float("inf"), 1e30))]
        case 3:
            row[1:] = [8, rng.choice(("", "\ud800", "llama", "gpt2", "qwen2", "x" * 70_000, "linear"))]
        case 4:
            items = [rng.choice((0, 1, -1, 2**31))] * rng.choice((0, 1, 3, 299))
            row[1:] = [9, [rng.choice((4, 5, 6, 8, 9, 13)), items]]
        case _:
            if isinstance(row[2], list) and row[2][1]:
                items = list(row[2][1])
                at = rng.randrange(len(items))
                items[at] = rng.choice([items[0], items[-1], "" if isinstance(items[0], str) else 0])
                row[2] = [row[2][0], items[: rng.choice((len(items), at))]]


def _wrong_tensor(given: dict[str, Any], rng: Random) -> None:
    row = rng.choice(given["tensors"])
    match rng.randrange(4):
        case 0:
            row[1] = [rng.choice(_SIZES) for _ in range(rng.randint(0, 5))]
        case 1:
            row[2] = rng.choice((0, 1, 2, 8, 12, 30, 39, 40, 41, 99, 2**32 - 1))
        case 2:
            row[3] = rng.choice((*_SIZES, 32, 64, 1024))
        case _:
            row[0] = rng.choice(("token_embd.weight", "", "x" * 600, "blk.0.attn_q.bias", "\ud800"))


def _wrong_count(given: dict[str, Any], rng: Random) -> None:
    given["counts"] = (rng.choice((*_SIZES, len(given["tensors"]))), rng.choice((*_SIZES, len(given["keys"]))))


def _wrong_end(given: dict[str, Any], rng: Random) -> None:
    given["data"] = rng.choice((0, 1, 32, 1024, 1296))
    given["version"] = rng.choice((0, 1, 2, 3, 4, 3 << 24))


def _text(text: str) -> bytes:
    raw = str(text).encode("utf-8", "surrogatepass")
    return struct.pack("<Q", len(raw)) + raw


def _u64(number: int) -> bytes:
    return struct.pack("<Q", number % 2**64)


def _value(kind: int, value: Any) -> bytes:
    if kind == 8:
        return _text(value)
    if kind == 9:
        item, values = value
        head = struct.pack("<IQ", item, len(values))
        return head + b"".join(_text(v) if item == 8 else _number(item, v) for v in values)
    return _number(kind, value)


def _number(kind: int, value: Any) -> bytes:
    code = _CODES.get(kind, "Q")
    if code in "fd?":
        return struct.pack("<" + code, value if isinstance(value, int | float) else 0)
    size = struct.calcsize(code)
    return (int(value) % (1 << 8 * size)).to_bytes(size, "little") if isinstance(value, int | float) else bytes(size)
