"""Tool calls as a grammar: what a model must write where a call is required, in the way its family writes calls.

The grammar is llguidance's Lark with the tools' JSON schemas in it. Objects are spaced as ``json.dumps`` spaces them:
so models have learnt it, and it leaves no room for a small one to indent for ever. Markers that are tokens of their own
are named by id, because to a grammar their text is not theirs.
"""

import json
import re
from collections.abc import Mapping, Sequence
from typing import Any

from .formats import Writing

MAX_ENFORCED_CALLS = 16
"""Calls of one answer: a small model would go on until the context is full."""
_OPEN = ("additionalProperties", "anyOf", "oneOf", "allOf", "$ref", "patternProperties")
"""With one of these a schema names its parameters elsewhere, or says itself whether there may be others."""
_SPACING = {"whitespace_flexible": False, "item_separator": ", ", "key_separator": ": "}


def calls(
    tools: Sequence[dict[str, Any]], writing: Writing, markers: Mapping[str, int], *, most: int = MAX_ENFORCED_CALLS
) -> str:
    """Rules of which ``calls`` is one to ``most`` calls of any of ``tools``."""
    rules = [f"call: {' | '.join(f'call_{i}' for i in range(len(tools)))}"]
    separator = spelled(writing.separator, markers)
    more = f"({separator} call){{0,{most - 1}}}" if most > 1 else ""
    rules.insert(0, f"calls: {spelled(writing.head, markers)} call {more} {spelled(writing.finish, markers)}")
    for i, tool in enumerate(tools):
        function = tool["function"]
        name, end = json.dumps(function["name"], ensure_ascii=False), writing.end
        if writing.arguments_key:
            begin = f'{writing.begin}{{"name": {name}, "{writing.arguments_key}": '
            end = "}" + end
        else:
            begin = f"{writing.begin}{function['name']}{writing.middle}"
        rules.append(f"call_{i}: {spelled(begin, markers)} arguments_{i} {spelled(end, markers)}")
        rules.append(f"arguments_{i}: %json {json.dumps(schema_of(function) | {'x-guidance': _SPACING})}")
    return "\n".join(rules) + "\n"


def grammar(
    tools: Sequence[dict[str, Any]], writing: Writing | None, thought: tuple[str, str] | None, *, most: int = 1,
    answer: str = "", in_thought: bool = False, markers: Mapping[str, int] | None = None,
) -> str:  # fmt: skip
    """A grammar of calls, of ``answer`` (the body of a Lark rule), or of either; and of reasoning before it.

    ``in_thought``: the prompt has opened the reasoning. Without ``thought`` there is none. ``markers``: texts that are
    tokens of the model.
    """
    markers = markers or {}
    ways = [*(["calls"] if tools and writing else []), *(["answer"] if answer else [])]
    rules = calls(tools, writing, markers, most=most) if tools and writing else ""
    if answer:
        rules += f"answer: {answer}\n"
    way = f"({' | '.join(ways)})" if len(ways) > 1 else ways[0]
    if thought is None:
        return f"start: {way}\n{rules}"
    opening, closing = thought
    return (
        f"start: {'inner space' if in_thought else '(thought space)?'} {way}\n{rules}"
        f"thought: {spelled(opening, markers)} inner\n{_up_to(closing, markers)}"
        "space: /[ \\n]{0,4}/\n"
    )


def strict_calls(
    tools: Sequence[dict[str, Any]], writing: Writing, thought: tuple[str, str] | None, *,
    in_thought: bool = False, markers: Mapping[str, int],
) -> str:  # fmt: skip
    """A grammar of any text, in which the token that opens a call is followed by a call of ``tools``; see ``grammar``.

    It forbids nothing elsewhere, so that text without a call is what it is without a grammar; reasoning neither, in
    which that token opens nothing. Arguments of tools that are not strict are any object. Empty where a call is opened
    by no token of its own, or reasoning opened or closed by none: text would do, of which none is unmistakable.
    """
    opening = _first_marker(writing.begin or writing.head, markers)
    if not opening or (thought is not None and any(text not in markers for text in thought)):
        return ""
    most = 1 if writing.begin else MAX_ENFORCED_CALLS
    called = [tool if tool["function"].get("strict") else _loose(tool) for tool in tools]
    rules = calls(called, writing, markers, most=most)
    call = "call" if writing.begin else "calls"
    if thought is None:
        return f"start: piece*\npiece: <[^{markers[opening]}]> | {call}\n{rules}"
    begin, end = (markers[text] for text in thought)
    return (
        f"start: {f'inner | inner <[{end}]> open' if in_thought else 'open'}\nopen: piece* begun?\n"
        f"piece: <[^{markers[opening]},{begin}]> | begun <[{end}]> | {call}\n"
        f"begun: <[{begin}]> inner\ninner: thinking*\nthinking: <[^{end}]>\n{rules}"
    )


def schema_of(function: dict[str, Any]) -> dict[str, Any]:
    """The schema of a function's arguments: an object of the parameters that are named, unless it says otherwise."""
    given = function.get("parameters")
    schema = dict(given) if isinstance(given, dict) else {}
    schema.setdefault("type", "object")
    if not any(key in schema for key in _OPEN):
        schema["additionalProperties"] = False
    return schema


def spelled(text: str, markers: Mapping[str, int]) -> str:
    """A text as Lark has it: literals, and tokens by id; nothing for no text."""
    known = sorted((m for m in markers if m in text), key=len, reverse=True)
    if not known:
        return json.dumps(text, ensure_ascii=False) if text else ""
    pieces = re.split(f"({'|'.join(map(re.escape, known))})", text)
    return " ".join(f"<[{markers[p]}]>" if p in markers else json.dumps(p, ensure_ascii=False) for p in pieces if p)


def _first_marker(text: str, markers: Mapping[str, int]) -> str:
    """The token that a text begins with; empty where that is none of its own."""
    return max((m for m in markers if text.startswith(m)), key=len, default="")


def _loose(tool: dict[str, Any]) -> dict[str, Any]:
    return {"function": {"name": tool["function"]["name"], "parameters": {"additionalProperties": True}}}


def _up_to(closing: str, markers: Mapping[str, int]) -> str:
    """The rule of any text up to ``closing``."""
    if closing in markers:
        return f"inner: text <[{markers[closing]}]>\ntext: /(?s:.*)/\n"
    return f"inner[suffix={json.dumps(closing, ensure_ascii=False)}]: /(?s:.*)/\n"
