"""The formats of model families: data files beside this one, found by name or by what the model's chat template says.

A file holds a response template and, for calls that a grammar enforces, how the family writes one. What a model's own
files bring as ``response_template`` goes before any of ours.
"""

import logging
import re
from collections.abc import Iterable
from functools import cache
from importlib import resources
from typing import Any

import msgspec

from ....engine.errors import ConfigError
from .patterns import Pattern
from .template import CALLS, CONTENT, REASONING, ResponseTemplate, TemplateError, load

log = logging.getLogger(__name__)

ANY = "json"
"""The format of models that have none of their own: calls as JSON objects and nothing else."""
AUTO, NONE = "auto", "none"
_FOLDER = "formats"
_TOOLS = re.compile(r"\btools\b")
SHORT_ID_CHARS = 9
"""Letters and digits that Mistral's templates want in the id of a tool call, and refuse a conversation without."""
_SHORT_IDS = re.compile(rf"\blength\s*!=\s*{SHORT_ID_CHARS}\b")


class Writing(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """How a call is written: ``begin``, what names it, its arguments, ``end``; several with ``separator`` between."""

    begin: str
    head: str = ""
    """Before the first call."""
    end: str = ""
    separator: str = ""
    finish: str = ""
    """Behind the last call."""
    arguments_key: str = ""
    """Calls are objects with a name and this key. Empty: the bare name, ``middle``, the bare arguments."""
    middle: str = ""


class Family(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """One data file."""

    names: list[str]
    """Of its tool calls."""
    template: dict[str, Any]
    reasoning_names: list[str] = []
    rank: int = 50
    """The lowest of those that fit a chat template is taken."""
    calls_where: list[str] = []
    """Texts that are all in chat templates of this family."""
    reasoning_where: list[str] = []
    """The same of those that reason."""
    writing: Writing | None = None
    thought: tuple[str, str] | None = None
    """What stands around reasoning that a grammar lets through."""


class Format:
    """How one model's output is read, and how its calls are written."""

    def __init__(
        self, template: ResponseTemplate, name: str, writing: Writing | None, thought: tuple[str, str] | None,
        knows_tools: bool, *, wants_short_ids: bool = False,
    ) -> None:  # fmt: skip
        self.template = template
        self.name = name
        """Of the format of calls; for people."""
        self.writing = writing
        """None: calls of this format cannot be enforced, those of ``ANY`` can."""
        self.thought = thought
        self.knows_tools = knows_tools
        """Whether the chat template tells the model of tools."""
        self.wants_short_ids = wants_short_ids
        """Whether it takes back ids of ``SHORT_ID_CHARS`` only."""

    @property
    def reads_calls(self) -> bool:
        """Whether calls are looked for that the model makes of its own accord."""
        return CALLS in self.template.fields

    @property
    def reads_reasoning(self) -> bool:
        """Whether there is reasoning to look for."""
        return REASONING in self.template.fields


@cache
def families() -> tuple[Family, ...]:
    """All data files, the most particular first."""
    decoder = msgspec.json.Decoder(Family)
    folder = resources.files(__package__ or "").joinpath(_FOLDER)
    found = [decoder.decode(f.read_bytes()) for f in folder.iterdir() if f.name.endswith(".json")]
    return tuple(sorted(found, key=lambda f: (f.rank, f.names)))


def names(*, reasoning: bool = False) -> list[str]:
    """What a config may say, beside ``auto`` and ``none``."""
    return sorted({name for f in families() for name in (f.reasoning_names if reasoning else f.names)})


def resolve(
    chat_template: str, response_template: Any = None, tool_parser: str = AUTO, reasoning_parser: str = AUTO
) -> Format:
    """The format of a model.

    Raises:
        ConfigError: a parser of that name is not known.
    """
    own = _own(response_template) if AUTO in (tool_parser, reasoning_parser) else None
    knows_tools = _TOOLS.search(chat_template) is not None
    calls = _family(tool_parser, chat_template, "server.tool_call_parser", reasoning=False)
    thinks = _family(reasoning_parser, chat_template, "server.reasoning_parser", reasoning=True)
    if calls is None and tool_parser == AUTO:
        calls = _named(ANY, reasoning=False)
    fields: dict[str, Any] = {}
    anchors: list[Pattern] = []
    name = NONE
    for kind, family, asked in ((CALLS, calls, tool_parser), (REASONING, thinks, reasoning_parser)):
        source = own if own is not None and asked == AUTO and kind in own.fields else None
        if source is None and family is not None:
            source = _template(family.names[0])
        if source is None or kind not in source.fields:
            continue
        fields[kind] = source.fields[kind]
        anchors += source.anchors
        if kind == CALLS:
            name = "response_template" if source is own else family.names[0] if family is not None else NONE
    if own is not None and own.implicit is not None:
        fields[own.implicit.name] = own.implicit
    else:
        fields[CONTENT] = _template(ANY).fields[CONTENT]
    template = ResponseTemplate(fields, anchors or _template(ANY).anchors)
    writing = calls.writing if calls is not None and name != "response_template" else None
    thought = thinks.thought if thinks is not None and REASONING in fields else None
    wants_short_ids = _SHORT_IDS.search(chat_template) is not None
    return Format(template, name, writing, thought, knows_tools, wants_short_ids=wants_short_ids)


def any_format(thinks: Format) -> Format:
    """The format of calls that a grammar enforces where the model's own cannot be; its reasoning is ``thinks``'s."""
    family, template = _named(ANY, reasoning=False), _template(ANY)
    fields = {**template.fields}
    if REASONING in thinks.template.fields:
        fields[REASONING] = thinks.template.fields[REASONING]
    together = ResponseTemplate(fields, [*thinks.template.anchors, *template.anchors])
    return Format(together, ANY, family.writing, thinks.thought, False)


def _own(spec: Any) -> ResponseTemplate | None:
    if spec is None:
        return None
    try:
        return load(spec)
    except TemplateError as e:
        log.warning("the model's own response template is not used: %s", e)
        return None


def _family(asked: str, chat_template: str, key: str, *, reasoning: bool) -> Family | None:
    if asked == NONE:
        return None
    if asked != AUTO:
        try:
            return _named(asked, reasoning=reasoning, chat_template=chat_template)
        except LookupError:
            known = ", ".join([AUTO, NONE, *names(reasoning=reasoning)])
            raise ConfigError(f"{key} = {asked!r} is no parser of this version; use one of {known}") from None
    for family in families():
        where = family.reasoning_where if reasoning else family.calls_where
        if where and all(text in chat_template for text in where):
            return family
    return None


def _named(name: str, *, reasoning: bool, chat_template: str = "") -> Family:
    """Of families that share a name, the one that the chat template looks like.

    Raises:
        LookupError: there is none.
    """
    found = [f for f in families() if name in (f.reasoning_names if reasoning else f.names)]
    if not found:
        raise LookupError(name)
    fitting = [f for f in found if f.calls_where and all(text in chat_template for text in f.calls_where)]
    return (fitting or found)[0]


@cache
def _template(name: str) -> ResponseTemplate:
    return load(_named(name, reasoning=False).template)


def kept(format_: Format, texts: Iterable[tuple[int, str]]) -> frozenset[int]:
    """Of control tokens, the ids of those that the format's delimiters are made of: their text must be seen."""
    literals = format_.template.literals()
    return frozenset(i for i, text in texts if text and any(text in literal for literal in literals))
