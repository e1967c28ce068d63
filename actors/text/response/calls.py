"""What readers of tool calls have in common: what they are asked for, what they tell, and how arguments go out."""

import json
from typing import Any, Literal, NamedTuple, Protocol, TypeAlias

from .casting import ToolTypes, cast
from .json_lexer import Token

CallEvent: TypeAlias = tuple[Literal["begin", "arguments", "end"], str]
"""A call begins: its name. More of its arguments: JSON text. It is complete."""


class CallShape(NamedTuple):
    """Where name and arguments of a call are, as a field's transform says."""

    name_group: str | None
    """A group of the opening delimiter, or else"""
    name_key: str | None
    """a key of the body."""
    arguments_key: str | None
    """A key of the body; None: the body is the arguments."""
    is_each: bool
    """The body is a list of such."""


class CallReader(Protocol):
    """Reads the body of a tool call field. It never raises, whatever the text is."""

    state: Literal["more", "done", "failed"]
    """``failed``: it is no call, or, if one had begun, it is broken."""
    is_closed: bool
    """Whether the closing delimiter was read, too."""

    @property
    def rest(self) -> str:
        """Behind the body, or from where it failed."""
        ...

    def feed(self, text: str, *, is_last: bool = False) -> list[CallEvent]:
        """More of the body."""
        ...


class ArgumentWriter:
    """The tokens of an arguments object to JSON text: strings that the tool's schema wants otherwise are cast."""

    def __init__(self, tool: str, types: ToolTypes) -> None:
        self._tool = tool
        self._types = types
        self._depth = 0
        self._wanted: tuple[str, ...] = ()
        self._held: list[str] | None = None

    def take(self, token: Token) -> str:
        """What there is to tell now."""
        match token.kind:
            case "open":
                self._depth += 1
            case "close":
                self._depth -= 1
            case "key" if self._depth == 1:
                self._wanted = self._types.of(self._tool, json.loads(token.text))
            case "begin" if self._depth == 1 and self._wanted and "string" not in self._wanted:
                self._held = []
                return ""
            case "chars" if self._held is not None:
                self._held.append(token.text)
                return ""
            case "end" if self._held is not None:
                text, self._held = json.loads('"' + "".join(self._held) + '"'), None
                return dumps(cast(text, self._wanted))
            case _:
                pass
        return token.text


def dumps(value: Any) -> str:
    """JSON as models write it. Lone surrogates stay escaped: they have no UTF-8."""
    text = json.dumps(value, ensure_ascii=False)
    try:
        text.encode()
    except UnicodeEncodeError:
        return json.dumps(value)
    return text
