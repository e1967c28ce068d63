"""The Jinja environment that chat templates run in. Templates come with the model and are untrusted code.

What they get is what Hugging Face's do: ``raise_exception``, ``strftime_now``, ``tojson`` without HTML escapes, loop
controls, a ``generation`` tag without effect, trimmed blocks. What they do not get: attributes that start with an
underscore, methods that change their input, products of huge size. Compiling is cached by the template's text.

No sandbox of Python bounds time and memory, of compiling neither: the engine has this run by ``template_worker.py``.
"""

import json
from datetime import datetime
from functools import lru_cache
from typing import Any, NoReturn

from jinja2 import Template, TemplateError, nodes
from jinja2.exceptions import SecurityError
from jinja2.ext import Extension
from jinja2.parser import Parser
from jinja2.runtime import Context
from jinja2.sandbox import ImmutableSandboxedEnvironment
from jinja2.utils import Namespace

from ...engine.errors import BadModelFileError, InvalidRequestError

MAX_OUTPUT_CHARS = 4 * 1024 * 1024
"""Bound on a rendered conversation, and on any text that a template makes by repetition."""
_MAX_POWER = 64


class TemplateRefusal(TemplateError):
    """The template called ``raise_exception``; the message is meant for the client."""


class _GenerationTag(Extension):
    """``{% generation %}`` marks the assistant's words for training; here its body is just printed."""

    tags = {"generation"}

    def parse(self, parser: Parser) -> list[nodes.Node]:
        next(parser.stream)
        return parser.parse_statements(("name:endgeneration",), drop_needle=True)


class _Namespace(Namespace):
    """Jinja's ``namespace`` without names that start with an underscore."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        for name in dict(*args, **kwargs):
            _check_name(name)
        super().__init__(*args, **kwargs)

    def __setitem__(self, name: str, value: Any) -> None:
        _check_name(name)
        super().__setitem__(name, value)


class _Environment(ImmutableSandboxedEnvironment):
    """Also refuses products that would fill the memory."""

    intercepted_binops = frozenset(["*", "**"])

    def call_binop(self, context: Context, operator: str, left: Any, right: Any) -> Any:
        if operator == "**" and not (_is_small(left) and _is_small(right)):
            raise SecurityError(f"a power of numbers over {_MAX_POWER}")
        if operator == "*" and max(_num_items(left, right), _num_items(right, left)) > MAX_OUTPUT_CHARS:
            raise SecurityError(f"a repetition of over {MAX_OUTPUT_CHARS} items")
        return super().call_binop(context, operator, left, right)


def _is_small(number: Any) -> bool:
    return not isinstance(number, int | float) or abs(number) <= _MAX_POWER


def _num_items(items: Any, times: Any) -> int:
    return len(items) * times if isinstance(items, str | list | tuple) and isinstance(times, int) else 0


def _check_name(name: object) -> None:
    if str(name).startswith("_"):
        raise SecurityError(f"namespace name {str(name)[:64]!r} starts with an underscore")


def _raise_exception(message: object = "") -> NoReturn:
    raise TemplateRefusal(str(message))


def _strftime_now(fmt: str) -> str:
    return datetime.now().strftime(fmt)


def _build_dict(*args: Any, **kwargs: Any) -> dict[Any, Any]:
    """``dict(...)`` without the type's other attributes."""
    return dict(*args, **kwargs)


def _tojson(
    value: Any,
    ensure_ascii: bool = False,
    indent: int | None = None,
    separators: tuple[str, str] | None = None,
    sort_keys: bool = False,
) -> str:
    return json.dumps(value, ensure_ascii=ensure_ascii, indent=indent, separators=separators, sort_keys=sort_keys)


def _environment() -> _Environment:
    extensions = ["jinja2.ext.loopcontrols", _GenerationTag]
    env = _Environment(trim_blocks=True, lstrip_blocks=True, extensions=extensions, cache_size=0)
    env.globals.pop("lipsum")
    env.globals.update(
        raise_exception=_raise_exception, strftime_now=_strftime_now, dict=_build_dict, namespace=_Namespace
    )
    env.filters["tojson"] = _tojson
    return env


@lru_cache(maxsize=16)
def compile_template(source: str) -> Template:
    """The compiled template.

    Raises:
        BadModelFileError: it is not a Jinja template.
    """
    try:
        return _environment().from_string(source)
    except Exception as e:  # also Python's compiler's, as for a ``break`` outside a loop, and of constants it computes
        line = getattr(e, "lineno", None)
        where = f" at line {line}" if line else ""
        said = " ".join(str(e).split())[:200]
        raise BadModelFileError(f"chat template{where}: {said}; repair or replace the model's template") from e


def run_template(source: str, values: dict[str, Any]) -> str:
    """What the template makes of ``values``.

    Raises:
        BadModelFileError: it is not a Jinja template.
        InvalidRequestError: it refused the conversation, or failed on it, or makes too much of it.
    """
    template = compile_template(source)
    pieces: list[str] = []
    num_chars = 0
    try:
        for piece in template.generate(values):
            num_chars += len(piece)
            if num_chars > MAX_OUTPUT_CHARS:
                what = f"the chat template makes more than {MAX_OUTPUT_CHARS} characters"
                raise InvalidRequestError(f"{what} of this conversation; shorten it", param="messages")
            pieces.append(piece)
    except TemplateRefusal as e:
        raise InvalidRequestError(str(e)[:1000] or "the chat template refused", param="messages") from e
    except InvalidRequestError:
        raise
    except Exception as e:  # a template is code: on a conversation it was not written for it may raise anything
        text = " ".join(str(e).split())[:200]
        what = f"the model's chat template fails on this conversation ({type(e).__name__}: {text})"
        raise InvalidRequestError(f"{what}; check roles and fields", param="messages") from e
    return "".join(pieces)
