"""What a body asks of the shape of its output, in any of the ways there are, as one ``GrammarWish``. Pure.

Sizes and shapes are checked here; whether it is a grammar at all takes a compiler: ``grammar_check.py``.
"""

import re
from typing import Any

import msgspec

from ...engine.errors import InvalidRequestError
from .errors import describe
from .grammar_values import WHITESPACE, GrammarWish
from .limits import check_plain
from .openai_fields import Body

MAX_TEXT_BYTES = 256 * 1024
"""Of a schema or a grammar."""
MAX_REGEX_CHARS = 16 * 1024
MAX_CHOICES = 1024

_KINDS = ("json", "regex", "choice", "grammar", "json_object")
_OPTIONS = ("disable_any_whitespace", "whitespace_pattern")
_FORMATS = "text, json_object or json_schema"


def wish_of(body: Body) -> GrammarWish | None:
    """The one shape that a body asks for; None where any output will do.

    Raises:
        InvalidRequestError: it asks for several, for one that is malformed, or for one that is too large.
    """
    found = [wish for wish in (_response_format(body), _structured_outputs(body), *_guided(body)) if wish is not None]
    if len(found) > 1:
        what = f"{found[0].param} and {found[1].param} are both set"
        raise InvalidRequestError(f"{what}: an output has one shape; leave one out", param=found[1].param)
    return found[0] if found else None


def json_wish(schema: Any, param: str, whitespace: str | None = None) -> GrammarWish:
    """Output that is JSON by ``schema``.

    Raises:
        InvalidRequestError: naming ``param``: it is no schema, or too large or deep a one.
    """
    if not isinstance(schema, dict | bool):
        raise InvalidRequestError(f"{param} is {describe(schema)}: must be a JSON schema, an object", param=param)
    check_plain(schema, param)
    text = msgspec.json.encode(schema).decode()
    return bounded(GrammarWish(kind="json", text=text, param=param, whitespace=whitespace))


def _response_format(body: Body) -> GrammarWish | None:
    given, param = body.response_format, "response_format"
    match None if given is None else given.get("type"):
        case None if given is None:
            return None
        case "text":
            return None
        case "json_object":
            return json_wish({"type": "object"}, param)
        case "json_schema":
            wrapped = given.get("json_schema") if given else None
            if not isinstance(wrapped, dict) or "schema" not in wrapped:
                where = f"{param}.json_schema"
                raise InvalidRequestError(f"{where} must be an object with a schema", param=where)
            return json_wish(wrapped["schema"], f"{param}.json_schema.schema")
        case other:
            what = f"{param}.type is {'missing' if other is None else describe(other)}"
            raise InvalidRequestError(f"{what}: must be {_FORMATS}", param=f"{param}.type")


def _structured_outputs(body: Body) -> GrammarWish | None:
    given, param = body.structured_outputs, "structured_outputs"
    if given is None:
        return None
    asked = {name: value for name, value in given.items() if value is not None and value is not False}
    unknown = next((name for name in asked if name not in (*_KINDS, *_OPTIONS)), None)
    if unknown is not None:
        what = f"{param} has {describe(unknown)}"
        raise InvalidRequestError(f"{what}: it takes {', '.join((*_KINDS, *_OPTIONS))}", param=param)
    kinds = [name for name in _KINDS if name in asked]
    if len(kinds) != 1:
        what = f"{param} has {len(kinds)} of {', '.join(_KINDS)}"
        raise InvalidRequestError(f"{what}: must have exactly one", param=param)
    return _of_kind(kinds[0], asked[kinds[0]], f"{param}.{kinds[0]}", _whitespace(asked, param))


def _guided(body: Body) -> list[GrammarWish | None]:
    """vLLM's older names."""
    given = {kind: getattr(body, f"guided_{kind}") for kind in _KINDS[:4]}
    return [_of_kind(kind, value, f"guided_{kind}", None) for kind, value in given.items() if value is not None]


def _of_kind(kind: str, value: Any, param: str, whitespace: str | None) -> GrammarWish:
    match kind:
        case "json_object":
            return json_wish({"type": "object"}, param, whitespace)
        case "json":
            return json_wish(_schema(value, param), param, whitespace)
        case "choice":
            _check_choices(value, param)
            return bounded(GrammarWish(kind="choice", text=msgspec.json.encode(value).decode(), param=param))
        case _:
            if not isinstance(value, str) or not value:
                raise InvalidRequestError(f"{param} is {describe(value)}: must be text, not empty", param=param)
            return bounded(GrammarWish(kind="regex" if kind == "regex" else "grammar", text=value, param=param))


def _schema(value: Any, param: str) -> Any:
    """A schema may come as its text."""
    if not isinstance(value, str):
        return value
    try:
        return msgspec.json.decode(value)
    except (msgspec.DecodeError, RecursionError) as e:
        raise InvalidRequestError(f"{param} is not valid JSON; send the schema as an object", param=param) from e


def _check_choices(value: Any, param: str) -> None:
    if not isinstance(value, list) or not value or not all(isinstance(v, str) and v for v in value):
        raise InvalidRequestError(f"{param} must be a list of at least 1 text, none of them empty", param=param)
    if len(value) > MAX_CHOICES:
        raise InvalidRequestError(f"{param} has {len(value)} choices: at most {MAX_CHOICES}; send fewer", param=param)


def _whitespace(asked: dict[str, Any], param: str) -> str | None:
    pattern = asked.get("whitespace_pattern")
    if asked.get("disable_any_whitespace"):
        if pattern is not None:
            what = f"{param}.disable_any_whitespace and whitespace_pattern are both set"
            raise InvalidRequestError(f"{what}; leave one out", param=param)
        return ""
    if pattern is not None and (not isinstance(pattern, str) or not 0 < len(pattern) <= 256):
        where = f"{param}.whitespace_pattern"
        raise InvalidRequestError(f"{where} must be a regular expression of 1 to 256 characters", param=where)
    return pattern


def answer_rule(wish: GrammarWish) -> str:
    """The wish as the body of a Lark rule; empty where it is a grammar, which is no rule of another."""
    match wish.kind:
        case "json":
            spacing: dict[str, Any] = {"whitespace_pattern": WHITESPACE if wish.whitespace is None else wish.whitespace}
            if wish.whitespace == "":
                spacing = {"whitespace_flexible": False}
            schema = msgspec.json.decode(wish.text)
            schema = schema if isinstance(schema, dict) else {} if schema else {"not": {}}
            return f"%json {msgspec.json.encode(schema | {'x-guidance': spacing}).decode()}"
        case "regex":
            escaped = re.sub(r"(\\.)|/", lambda m: m[1] or r"\/", wish.text, flags=re.DOTALL)
            return f"/{escaped.replace(chr(10), chr(92) + 'n')}/"
        case "choice":
            choices = msgspec.json.decode(wish.text, type=list[str])
            return " | ".join(msgspec.json.encode(choice).decode() for choice in choices)
        case _:
            return ""


def bounded(wish: GrammarWish) -> GrammarWish:
    """The wish itself.

    Raises:
        InvalidRequestError: it is too large.
    """
    is_regex = wish.kind == "regex"
    size = len(wish.text) if is_regex else len(wish.text.encode())
    most = MAX_REGEX_CHARS if is_regex else MAX_TEXT_BYTES
    if size > most:
        unit = "characters" if is_regex else "bytes"
        raise InvalidRequestError(
            f"{wish.param} has {size} {unit}: at most {most}; send a shorter one", param=wish.param
        )
    return wish
