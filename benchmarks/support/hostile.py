"""Shapes that a client may ask for to do harm: too large, too deep, too ambiguous, or as slow as is let through."""

import random
from collections.abc import Callable
from typing import Any

Fields = dict[str, Any]


def shapes() -> dict[str, Callable[[int], Fields]]:
    """By name, the fields of a body; the number makes each one new, so that no cache knows it."""
    return {
        "300 KB of schema": lambda n: _json({"type": "string", "description": f"{n}" + "x" * 300_000}),
        "70 levels deep": lambda n: _json(_deep(70, n)),
        "a schema of no type": lambda n: _json({"type": f"strin{n}"}),
        "cannot be enforced": lambda n: _json({"type": "array", "uniqueItems": True, "maxItems": n + 1}),
        "regex: nested repeats": lambda n: _regex(f"(((({n}a{{1,900}}){{1,900}}){{1,900}}){{1,900}}){{1,900}}"),
        "regex: 3,000 brackets": lambda n: _regex("(" * 3000 + f"{n}" + ")" * 3000),
        "regex: automaton of 2^200": lambda n: _regex(f".*a.{{200}}b.*|.*c.{{150}}{n}"),
        "grammar: ambiguous": lambda n: {
            "structured_outputs": {"grammar": f'start: e\ne: e e e | /[a-z {n}]+/ | e /[a-z]/ e'}
        },
        "2,000 optional patterns": lambda n: _json(
            {"type": "object", "properties": {f"{w}{n}": {"type": "string", "pattern": "^[a-z]{3,40}[0-9]+$"}
                                              for w in _words(2000, 12)}}
        ),
        "anyOf of 500 objects": lambda n: _json(
            {"anyOf": [_alternative(w, i, n) for i, w in enumerate(_words(500, 6))]}
        ),
        "enum of 9,000 texts": lambda n: _json({"enum": [f"{w}{n}" for w in _words(9000, 16)]}),
        "array of 9,000": lambda n: _json({"type": "array", "items": {"maximum": n, "type": "integer"},
                                           "minItems": 3000, "maxItems": 9000}),
    }  # fmt: skip


def _json(schema: Any) -> Fields:
    return {"response_format": {"type": "json_schema", "json_schema": {"name": "x", "schema": schema}}}


def _regex(text: str) -> Fields:
    return {"structured_outputs": {"regex": text}}


def _deep(levels: int, number: int) -> Any:
    schema: Any = {"type": "integer", "minimum": number}
    for _ in range(levels):
        schema = {"type": "array", "items": schema}
    return schema


def _alternative(word: str, place: int, number: int) -> Any:
    fields = {word: {"type": "integer", "minimum": place + number}, "x": {"type": "string", "maxLength": place + 1}}
    return {"type": "object", "properties": fields, "required": ["x"]}


def _words(num: int, length: int) -> list[str]:
    rng = random.Random(num)
    return ["".join(rng.choice("abcdefghijklmnopqrstuvwxyz") for _ in range(length)) + str(i) for i in range(num)]
