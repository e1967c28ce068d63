"""Tool calls whose arguments are tags, one a parameter. A text streams while it comes; other types are told whole.

The template's ``tag_pattern`` is cut at its value group: what is before it opens a parameter, what is behind it closes
one, so nothing within a value ends the call.
"""

import json
import re
from typing import Any, Literal, NamedTuple

from . import content_kinds
from .calls import CallEvent, dumps
from .casting import ToolTypes, cast
from .patterns import Pattern, PatternError, compile_pattern
from .scanner import Scanner, Watch

_VALUE = re.compile(r"\(\?P<value>\.\*\?\)")


class TagPattern(NamedTuple):
    """A ``tag_pattern`` in two halves."""

    head: Pattern
    tail: Pattern

    @staticmethod
    def of(source: str) -> "TagPattern | None":
        """None where the value is not any text up to what follows: such are read whole."""
        value = _VALUE.search(source)
        if value is None or not source[value.end() :]:
            return None
        try:
            return TagPattern(compile_pattern(source[: value.start()]), compile_pattern(source[value.end() :]))
        except PatternError:
            return None


class XmlCalls:
    """See ``CallReader``."""

    is_closed = False

    def __init__(
        self, tag: TagPattern, close: Pattern, value_parser: dict[str, Any] | None, name: str, types: ToolTypes
    ) -> None:
        self.state: Literal["more", "done", "failed"] = "more"
        self.rest = ""
        self._name = name
        self._types = types
        self._value_parser = value_parser
        self._between = Watch([close, tag.head])
        self._within = Watch([tag.tail])
        self._scanner = Scanner(self._between)
        self._keys: set[str] = set()
        self._key: str | None = None
        self._is_text = self._is_begun = False
        self._held: list[str] = []

    def feed(self, text: str, *, is_last: bool = False) -> list[CallEvent]:
        """See ``CallReader``."""
        events: list[CallEvent] = []
        while self.state == "more":
            before, hit, text = self._scanner.feed(text, is_last=is_last)
            if self._key is not None and before and (hit is not None or not is_last):  # else a marker is cut
                self._value(before, events)
            if hit is None:
                break
            if self._key is not None:
                self._end_value(events)
                self._scanner = Scanner(self._between)
                continue
            if not self._is_begun:
                self._is_begun = True
                events.append(("begin", self._name))
            if hit.which == 0:
                events.extend([("arguments", "}" if self._keys else "{}"), ("end", "")])
                self.state, self.rest, self.is_closed = "done", text, True
            else:
                self._begin_value(hit.groups.get("key", ""), events)
                self._scanner = Scanner(self._within)
        return events

    def _begin_value(self, key: str, events: list[CallEvent]) -> None:
        self._key, self._held = key, []
        types = self._types.of(self._name, key)
        self._is_text = self._value_parser is None and set(types) <= {"string"} and key not in self._keys
        if key not in self._keys:
            quote = '"' if self._is_text else ""
            events.append(("arguments", f"{', ' if self._keys else '{'}{dumps(key)}: {quote}"))

    def _value(self, text: str, events: list[CallEvent]) -> None:
        if self._is_text:
            events.append(("arguments", json.dumps(text, ensure_ascii=False)[1:-1]))
        else:
            self._held.append(text)

    def _end_value(self, events: list[CallEvent]) -> None:
        key, self._key = self._key or "", None
        if self._is_text:
            events.append(("arguments", '"'))
        elif key not in self._keys:  # of two with one key the first stays: JSON with both would be none
            events.append(("arguments", dumps(self._parsed("".join(self._held), self._types.of(self._name, key)))))
        self._keys.add(key)

    def _parsed(self, text: str, types: tuple[str, ...]) -> Any:
        value: Any = text
        if (parser := self._value_parser) is not None:
            try:
                value = content_kinds.parse(parser.get("name", "text"), text, parser.get("args", {}))
            except (ValueError, RecursionError):
                value = text
        return cast(value, types) if isinstance(value, str) else value
