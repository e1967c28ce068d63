"""The body of a field, whole, as the value that its ``content`` names; and values put into shape by a ``transform``.

For fields whose value is told when they close. What streams is read by ``json_calls.py`` and ``xml_calls.py``.
"""

import json
import re
from collections.abc import Mapping
from typing import Any

from .json_lexer import Dialect, JsonLexer
from .patterns import PatternError, compile_pattern
from .scanner import Scanner, Watch

KINDS = ("text", "int", "float", "bool", "json", "xml-inline", "kv-lines")
_ARGS = {
    "text": ("strip",), "int": ("strip",), "float": ("strip",), "bool": ("strip",),
    "json": ("unquoted_keys", "string_delims", "allow_non_json"),
    "xml-inline": ("tag_pattern", "value_parser", "merge_duplicates"),
    "kv-lines": ("line_sep", "kv_sep", "value_parser", "strip"),
}  # fmt: skip
_PLACEHOLDER = re.compile(r"\{(\w+(?:\.\w+)*)\}")
_MAX_NUMBER_CHARS = 400


def check_args(kind: str, args: Mapping[str, Any]) -> None:
    """Refuse arguments that ``kind`` does not take.

    Raises:
        ValueError: one line.
    """
    if kind not in KINDS:
        raise ValueError(f"content is {kind!r}: must be one of {', '.join(KINDS)}")
    for name in args:
        if name not in _ARGS[kind]:
            raise ValueError(f"content_args has {name!r}, which {kind} does not take")
    for name in ("line_sep", "kv_sep"):
        if not isinstance(args.get(name, "x"), str) or not args.get(name, "x"):
            raise ValueError(f"content_args.{name} must be text, not empty")
    if kind == "json":
        Dialect.of(args)
    elif kind == "xml-inline":
        pattern = args.get("tag_pattern")
        if not isinstance(pattern, str):
            raise ValueError("content_args.tag_pattern is missing: xml-inline needs a regular expression")
        if "key" not in compile_pattern(pattern).groups:
            raise PatternError(f"tag_pattern {pattern[:80]!r} has no group named key")
    parser = args.get("value_parser")
    if parser is not None:
        if not isinstance(parser, dict) or not isinstance(parser.get("args", {}), dict):
            raise ValueError("content_args.value_parser must be an object with a name")
        check_args(parser.get("name", "text"), parser.get("args", {}))


def parse(kind: str, text: str, args: Mapping[str, Any]) -> Any:
    """The value of a body.

    Raises:
        ValueError: it has none.
    """
    match kind:
        case "int":
            return int(_short(text))
        case "float":
            return float(_short(text))
        case "bool":
            return text.strip().lower() in ("true", "1")
        case "json":
            return _json(text, args)
        case "xml-inline":
            return _tags(text, args)
        case "kv-lines":
            return _lines(text, args)
        case _:
            return _text(text, args)


def apply_transform(transform: Any, scope: Mapping[str, Any]) -> Any:
    """The transform with its placeholders replaced by values of ``scope``.

    Raises:
        ValueError: a value that it names is not there.
    """
    if isinstance(transform, dict):
        return {key: apply_transform(value, scope) for key, value in transform.items()}
    if isinstance(transform, list):
        return [apply_transform(value, scope) for value in transform]
    path = placeholder(transform)
    if path is None:
        return transform
    value: Any = scope
    for key in path:
        if not isinstance(value, Mapping) or key not in value:
            raise ValueError(f"transform names {'.'.join(path)}, which is not there")
        value = value[key]
    return value


def placeholder(value: Any) -> tuple[str, ...] | None:
    """The path in ``"{content.name}"``; None for all that is no placeholder.

    Raises:
        ValueError: it is mixed with other text.
    """
    if not isinstance(value, str) or not _PLACEHOLDER.search(value):
        return None
    whole = _PLACEHOLDER.fullmatch(value)
    if whole is None:
        raise ValueError(f"transform has {value[:80]!r}: a placeholder stands alone or not at all")
    return tuple(whole[1].split("."))


def _short(text: str) -> str:
    if len(text) > _MAX_NUMBER_CHARS:
        raise ValueError(f"a number of {len(text)} characters")
    return text.strip()


def _text(text: str, args: Mapping[str, Any]) -> str:
    return text.strip() if args.get("strip", True) else text


def _json(text: str, args: Mapping[str, Any]) -> Any:
    lexer = JsonLexer(Dialect.of(args))
    tokens = lexer.feed(text.strip() + " ")
    if lexer.state == "done" and not lexer.rest.strip():
        return json.loads("".join(t.text for t in tokens))
    if args.get("allow_non_json"):
        return text.strip()
    raise ValueError("the body is no JSON")


def _tags(text: str, args: Mapping[str, Any]) -> dict[str, Any]:
    watch, rest = Watch([compile_pattern(args["tag_pattern"])]), text
    found: dict[str, Any] = {}
    is_list: set[str] = set()
    while (hit := (one := Scanner(watch).feed(rest, is_last=True)).hit) is not None:
        rest = one.rest
        key = hit.groups.get("key", "")
        value = _sub_value(hit.groups.get("value", ""), args)
        if key not in found or not args.get("merge_duplicates"):
            found[key] = value
        elif key in is_list:
            found[key].append(value)
        else:
            found[key] = [found[key], value]
            is_list.add(key)
    return found


def _lines(text: str, args: Mapping[str, Any]) -> dict[str, Any]:
    found: dict[str, Any] = {}
    for line in text.split(args.get("line_sep", "\n")):
        key, separator, value = line.partition(args.get("kv_sep", ":"))
        if separator and key.strip():
            found[_text(key, args)] = _sub_value(_text(value, args), args)
    return found


def _sub_value(text: str, args: Mapping[str, Any]) -> Any:
    parser = args.get("value_parser")
    return text if parser is None else parse(parser.get("name", "text"), text, parser.get("args", {}))
