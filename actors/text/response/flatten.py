"""Conversations with tools for chat templates that know none: the tools as a text, calls and results as turns."""

import json
from collections.abc import Sequence
from typing import Any

_HOW = (
    "You can call these functions:\n{tools}\n"
    'To call one, answer with nothing but a JSON object {{"name": <function>, "arguments": {{<arguments>}}}}, '
    "and with one such object on each line to call several."
)


def flattened(messages: Sequence[dict[str, Any]], tools: Sequence[dict[str, Any]]) -> list[dict[str, Any]]:
    """The same conversation in messages that have text only. The system's message tells of ``tools``."""
    names: dict[str, str] = {}
    found = [_flat(message, names) for message in messages]
    if not tools:
        return found
    told = _HOW.format(tools="\n".join(json.dumps(tool["function"], ensure_ascii=False) for tool in tools))
    if found and found[0].get("role") in ("system", "developer"):
        before = found[0].get("content")
        if isinstance(before, str):
            return [found[0] | {"content": f"{before}\n\n{told}" if before else told}, *found[1:]]
        return [found[0] | {"content": [*(before or []), {"type": "text", "text": told}]}, *found[1:]]
    return [{"role": "system", "content": told}, *found]


def _flat(message: dict[str, Any], names: dict[str, str]) -> dict[str, Any]:
    if message.get("role") in ("tool", "function"):
        name = message.get("name") or names.get(message.get("tool_call_id", ""), "the function")
        head = f"Result of {name}: "
        content = message.get("content")
        if isinstance(content, list):
            return {"role": "user", "content": [{"type": "text", "text": head}, *content]}
        return {"role": "user", "content": head + (content or "")}
    calls = message.get("tool_calls")
    if not calls:
        return message
    lines: list[str] = []
    for call in calls:
        function = call["function"]
        names[call.get("id") or ""] = function["name"]
        arguments = function.get("arguments")
        text = arguments if isinstance(arguments, str) else json.dumps(arguments or {}, ensure_ascii=False)
        lines.append(f'{{"name": {json.dumps(function["name"])}, "arguments": {text or "{}"}}}')
    said = message.get("content")
    texts = [p["text"] for p in said] if isinstance(said, list) else [said] if said else []
    flat = {name: value for name, value in message.items() if name != "tool_calls"}
    return flat | {"content": "\n".join([*texts, *lines])}
