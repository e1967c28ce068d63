"""Tool calls as a grammar: what a model must write where a call is required, in the way its family writes calls.

The grammar is llguidance's Lark with the tools' JSON schemas in it. Objects are spaced as ``json.dumps`` spaces them, which
is what models have learnt, and leaves no room for a small model to indent for ever.
"""

import json
from collections.abc import Sequence
from typing import Any

from .formats import Writing

MAX_ENFORCED_CALLS = 16
"""Calls of one answer: a small model would go on until the context is full."""
_SPACING = {"whitespace_flexible": False, "item_separator": ", ", "key_separator": ": "}


def calls(tools: Sequence[dict[str, Any]], writing: Writing, *, most: int = MAX_ENFORCED_CALLS) -> str:
    """Rules of which ``calls`` is one to ``most`` calls of any of ``tools``."""
    rules = [f"call: {' | '.join(f'call_{i}' for i in range(len(tools)))}"]
    more = f" ({quoted(writing.separator)}call){{0,{most - 1}}}" if most > 1 else ""
    rules.insert(0, f"calls: {quoted(writing.head)}call{more}{quoted(writing.finish, before=True)}")
    for i, tool in enumerate(tools):
        function = tool["function"]
        name, end = json.dumps(function["name"], ensure_ascii=False), writing.end
        if writing.arguments_key:
            begin = f'{writing.begin}{{"name": {name}, "{writing.arguments_key}": '
            end = "}" + end
        else:
            begin = f"{writing.begin}{function['name']}{writing.middle}"
        rules.append(f"call_{i}: {quoted(begin)}arguments_{i}{quoted(end, before=True)}")
        rules.append(f"arguments_{i}: %json {json.dumps(schema_of(function) | {'x-guidance': _SPACING})}")
    return "\n".join(rules) + "\n"


def grammar(
    tools: Sequence[dict[str, Any]], writing: Writing | None, thought: tuple[str, str] | None, *, most: int = 1,
    answer: str = "", in_thought: bool = False,
) -> str:  # fmt: skip
    """A grammar of calls, of ``answer`` (the body of a Lark rule), or of either; and of reasoning before it.

    ``in_thought``: the prompt has opened the reasoning. Without ``thought`` there is none.
    """
    ways = [*(["calls"] if tools and writing else []), *(["answer"] if answer else [])]
    rules = calls(tools, writing, most=most) if tools and writing else ""
    if answer:
        rules += f"answer: {answer}\n"
    way = f"({' | '.join(ways)})" if len(ways) > 1 else ways[0]
    if thought is None:
        return f"start: {way}\n{rules}"
    opening, closing = thought
    return (
        f"start: {'inner space' if in_thought else '(thought space)?'} {way}\n{rules}"
        f"thought: {quoted(opening)}inner\n"
        f"inner[suffix={json.dumps(closing)}]: /(?s:.*)/\n"
        "space: /[ \\n]{0,4}/\n"
    )


def schema_of(function: dict[str, Any]) -> dict[str, Any]:
    """The schema of a function's arguments: an object of the parameters that are named, unless it says otherwise."""
    given = function.get("parameters")
    schema = dict(given) if isinstance(given, dict) else {}
    schema.setdefault("type", "object")
    if not any(key in schema for key in ("additionalProperties", "anyOf", "oneOf", "allOf", "$ref", "patternProperties")):
        schema["additionalProperties"] = False
    return schema


def quoted(text: str, *, before: bool = False) -> str:
    """A text as Lark's literal with the space it needs; nothing for no text."""
    if not text:
        return ""
    literal = json.dumps(text, ensure_ascii=False)
    return f" {literal}" if before else f"{literal} "
