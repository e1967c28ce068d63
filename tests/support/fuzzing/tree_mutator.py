"""Trees of lists, tables and scalars changed as a whole, so that what comes out is still JSON, msgpack or the like."""

import json
from collections.abc import Callable
from random import Random
from typing import Any

import msgspec

from .byte_mutator import mutate_bytes
from .target import Mutator

_SCALARS: list[Any] = [
    None, True, False, 0, 1, -1, 2, 4, 63, 64, 65, 127, 128, 129, 255, 256, 959, 960, 999, 1000, 1024, 1025, 2**31 - 1,
    2**31, 2**53, 2**53 + 1, 2**63 - 1, -(2**63), 2**64 - 1, 0.0, -0.0, 0.5, 1.0, 1.5, -1.5, 2.0, 8.0, 1e-320, 1e308,
    -1e308, 3.4e38, 3.5e38, "", " ", "a", "0", "-1", "\x00", "\u2028", "\ue000", "\U000f0000", "\U0010ffff", "é" * 300,
    "x" * 5000, "none", "auto", "required", "json", "json_object", "json_schema", "function", "text", "user", "system",
    "assistant", "tool", "left", "right", "<|im_end|>", "<think>", "</think>", "{}", "[]", "null", "{{", "(", "a{9999}",
]  # fmt: skip


def _composites(rng: Random) -> Any:
    deep: Any = rng.choice(_SCALARS)
    for _ in range(rng.choice((1, 3, 70, 200, 900))):
        deep = [deep] if rng.random() < 0.5 else {"a": deep}
    return rng.choice(([], {}, deep, [rng.choice(_SCALARS)] * rng.choice((1, 2, 5, 129, 1100)), {"": 1},
                       {str(i): i for i in range(rng.choice((1, 4, 1100)))}))  # fmt: skip


def mutate_tree(value: Any, rng: Random) -> Any:
    """``value``, changed in place in one to four places."""
    holder = [value]
    for _ in range(min(rng.randint(1, 4), rng.randint(1, 4))):
        _change(holder, rng)
    return holder[0]


def _change(holder: list[Any], rng: Random) -> None:
    places = list(_places(holder))
    parent, key = rng.choice(places)
    kind = rng.random()
    if kind < 0.45:
        parent[key] = rng.choice(_SCALARS)
    elif kind < 0.6:
        parent[key] = _composites(rng)
    elif kind < 0.75:  # what stands somewhere else
        other, name = rng.choice(places)
        parent[key] = _copied(other[name])
    elif kind < 0.85 and parent is not holder:
        del parent[key]
    elif kind < 0.95 and isinstance(parent[key], list):
        parent[key] = parent[key] * rng.choice((0, 2, 3, 40))
    elif isinstance(parent, dict):
        parent[rng.choice([k for p, k in places if isinstance(p, dict)])] = parent.pop(key)


def _places(node: Any) -> Any:
    """Every (container, key) of a tree."""
    for key in list(node) if isinstance(node, dict) else range(len(node)):
        yield node, key
        if isinstance(node[key], dict | list):
            yield from _places(node[key])


def _copied(value: Any) -> Any:
    if isinstance(value, dict):
        return {k: _copied(v) for k, v in value.items()}
    return [_copied(v) for v in value] if isinstance(value, list) else value


def mixed(structured: Mutator, bytewise: float = 0.3) -> Mutator:
    """``structured``, with plain bytes behind or in place of it."""

    def mutate(data: bytes, rng: Random) -> bytes:
        if rng.random() < bytewise:
            return mutate_bytes(data, rng)
        changed = structured(data, rng)
        return mutate_bytes(changed, rng) if rng.random() < 0.1 else changed

    return mutate


def _over(decode: Callable[[bytes], Any], encode: Callable[[Any], bytes], head: int) -> Mutator:
    def mutate(data: bytes, rng: Random) -> bytes:
        try:
            tree = decode(data[head:])
        except (ValueError, RecursionError):
            return mutate_bytes(data, rng)
        first = data[:head] if rng.random() < 0.9 else rng.randbytes(head)
        try:
            return first + encode(mutate_tree(tree, rng))
        except (ValueError, TypeError, RecursionError, OverflowError):  # such as a table whose key is none
            return data[:-1]

    return mutate


def json_mutator(head: int = 0) -> Mutator:
    """For ``head`` bytes of something else and a JSON value behind."""
    return mixed(_over(json.loads, lambda v: json.dumps(v, separators=(",", ":")).encode(), head))


def msgpack_mutator(head: int = 0) -> Mutator:
    """For ``head`` bytes of something else and a msgpack value behind."""
    return mixed(_over(msgspec.msgpack.decode, msgspec.msgpack.encode, head))
