"""A body of Anthropic's dialect to the OpenAI body that asks for the same. Ranges are checked there."""

import json
from typing import Any

import msgspec

from ...engine.errors import InvalidRequestError
from .errors import describe
from .openai_fields import ChatBody


class CountBody(msgspec.Struct, frozen=True, kw_only=True):
    """POST /v1/messages/count_tokens, and the part of /v1/messages that the model gets to see."""

    model: str | None = None
    messages: list[Any] | None = None
    system: str | list[Any] | None = None
    tools: list[Any] | None = None
    tool_choice: dict[str, Any] | None = None
    thinking: dict[str, Any] | None = None


class MessagesBody(CountBody, frozen=True, kw_only=True):
    """POST /v1/messages."""

    max_tokens: int | None = None
    stop_sequences: list[str] | None = None
    temperature: float | None = None
    top_p: float | None = None
    top_k: int | None = None
    stream: bool | None = None
    metadata: dict[str, Any] | None = None


WORDS = {"max_completion_tokens": "max_tokens", "stop": "stop_sequences"}
"""Fields that have other names here."""
_CHOICES = {"auto": "auto", "any": "required", "none": "none"}


def chat_body(body: MessagesBody) -> ChatBody:
    """The same wish in OpenAI's fields.

    Raises:
        InvalidRequestError: naming the parameter.
    """
    if body.max_tokens is None:
        raise InvalidRequestError("max_tokens is missing; set it", param="max_tokens")
    return ChatBody(
        max_completion_tokens=body.max_tokens,
        stop=body.stop_sequences,
        temperature=body.temperature,
        top_p=body.top_p,
        top_k=body.top_k,
        stream=body.stream,
        tool_choice=_tool_choice(body.tool_choice),
        parallel_tool_calls=not (body.tool_choice or {}).get("disable_parallel_tool_use"),
        **conversation(body),
    )


def counted_body(body: CountBody) -> ChatBody:
    """What is to be counted. No tool is called, so any choice of them will do.

    Raises:
        InvalidRequestError: naming the parameter.
    """
    return ChatBody(tool_choice="none", **conversation(body))


def conversation(body: CountBody) -> dict[str, Any]:
    """What the chat template needs. An answer that the client has begun is continued."""
    messages: list[Any] = []
    if body.system:
        messages.append({"role": "system", "content": _texts(body.system, "system")})
    for i, message in enumerate(body.messages or []):
        messages.extend(_messages(message, f"messages.{i}"))
    if not body.messages:
        raise InvalidRequestError("messages is missing or empty; send at least one message", param="messages")
    kind = (body.thinking or {}).get("type")
    return {
        "messages": messages,
        "tools": [_tool(tool, f"tools.{i}") for i, tool in enumerate(body.tools)] if body.tools else None,
        "continue_final_message": messages[-1]["role"] == "assistant" and not messages[-1].get("tool_calls"),
        "chat_template_kwargs": None if kind is None else {"enable_thinking": kind == "enabled"},
    }


def _messages(message: Any, param: str) -> list[dict[str, Any]]:
    """One message of theirs; results of tools are messages of their own here."""
    role = message.get("role") if isinstance(message, dict) else None
    if role not in ("user", "assistant"):
        raise InvalidRequestError(f"{param}.role is {describe(role)}: use user or assistant", param=f"{param}.role")
    content = message.get("content")
    if isinstance(content, str):
        return [{"role": role, "content": content}]
    if not isinstance(content, list):
        where = f"{param}.content"
        raise InvalidRequestError(f"{where} is {describe(content)}: must be text or a list of blocks", param=where)
    texts: list[str] = []
    calls: list[dict[str, Any]] = []
    results: list[dict[str, Any]] = []
    thoughts: list[str] = []
    for i, block in enumerate(content):
        where = f"{param}.content.{i}"
        match block:
            case {"type": "text", "text": str(text)}:
                texts.append(text)
            case {"type": "thinking", "thinking": str(text)}:
                thoughts.append(text)
            case {"type": "redacted_thinking"}:
                pass
            case {"type": "tool_use", "id": str(call_id), "name": str(name), "input": dict(arguments)}:
                function = {"name": name, "arguments": json.dumps(arguments, ensure_ascii=False)}
                calls.append({"id": call_id, "type": "function", "function": function})
            case {"type": "tool_result", "tool_use_id": str(call_id)}:
                told = _texts(block.get("content") or "", f"{where}.content")
                results.append({"role": "tool", "tool_call_id": call_id, "content": told})
            case _:
                kind = block.get("type") if isinstance(block, dict) else block
                what = f"{where} is no block that this model takes ({describe(kind)})"
                raise InvalidRequestError(f"{what}; send text", param=where)
    found = [*results]
    if texts or calls or thoughts or not results:
        own: dict[str, Any] = {"role": role, "content": "".join(texts)}
        found.append(own | ({"tool_calls": calls} if calls else {}))
        if thoughts:
            found[-1]["reasoning_content"] = "".join(thoughts)
    return found


def _texts(content: Any, param: str) -> str:
    if isinstance(content, str):
        return content
    if not isinstance(content, list):
        raise InvalidRequestError(f"{param} is {describe(content)}: must be text or a list of blocks", param=param)
    for i, block in enumerate(content):
        if not isinstance(block, dict) or block.get("type") != "text" or not isinstance(block.get("text"), str):
            raise InvalidRequestError(f'{param}.{i} must be {{"type": "text", "text": ...}}', param=f"{param}.{i}")
    return "\n".join(block["text"] for block in content)


def _tool(tool: Any, param: str) -> dict[str, Any]:
    match tool:
        case {"name": str(name), "input_schema": dict(schema)}:
            function = {"name": name, "description": tool.get("description") or "", "parameters": schema}
            function |= {"strict": tool["strict"]} if tool.get("strict") is not None else {}
            return {"type": "function", "function": function}
    raise InvalidRequestError(f"{param} must have a name and an input_schema", param=param)


def _tool_choice(choice: dict[str, Any] | None) -> str | dict[str, Any] | None:
    match choice:
        case None:
            return None
        case {"type": "tool", "name": str(name)}:
            return {"type": "function", "function": {"name": name}}
        case {"type": str(kind)} if kind in _CHOICES:
            return _CHOICES[kind]
    raise InvalidRequestError(
        "tool_choice.type must be auto, any, none, or tool with a name", param="tool_choice"
    )
