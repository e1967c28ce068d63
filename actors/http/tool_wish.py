"""What a chat body asks of tools and reasoning: how its output is read, and which grammar makes it call a tool. Pure.

``required`` and a named tool are enforced by a grammar in the way the model's family writes calls, or as plain JSON
where it has no way that a grammar can say. With ``auto`` and a strict tool the grammar begins where the model opens a
call, if its family does so with a token of its own. A shape asked of the answer leaves the way to calls and reasoning
open.
"""

import re
from typing import Any

import msgspec

from ...engine.errors import InvalidRequestError
from ..messages import Reading
from ..text.response import formats, writing
from .errors import describe
from .grammar_values import GrammarWish
from .grammar_wish import answer_rule, bounded
from .limits import check_plain
from .openai_calls import unsupported
from .openai_fields import ChatBody
from .parsed_call import Bounds

MAX_TOOLS = 128
_NAME = re.compile(r"[A-Za-z0-9_.:/-]{1,128}")
_CHOICES = ("none", "auto", "required")


class ToolChoice(msgspec.Struct, frozen=True):
    """The tools of a body and which of them may or must be called."""

    tools: list[dict[str, Any]]
    kind: str
    """none, auto, required or named."""
    callable: list[dict[str, Any]]
    """Those that the output may call."""


class OutputPlan(msgspec.Struct, frozen=True):
    """How the output is bound, and how it is read."""

    reading: Reading | None
    wish: GrammarWish | None
    wish_in_thought: GrammarWish | None
    """In place of ``wish`` where the prompt ends within reasoning."""


def tool_choice(body: ChatBody) -> ToolChoice:
    """The checked tools of a body.

    Raises:
        InvalidRequestError: naming the parameter.
    """
    tools, choice = body.tools, body.tool_choice
    if tools is None:
        if choice is not None and choice != "none":
            raise InvalidRequestError("tool_choice needs tools; send them, or leave it out", param="tool_choice")
        return ToolChoice([], "none", [])
    if not 0 < len(tools) <= MAX_TOOLS:
        raise InvalidRequestError(f"tools has {len(tools)} entries: must be 1 to {MAX_TOOLS}", param="tools")
    check_plain(tools, "tools")
    names: dict[str, dict[str, Any]] = {}
    for i, tool in enumerate(tools):
        name = _check_tool(tool, f"tools.{i}")
        if name in names:
            where = f"tools.{i}.function.name"
            raise InvalidRequestError(f"{where} is {describe(name)} a second time; rename one", param=where)
        names[name] = tool
    match choice:
        case None | "auto":
            return ToolChoice(tools, "auto", tools)
        case "none":
            return ToolChoice(tools, "none", [])
        case "required":
            return ToolChoice(tools, "required", tools)
        case {"type": "function", "function": {"name": str(name)}} if name in names:
            return ToolChoice(tools, "named", [names[name]])
        case {"type": "function", "function": {"name": str(name)}}:
            raise InvalidRequestError(
                f"tool_choice names {describe(name)}, which is not in tools; use one of them", param="tool_choice"
            )
        case {"type": "allowed_tools" | "custom"}:
            raise unsupported("tool_choice", f"of type {choice['type']} ")
    what = f"tool_choice is {describe(choice)}: must be {', '.join(_CHOICES)}"
    raise InvalidRequestError(f'{what} or {{"type": "function", "function": {{"name": ...}}}}', param="tool_choice")


def output_plan(body: ChatBody, choice: ToolChoice, wish: GrammarWish | None, bounds: Bounds) -> OutputPlan:
    """How the output of a body is bound and read.

    Raises:
        InvalidRequestError: what it asks for does not go together, or is too large.
    """
    format_, markers = bounds.format, bounds.marker_ids
    is_forced = choice.kind in ("required", "named")
    if is_forced and wish is not None and not wish.param.startswith("response_format"):
        what = f"{wish.param} and a tool_choice that requires a call"
        raise InvalidRequestError(f"{what} exclude each other; leave one out", param=wish.param)
    is_single = choice.kind == "named" or body.parallel_tool_calls is False
    most = 1 if is_single else writing.MAX_ENFORCED_CALLS
    how, is_plain = format_.writing, False
    if is_forced and how is None:
        how, is_plain = formats.any_format(format_).writing, True
    tools = choice.callable if is_forced or format_.reads_calls else []
    reads_reasoning = format_.reads_reasoning
    thought = format_.thought if reads_reasoning else None
    answer = ""
    if wish is not None and not is_forced:
        answer = answer_rule(wish)
        if not answer:  # a grammar of the client's, which cannot be put into another
            if tools:
                raise InvalidRequestError(f"{wish.param} does not go with tools; leave one out", param=wish.param)
            reads_reasoning = False
    text, in_thought = "", ""
    if is_forced or (answer and (tools or thought is not None)):
        called = tools if how is not None else []
        text = writing.grammar(called, how, thought, most=most, answer=answer, markers=markers)
        if thought is not None:
            in_thought = writing.grammar(
                called, how, thought, most=most, answer=answer, in_thought=True, markers=markers
            )
    elif wish is None and tools and how is not None and not body.ignore_eos and any(_is_strict(t) for t in tools):
        # An end that is ignored would end the grammar, and with it the text.
        text = writing.strict_calls(tools, how, thought, markers=markers)
        if text and thought is not None:
            in_thought = writing.strict_calls(tools, how, thought, in_thought=True, markers=markers)
    param = "tools" if wish is None or is_forced else wish.param
    reading = Reading(
        tools=tools,
        reads_reasoning=reads_reasoning,
        hides_reasoning=body.include_reasoning is False,
        is_plain_json=is_plain,
        max_calls=1 if tools and is_single else 0,
    )
    return OutputPlan(
        reading if tools or reads_reasoning else None,
        _wish(text, param) if text else wish,
        _wish(in_thought, param) if in_thought else None,
    )


def _wish(text: str, param: str) -> GrammarWish:
    return bounded(GrammarWish(kind="grammar", text=text, param=param))


def _is_strict(tool: dict[str, Any]) -> bool:
    return tool["function"].get("strict") is True


def _check_tool(tool: Any, param: str) -> str:
    """The name of a tool."""
    function = tool.get("function") if isinstance(tool, dict) else None
    if not isinstance(function, dict) or tool.get("type", "function") != "function":
        raise InvalidRequestError(
            f'{param} must be {{"type": "function", "function": {{"name": ...}}}}', param=param
        )
    name = function.get("name")
    if not isinstance(name, str) or not _NAME.fullmatch(name):
        where = f"{param}.function.name"
        shown = "missing" if name is None else describe(name)
        raise InvalidRequestError(f"{where} is {shown}: 1 to 128 letters, digits and any of _-.:/", param=where)
    for field, kind, what in (("parameters", dict, "a JSON schema, an object"), ("description", str, "text"),
                              ("strict", bool, "true or false")):  # fmt: skip
        value = function.get(field)
        if value is not None and not isinstance(value, kind):
            where = f"{param}.function.{field}"
            raise InvalidRequestError(f"{where} is {describe(value)}: must be {what}", param=where)
    return name

