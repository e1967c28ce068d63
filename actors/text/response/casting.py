"""Arguments that came as text, in the types that the tool's JSON schema asks for. Never raises on either."""

import json
import math
from collections.abc import Mapping, Sequence
from typing import Any

_MAX_UNION_DEPTH = 8
_MAX_NUMBER_CHARS = 400


class ToolTypes:
    """Of each offered tool, the types of its parameters."""

    def __init__(self, tools: Sequence[Mapping[str, Any]]) -> None:
        self._types: dict[str, dict[str, tuple[str, ...]]] = {}
        for tool in tools:
            function = tool.get("function")
            if isinstance(function, dict) and isinstance(name := function.get("name"), str):
                self._types[name] = _parameter_types(function.get("parameters"))

    def __contains__(self, name: str) -> bool:
        """Whether a tool of this name is offered."""
        return name in self._types

    def of(self, tool: str, key: str) -> tuple[str, ...]:
        """JSON Schema's types of a parameter, in the schema's order; none where it says nothing."""
        return self._types.get(tool, {}).get(key, ())


def cast(text: str, types: Sequence[str]) -> Any:
    """``text`` as the first of ``types`` that it fits; the text itself where it fits none."""
    for kind in types:
        found = _as(text, kind)
        if found is not None:
            return found[0]
    return text


def _as(text: str, kind: str) -> tuple[Any] | None:
    bare = text.strip()
    try:
        match kind:
            case "integer" if len(bare) <= _MAX_NUMBER_CHARS:
                try:
                    return (int(bare),)
                except ValueError:
                    number = float(bare)  # 3.0 is an integer, too
                    return (int(number),) if number.is_integer() else None
            case "number" if len(bare) <= _MAX_NUMBER_CHARS:
                number = float(bare)
                if not math.isfinite(number):
                    return None
                return (int(bare),) if bare.lstrip("+-").isdigit() else (number,)
            case "boolean" if bare.lower() in ("true", "1", "false", "0"):
                return (bare.lower() in ("true", "1"),)
            case "null" if bare in ("null", "None"):
                return (None,)
            case "object" | "array":
                value = json.loads(bare, parse_constant=_no_constant)
                return (value,) if isinstance(value, dict if kind == "object" else list) else None
            case _:
                return None
    except (ValueError, OverflowError, RecursionError):
        return None


def _no_constant(name: str) -> Any:
    raise ValueError(name)


def _parameter_types(schema: Any) -> dict[str, tuple[str, ...]]:
    properties = schema.get("properties") if isinstance(schema, dict) else None
    if not isinstance(properties, dict):
        return {}
    return {key: tuple(dict.fromkeys(_types(value))) for key, value in properties.items()}


def _types(schema: Any, depth: int = 0) -> list[str]:
    if not isinstance(schema, dict) or depth > _MAX_UNION_DEPTH:
        return []
    declared = schema.get("type")
    types = [t for t in (declared if isinstance(declared, list) else [declared]) if isinstance(t, str)]
    if declared is None and isinstance(values := schema.get("enum"), list) and values:
        types += [_type_of(value) for value in values]
    for union in ("anyOf", "oneOf"):
        choices = schema.get(union)
        for choice in choices if isinstance(choices, list) else []:
            types += _types(choice, depth + 1)
    if schema.get("nullable") is True:
        types.append("null")
    return types


def _type_of(value: Any) -> str:
    match value:
        case None:
            return "null"
        case bool():
            return "boolean"
        case int():
            return "integer"
        case float():
            return "number"
        case str():
            return "string"
        case _:
            return "array" if isinstance(value, list) else "object"
