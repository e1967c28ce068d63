"""Response templates: how a family of models writes reasoning and tool calls, in Hugging Face's format, version 1.

A template is read once and refused in one line if it cannot be used; reading output by it never fails.
"""

from collections.abc import Mapping, Sequence
from typing import Any

import msgspec

from . import content_kinds
from .calls import CallShape
from .patterns import Pattern, PatternError, compile_literals, compile_pattern
from .scanner import Scanner, Watch
from .xml_calls import TagPattern

CONTENT, REASONING, CALLS = "content", "reasoning_content", "tool_calls"
MAX_FIELDS = 16
_MAX_BEGUN = 32_768
"""Characters of a prompt's end in which the message is looked for."""
_REASONING_NAMES = ("reasoning", "thinking")
"""What some templates call it."""


class TemplateError(ValueError):
    """A response template that cannot be used; one line."""


class _FieldSpec(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    open: str | list[str] | None = None
    open_pattern: str | None = None
    close: str | list[str] | None = None
    close_pattern: str | None = None
    content: str = "text"
    content_args: dict[str, Any] = {}
    repeats: bool = False
    join: str | None = None
    optional: bool = True
    transform: Any = None
    transform_each: bool = False


class _TemplateSpec(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    fields: dict[str, _FieldSpec]
    version: int = 1
    defaults: dict[str, Any] = {}
    start_anchor: str | list[str] | None = None
    start_anchor_pattern: str | None = None


class Field:
    """One field, compiled."""

    def __init__(self, name: str, spec: _FieldSpec) -> None:
        self.name = name
        self.open = _delimiter(spec.open, spec.open_pattern, "open")
        self.close = _delimiter(spec.close, spec.close_pattern, "close")
        self.content = spec.content
        self.content_args = spec.content_args
        self.repeats = spec.repeats
        self.join = spec.join
        self.transform = spec.transform
        self.is_each = spec.transform_each
        content_kinds.check_args(spec.content, spec.content_args)
        if spec.join is not None and not spec.repeats:
            raise TemplateError("join needs repeats to be true")
        if spec.transform_each and spec.transform is None:
            raise TemplateError("transform_each needs a transform")
        groups = {g for p in (self.open, self.close) if p is not None for g in p.groups}
        if groups and spec.transform is None:
            raise TemplateError(f"the named group {min(groups)} needs a transform that uses it")
        _check_placeholders(spec.transform)
        self.shape = _call_shape(self, spec.transform) if name == CALLS else None
        """How its calls stream; None where they are read whole."""
        self.tag = TagPattern.of(spec.content_args["tag_pattern"]) if spec.content == "xml-inline" else None
        if spec.content_args.get("merge_duplicates"):
            self.tag = None


class ResponseTemplate:
    """Compiled fields by name, and what stands before the message in a prompt."""

    def __init__(self, fields: Mapping[str, Field], anchors: Sequence[Pattern]) -> None:
        self.fields = dict(fields)
        self.anchors = list(anchors)
        implicit = [f for f in fields.values() if f.open is None]
        if len(implicit) > 1:
            raise TemplateError(f"fields {implicit[0].name} and {implicit[1].name} both have no open: only one may")
        self.implicit = implicit[0] if implicit else None
        """The field that takes the text between all others."""

    def only(self, names: set[str]) -> "ResponseTemplate":
        """The same with the fields of ``names`` and the one without a beginning."""
        return ResponseTemplate({n: f for n, f in self.fields.items() if n in names or f.open is None}, self.anchors)

    def literals(self) -> list[str]:
        """Texts that its delimiters are made of, so that none of them is taken for a control token and dropped."""
        found: list[str] = []
        for field in self.fields.values():
            found += [text for p in (field.open, field.close) if p is not None for text in p.literals]
            found += [text for pair in field.content_args.get("string_delims", []) for text in pair]
            if field.content == "xml-inline":
                found += compile_pattern(field.content_args["tag_pattern"]).literals
        return found

    def behind_anchor(self, prompt: str) -> str | None:
        """What the prompt has of the message already; None where its beginning is not found."""
        watch, rest, found = Watch(self.anchors), prompt[-_MAX_BEGUN:], None
        while (one := Scanner(watch).feed(rest, is_last=True)).hit is not None:
            rest = found = one.rest
        return found


def load(spec: Any) -> ResponseTemplate:
    """A template from its JSON.

    Raises:
        TemplateError: one line that names the field.
    """
    try:
        read = msgspec.convert(spec, _TemplateSpec)
    except msgspec.ValidationError as e:
        raise TemplateError(f"response_template: {e}") from e
    if read.version != 1:
        raise TemplateError(f"response_template.version is {read.version}: this server reads version 1")
    if not 0 < len(read.fields) <= MAX_FIELDS:
        raise TemplateError(f"response_template.fields has {len(read.fields)} entries: must be 1 to {MAX_FIELDS}")
    fields: dict[str, Field] = {}
    for name, field in read.fields.items():
        ours = REASONING if name in _REASONING_NAMES else name
        try:
            fields[ours] = Field(ours, field)
        except ValueError as e:
            raise TemplateError(f"response_template.fields.{name}: {e}") from e
    try:
        anchor = _delimiter(read.start_anchor, read.start_anchor_pattern, "start_anchor")
    except ValueError as e:
        raise TemplateError(f"response_template: {e}") from e
    if anchor is None:
        raise TemplateError("response_template has neither start_anchor nor start_anchor_pattern; add one")
    return ResponseTemplate(fields, [anchor])


def _delimiter(literal: str | list[str] | None, pattern: str | None, name: str) -> Pattern | None:
    if literal is not None and pattern is not None:
        raise TemplateError(f"{name} and {name}_pattern are both set; leave one out")
    if pattern is not None:
        return compile_pattern(pattern)
    if literal is None:
        return None
    texts = [literal] if isinstance(literal, str) else literal
    if not texts or not all(texts):
        raise PatternError(f"{name} has an empty text")
    return compile_literals(texts)


def _check_placeholders(transform: Any) -> None:
    if isinstance(transform, dict):
        for value in transform.values():
            _check_placeholders(value)
    elif isinstance(transform, list):
        for value in transform:
            _check_placeholders(value)
    else:
        content_kinds.placeholder(transform)


def _call_shape(field: Field, transform: Any) -> CallShape | None:
    """How the calls of a field stream: name and arguments each in a group, a key of the body, or the body itself."""
    function = transform.get("function") if isinstance(transform, dict) else None
    if not isinstance(function, dict) or field.content not in ("json", "xml-inline"):
        return None
    name = content_kinds.placeholder(function.get("name"))
    arguments = content_kinds.placeholder(function.get("arguments"))
    if name is None or arguments is None:
        return None
    groups = field.open.groups if field.open is not None else []
    name_group = name[0] if name[0] in groups and len(name) == 1 else None
    if field.is_each:
        if len(arguments) != 1 or len(name) != 1:
            return None
        return CallShape(name_group, None if name_group else name[0], arguments[0], True)
    name_key = name[1] if name[0] == "content" and len(name) == 2 else None
    if arguments[0] != "content" or len(arguments) > 2 or (name_group is None and name_key is None):
        return None
    arguments_key = arguments[1] if len(arguments) == 2 else None
    if field.content == "xml-inline" and (name_group is None or arguments_key is not None or field.close is None):
        return None
    return CallShape(name_group, name_key, arguments_key, False)
