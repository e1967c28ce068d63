"""Tool calls whose body is JSON: the name as soon as it is known, then the arguments as they come.

Markers in strings are part of the strings. Keys come in any order; arguments before their name wait for it. Models mix
up ``arguments`` and ``parameters``, and some write the arguments as a string of JSON: both are read.
"""

import json
from contextlib import closing
from typing import Any, Literal

from .calls import ArgumentWriter, CallEvent, CallShape, dumps
from .casting import ToolTypes
from .json_lexer import Dialect, JsonLexer, Token

_ARGUMENTS = frozenset(["arguments", "parameters"])
_HARMLESS = frozenset(["type", "id", "index", "call_id", "description"])
"""Other keys of what is a call all the same, where no marker says that it is one."""


class JsonCalls:
    """See ``CallReader``. ``is_bare``: no marker precedes it, so that it may be any JSON."""

    is_closed = False

    def __init__(self, shape: CallShape, dialect: Dialect, name: str, types: ToolTypes, *, is_bare: bool) -> None:
        self.state: Literal["more", "done", "failed"] = "more"
        self._shape = shape
        self._types = types
        self._is_bare = is_bare
        self._lexer = JsonLexer(dialect)
        self._base = 1 if shape.is_each else 0  # containers around a call's own object
        self._depth = 0
        self._given_name = name
        self._events: list[CallEvent] = []
        self._new_call()

    @property
    def rest(self) -> str:
        """See ``CallReader``."""
        return self._lexer.rest

    def feed(self, text: str, *, is_last: bool = False) -> list[CallEvent]:
        """See ``CallReader``."""
        self._events = []
        with closing(self._lexer.read(text)) as tokens:  # what is behind a fault is not read: it may be another call
            for token in tokens:
                self._take(token)
                if self.state != "more":
                    break
        if self.state == "more":
            self.state = self._lexer.state
        return self._events

    def _new_call(self) -> None:
        self._name = self._given_name
        self._is_begun = False
        self._writer: ArgumentWriter | None = None
        self._waiting: list[Token] = []  # arguments before their name
        self._key = ""
        self._part: Literal["", "name", "arguments", "text", "other"] = ""
        self._part_depth = 0
        self._string: list[str] = []
        self._has_arguments = False

    def _fail(self) -> None:
        self.state = "failed"

    def _take(self, token: Token) -> None:
        if self._part:
            self._take_value(token)
            return
        match token.kind:
            case "open":
                self._open(token)
            case "close":
                self._depth -= 1
                if self._depth == self._base:
                    self._end_call()
            case "key":
                self._key = json.loads(token.text)
            case "colon":
                self._begin_value()
            case "space" | "comma":
                pass
            case _:
                self._fail()

    def _open(self, token: Token) -> None:
        is_list = self._depth < self._base
        if token.text != ("[" if is_list else "{"):
            self._fail()
        elif not is_list and self._shape.arguments_key is None:
            self._part, self._part_depth, self._has_arguments = "arguments", 0, True
            self._take_value(token)
        else:
            self._depth += 1

    def _begin_value(self) -> None:
        shape, key = self._shape, self._key
        self._part_depth, self._string = 0, []
        if key == shape.name_key and not self._name:
            self._part = "name"
        elif shape.arguments_key is not None and key in _ARGUMENTS | {shape.arguments_key} and not self._has_arguments:
            self._part, self._has_arguments = "arguments", True
        else:
            self._part = "other"
            if self._is_bare and not self._is_begun and key not in _HARMLESS:
                self._fail()

    def _take_value(self, token: Token) -> None:
        """A token of the value of a key, or of arguments that are the whole body."""
        self._part_depth += (token.kind == "open") - (token.kind == "close")
        is_over = self._part_depth == 0 and token.kind in ("close", "end", "word")
        match self._part:
            case "name":
                self._take_name(token)
            case "arguments" if token.kind == "begin" and self._part_depth == 0:
                self._part = "text"
            case "arguments":
                self._take_arguments(token)
            case "text" if token.kind == "chars":
                self._string.append(token.text)
            case "text":
                self._take_text()
            case _:
                pass
        if is_over:
            self._part = ""
            if self._shape.arguments_key is None:
                self._end_call()

    def _take_name(self, token: Token) -> None:
        if token.kind == "chars":
            self._string.append(token.text)
        elif token.kind == "end":
            self._name = json.loads('"' + "".join(self._string) + '"')
            if self._name not in self._types:
                self._fail()
            elif self._waiting:
                waiting, self._waiting = self._waiting, []
                for one in waiting:
                    self._write(one)
        elif token.kind not in ("space", "begin"):
            self._fail()

    def _take_arguments(self, token: Token) -> None:
        is_first = self._part_depth == (token.kind == "open") and token.kind != "close"
        if is_first and token.kind == "word" and token.text == "null":
            return  # as if there were none
        if is_first and token.kind != "space" and token.text != "{":
            self._fail()
        elif token.kind != "space" or self._part_depth:
            self._write(token)

    def _take_text(self) -> None:
        """Arguments as a string of JSON."""
        text = json.loads('"' + "".join(self._string) + '"')
        lexer = JsonLexer()
        tokens = lexer.feed(text.strip())
        if lexer.state != "done" or lexer.rest or tokens[0].text != "{":
            self._fail()
            return
        for token in tokens:
            self._write(token)

    def _write(self, token: Token) -> None:
        if not self._name:
            self._waiting.append(token)
            return
        self._begin_call()
        if self._writer is None:
            self._writer = ArgumentWriter(self._name, self._types)
        if text := self._writer.take(token):
            self._events.append(("arguments", text))

    def _begin_call(self) -> None:
        if not self._is_begun:
            self._is_begun = True
            self._events.append(("begin", self._name))

    def _end_call(self) -> None:
        if not self._name:
            self._fail()
            return
        self._begin_call()
        if self._writer is None:
            self._events.append(("arguments", dumps({})))
        self._events.append(("end", ""))
        self._new_call()


def reader_of(shape: CallShape, args: dict[str, Any], name: str, types: ToolTypes, *, is_bare: bool) -> JsonCalls:
    """A reader for one body; ``name`` is what the opening delimiter says, or empty."""
    return JsonCalls(shape, Dialect.of(args), name, types, is_bare=is_bare)
