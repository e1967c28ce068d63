"""A model's output to the parts of its message, while it comes: content, reasoning, tool calls with their arguments.

Joined, the parts say what the whole text says, however it is cut. Text that turns out to be no call is content, as it
stands; a call that was begun and broke off keeps what came of it. Nothing that a model writes raises, and no character
is looked at more than a bounded number of times.
"""

import re
from collections.abc import Mapping, Sequence
from typing import Any

from ...messages import Part
from . import content_kinds, json_calls
from .calls import CallEvent, CallReader
from .casting import ToolTypes
from .scanner import Hit, Scanner, Watch
from .template import CALLS, CONTENT, REASONING, Field, ResponseTemplate
from .whole_calls import WholeCalls
from .xml_calls import XmlCalls

_MIN_MARKER = 6
"""Characters of a text that nobody writes by chance."""
_FENCE = re.compile(r"```\w*")
_KINDS: Mapping[str, Any] = {CONTENT: "content", REASONING: "reasoning"}


class ResponseParser:
    """Reads one message. ``prefix`` is what the prompt has of it already: nothing of that comes out."""

    def __init__(
        self, template: ResponseTemplate, tools: Sequence[Mapping[str, Any]] = (), *, prefix: str = "",
        max_calls: int = 0,
    ) -> None:  # fmt: skip
        self.values: dict[str, Any] = {}
        """Of fields that are neither content, reasoning nor tool calls: their values, as they close."""
        self._template = template
        self._types = ToolTypes(tools)
        self._max_calls = max_calls
        self._num_calls = 0
        self._parts: list[Part] = []
        self._fields = [f for f in template.fields.values() if f.open is not None]
        self._openings = Watch([f.open for f in self._fields if f.open is not None])
        self._field: Field | None = None  # that is open; None between them
        self._markers = [
            text for f in self._fields if f.open is not None for text in f.open.literals if len(text) >= _MIN_MARKER
        ]
        self._text: _Text = _Text(template.implicit)
        self._reader: CallReader | None = None
        self._raw: list[str] = []  # of a call of which nothing was told yet
        self._is_bare = False  # no marker says that it is a call
        self._has_marker = False  # what opened it is to be closed
        self._is_surplus = False  # a call beyond those that are wanted
        self._scanner = self._between(is_start=True)
        if prefix:
            self._begin(prefix)

    @property
    def is_reasoning(self) -> bool:
        """Whether what comes next is reasoning."""
        return self._field is not None and self._field.name == REASONING

    @property
    def is_over(self) -> bool:
        """Whether there are as many calls as are wanted, so that nothing more is."""
        return 0 < self._max_calls <= self._num_calls and self._reader is None

    def feed(self, text: str) -> list[Part]:
        """What ``text`` adds."""
        self._parts = []
        self._run(text, is_last=False)
        return self._parts

    def finish(self) -> list[Part]:
        """What was held back. Nothing may be fed any more."""
        self._parts = []
        if self._field is None and any(marker in self._scanner.held for marker in self._markers):
            self._scanner.held = ""  # cut within what opens a field, of which the marker is there
        self._run("", is_last=True)
        self._close_text()
        return self._parts

    def _begin(self, prefix: str) -> None:
        fields, openings = self._fields, self._openings
        self._fields = [f for f in fields if f.name != CALLS]
        self._openings = Watch([f.open for f in self._fields if f.open is not None])
        self._scanner = self._between(is_start=True)
        self._run(prefix, is_last=False)
        self._fields, self._openings = fields, openings
        if self._field is None:
            held, self._scanner = self._scanner.held, self._between()
            if self._scanner.feed(held).hit is not None:
                self._scanner = self._between()
        self._scanner.mute()
        self._text.forget()

    # --- the loop -----------------------------------------------------------------------------------------------------

    def _run(self, text: str, *, is_last: bool) -> None:
        while (text or is_last) and not self.is_over:
            if self._reader is not None:
                more = self._read_call(text, is_last)
            elif self._field is not None:
                more = self._read_region(text, is_last)
            else:
                more = self._read_between(text, is_last)
            if more is None:
                return
            text = more

    def _between(self, *, is_start: bool = False) -> Scanner:
        """A scanner for where no field is open."""
        implicit = self._template.implicit
        closing = [implicit.close] if implicit is not None and implicit.close is not None else []
        watch = Watch([*self._openings.patterns, *closing]) if closing else self._openings
        return Scanner(watch, is_start=is_start)

    def _read_between(self, text: str, is_last: bool) -> str | None:
        before, hit, rest = self._scanner.feed(text, is_last=is_last)
        self._put_text(before)
        if hit is None:
            return None
        if hit.which == len(self._fields):  # the end of what has no beginning
            self._close_text()
            self._scanner = self._between()
            return rest if rest or not is_last or hit.text else None
        self._open(self._fields[hit.which], hit)
        return rest

    def _read_region(self, text: str, is_last: bool) -> str | None:
        before, hit, rest = self._scanner.feed(text, is_last=is_last)
        self._put_text(before)
        if hit is None:
            return None
        self._close_region()
        return rest

    def _open(self, field: Field, hit: Hit) -> None:
        if field.name == CALLS and (reader := self._reader_of(field, hit)) is not None:
            self._field, self._reader, self._raw = field, reader, [hit.text]
            self._is_bare, self._has_marker = _is_bare(hit), bool(hit.text.strip())
        elif field.name == CALLS:
            self._put_text(hit.text)
            self._scanner = self._between()
        else:
            self._close_text()
            self._field, self._text = field, _Text(field)
            self._scanner = Scanner(Watch([field.close] if field.close is not None else []))

    def _close_region(self) -> None:
        self._close_text()
        self._field, self._text = None, _Text(self._template.implicit)
        self._scanner = self._between()

    # --- text ---------------------------------------------------------------------------------------------------------

    def _put_text(self, text: str) -> None:
        field = self._field or self._template.implicit
        if not text or field is None:
            return
        told = self._text.put(text)
        kind = _KINDS.get(field.name)
        if kind is not None and told:
            self._put(Part(kind, told))

    def _close_text(self) -> None:
        field = self._text.field
        if field is None or field.name in (CONTENT, REASONING, CALLS) or not self._text.pieces:
            return
        body, self._text.pieces = "".join(self._text.pieces), []
        try:
            value = content_kinds.parse(field.content, body, field.content_args)
            if field.transform is not None:
                value = content_kinds.apply_transform(field.transform, {"content": value})
        except (ValueError, RecursionError):
            return
        if field.join is not None and isinstance(value, str):
            before = self.values.get(field.name)
            self.values[field.name] = value if before is None else before + field.join + value
        elif field.repeats:
            self.values.setdefault(field.name, []).append(value)
        else:
            self.values[field.name] = value

    def _put(self, part: Part) -> None:
        last = self._parts[-1] if self._parts else None
        if last is not None and last.kind == part.kind and last.index == part.index and part.kind != "call":
            self._parts[-1] = Part(part.kind, last.text + part.text, part.index)
        else:
            self._parts.append(part)

    # --- calls --------------------------------------------------------------------------------------------------------

    def _reader_of(self, field: Field, hit: Hit) -> CallReader | None:
        """A reader for the body behind ``hit``; None where that names no tool that is offered."""
        shape, name = field.shape, ""
        if shape is not None and shape.name_group is not None:
            name = hit.groups.get(shape.name_group, "")
            if name not in self._types:
                return None
        if shape is not None and field.content == "json":
            return json_calls.reader_of(shape, field.content_args, name, self._types, is_bare=_is_bare(hit))
        if shape is not None and field.tag is not None and field.close is not None:
            parser = field.content_args.get("value_parser")
            return XmlCalls(field.tag, field.close, parser, name, self._types)
        return WholeCalls(
            field.content, field.content_args, field.transform, field.close, hit.groups, self._types,
            is_each=field.is_each,
        )  # fmt: skip

    def _read_call(self, text: str, is_last: bool) -> str | None:
        reader, field = self._reader, self._field
        assert reader is not None and field is not None
        if reader.state != "more":
            return self._read_end(text, is_last)
        if self._raw:
            self._raw.append(text)
        raw, is_begun = self._raw, not self._raw
        for event in reader.feed(text, is_last=is_last):
            is_begun = True
            self._tell(event)
        if is_begun:
            self._raw = []
        if reader.state == "more":
            if is_last:  # cut: the beginning of a call is no text, unless nothing marks it as one
                self._leave_call()
                self._put_text("".join(raw) if self._is_bare else "")
            return None
        rest = reader.rest
        if reader.state == "failed" and not is_begun:
            return self._give_up(rest)
        if reader.is_closed or field.close is None or not self._has_marker:
            self._leave_call()
        else:  # what is left of the body ends with its marker, or with the next one
            self._scanner = Scanner(Watch([field.close, *self._openings.patterns]))
        return rest

    def _give_up(self, rest: str) -> str:
        """It was no call: what was held of it is content."""
        raw = "".join(self._raw)
        told = raw[: len(raw) - len(rest)] if rest else raw
        self._reader, self._field, self._raw = None, None, []
        if not told:  # an opening that takes no text would be found again
            told, rest = rest[:1], rest[1:]
        self._scanner = self._between()
        self._put_text(told)
        return rest

    def _read_end(self, text: str, is_last: bool) -> str | None:
        _, hit, rest = self._scanner.feed(text, is_last=is_last)
        if hit is None:
            if is_last:
                self._reader = None
            return None
        self._leave_call()
        return rest if hit.which == 0 else hit.text + rest

    def _leave_call(self) -> None:
        self._reader, self._field, self._raw = None, None, []
        self._scanner = self._between()

    def _tell(self, event: CallEvent) -> None:
        kind, text = event
        if kind == "begin":
            self._is_surplus = 0 < self._max_calls <= self._num_calls
        if self._is_surplus:
            return
        if kind == "begin":
            self._num_calls += 1
            self._put(Part("call", text, self._num_calls - 1))
        elif kind == "arguments":
            self._put(Part("arguments", text, self._num_calls - 1))


def _is_bare(hit: Hit) -> bool:
    """A fence of code marks no call either."""
    return not any(c.isalnum() for c in _FENCE.sub("", hit.text))


class _Text:
    """The text of one open field: stripped at both ends where the field wants that."""

    def __init__(self, field: Field | None) -> None:
        self.field = field
        self.pieces: list[str] = []
        self._strips = field is not None and field.content == "text" and field.content_args.get("strip", True)
        self._keeps = field is not None and field.name not in (CONTENT, REASONING, CALLS)
        self._is_begun = False
        self._spaces: list[str] = []  # that are told if more follows

    def put(self, text: str) -> str:
        if self._keeps:
            self.pieces.append(text)
            return ""
        if not self._strips:
            return text
        if not self._is_begun:
            text = text.lstrip()
            self._is_begun = bool(text)
        kept = text.rstrip()
        if not kept:
            if self._is_begun:
                self._spaces.append(text)
            return ""
        told = "".join(self._spaces) + kept
        self._spaces = [text[len(kept) :]]
        return told

    def forget(self) -> None:
        """What the prompt has is told already."""
        self._spaces, self.pieces = [], []
