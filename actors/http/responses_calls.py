"""A body of /v1/responses to the chat body that asks for the same. Ranges are checked there."""

from typing import Any

from ...engine.errors import InvalidRequestError
from .errors import describe
from .openai_calls import unsupported
from .openai_fields import Body, ChatBody

_LOGPROBS = "message.output_text.logprobs"
_TEXT_PARTS = ("input_text", "output_text", "text")
WORDS = {"max_completion_tokens": "max_output_tokens", "response_format": "text.format", "messages": "input",
         "reasoning_effort": "reasoning.effort"}  # fmt: skip
"""Fields that have other names here."""
_SUMMARIES = ("auto", "concise", "detailed")
_VERBOSITIES = ("low", "medium", "high")
_UNSUPPORTED = ("prompt", "conversation", "background")


class ResponsesBody(Body, frozen=True, kw_only=True):
    """POST /v1/responses."""

    input: str | list[Any] | None = None
    instructions: str | None = None
    max_output_tokens: int | None = None
    tools: list[Any] | None = None
    tool_choice: str | dict[str, Any] | None = None
    parallel_tool_calls: bool | None = None
    top_logprobs: int | None = None
    include: list[str] | None = None
    reasoning: dict[str, Any] | None = None
    text: dict[str, Any] | None = None
    truncation: str | None = None
    store: bool | None = None
    previous_response_id: str | None = None
    metadata: dict[str, str] | None = None
    prompt: dict[str, Any] | None = None
    conversation: str | dict[str, Any] | None = None
    background: bool | None = None
    chat_template_kwargs: dict[str, Any] | None = None


def chat_body(body: ResponsesBody, items: list[Any]) -> ChatBody:
    """The same wish in the fields of a chat; ``items`` are the input behind those of the responses before it.

    Raises:
        InvalidRequestError: naming the parameter.
    """
    for name in _UNSUPPORTED:
        if getattr(body, name):
            raise unsupported(name)
    if body.n not in (None, 1):
        raise InvalidRequestError("n must be 1: a response has one answer", param="n")
    if body.truncation not in (None, "auto", "disabled"):
        raise InvalidRequestError("truncation must be auto or disabled", param="truncation")
    common = {name: getattr(body, name) for name in Body.__struct_fields__}
    common["response_format"] = _response_format(body)
    if body.truncation == "auto":
        common["truncate_prompt_tokens"] = -1
    system = [{"role": "system", "content": body.instructions}] if body.instructions else []
    wants_logprobs = _LOGPROBS in (body.include or []) or bool(body.top_logprobs)
    return ChatBody(
        **common,
        messages=[*system, *_messages(items)],
        max_completion_tokens=body.max_output_tokens,
        tools=[_tool(tool, f"tools.{i}") for i, tool in enumerate(body.tools)] if body.tools else None,
        tool_choice=_tool_choice(body.tool_choice) if body.tools else None,
        parallel_tool_calls=body.parallel_tool_calls,
        logprobs=wants_logprobs or None,
        top_logprobs=body.top_logprobs if wants_logprobs else None,
        reasoning_effort=(body.reasoning or {}).get("effort"),
        chat_template_kwargs=body.chat_template_kwargs,
    )


def input_items(body: ResponsesBody) -> list[Any]:
    """The input as items.

    Raises:
        InvalidRequestError: there is none.
    """
    if not body.input:
        raise InvalidRequestError("input is missing or empty; send text or items", param="input")
    if isinstance(body.input, str):
        return [{"type": "message", "role": "user", "content": [{"type": "input_text", "text": body.input}]}]
    return body.input


def _messages(items: list[Any]) -> list[dict[str, Any]]:
    messages: list[dict[str, Any]] = []
    thoughts = ""
    for i, item in enumerate(items):
        param = f"input.{i}"
        match item:
            case {"type": "reasoning"}:
                thoughts += _thoughts(item, "content", param) + _thoughts(item, "summary", param)
                continue
            case {"type": "function_call", "call_id": str(call_id), "name": str(name), "arguments": str(arguments)}:
                call = {"id": call_id, "type": "function", "function": {"name": name, "arguments": arguments}}
                if not messages or messages[-1]["role"] != "assistant":
                    messages.append({"role": "assistant", "content": ""})
                messages[-1].setdefault("tool_calls", []).append(call)
            case {"type": "function_call_output", "call_id": str(call_id)}:
                output = _text(item.get("output"), f"{param}.output")
                messages.append({"role": "tool", "tool_call_id": call_id, "content": output})
            case {"role": str(role)} if item.get("type", "message") == "message":
                messages.append({"role": role, "content": _text(item.get("content"), f"{param}.content")})
            case _:
                kind = item.get("type") if isinstance(item, dict) else item
                what = f"{param} is no item that this server takes ({describe(kind)})"
                raise InvalidRequestError(
                    f"{what}; send message, function_call, function_call_output or reasoning", param=param
                )
        if thoughts and messages[-1]["role"] == "assistant":
            messages[-1]["reasoning_content"], thoughts = thoughts, ""
    return messages


def _thoughts(item: dict[str, Any], name: str, param: str) -> str:
    """Texts of one field of a reasoning item; parts of other kinds, such as encrypted ones, say nothing here."""
    parts = item.get(name) or []
    if not isinstance(parts, list):
        where = f"{param}.{name}"
        raise InvalidRequestError(f"{where} is {describe(parts)}: must be a list of parts", param=where)
    return "".join(p["text"] for p in parts if isinstance(p, dict) and isinstance(p.get("text"), str))


def _text(content: Any, param: str) -> str:
    if isinstance(content, str):
        return content
    if not isinstance(content, list):
        raise InvalidRequestError(f"{param} is {describe(content)}: must be text or a list of parts", param=param)
    for i, part in enumerate(content):
        is_text = isinstance(part, dict) and part.get("type") in _TEXT_PARTS and isinstance(part.get("text"), str)
        if not is_text:
            raise InvalidRequestError(f"{param}.{i}: this model takes parts of text only", param=f"{param}.{i}")
    return "".join(part["text"] for part in content)


def _tool(tool: Any, param: str) -> dict[str, Any]:
    """Theirs are flat."""
    match tool:
        case {"type": "function", "name": str(name)}:
            function = {"name": name, "description": tool.get("description") or ""}
            function["parameters"] = tool.get("parameters") or {"type": "object", "properties": {}}
            function |= {"strict": tool["strict"]} if tool.get("strict") is not None else {}
            return {"type": "function", "function": function}
    raise InvalidRequestError(f"{param} must be of type function with a name", param=param)


def _tool_choice(choice: str | dict[str, Any] | None) -> str | dict[str, Any] | None:
    match choice:
        case {"type": "function", "name": str(name)}:
            return {"type": "function", "function": {"name": name}}
        case dict():
            raise InvalidRequestError("tool_choice must be auto, required, none or a function", param="tool_choice")
    return choice


def _response_format(body: ResponsesBody) -> dict[str, Any] | None:
    given = (body.text or {}).get("format")
    match given:
        case None:
            return None
        case {"type": "json_schema"}:
            return {"type": "json_schema", "json_schema": {k: v for k, v in given.items() if k != "type"}}
        case {"type": str()}:
            return given
    raise InvalidRequestError("text.format must be an object with a type", param="text.format")


def known_fields(body: ResponsesBody) -> dict[str, Any]:
    """What the answer tells of the body again, as OpenAI's schema has it; what was ignored is not told."""

    def given(name: str, key: str, allowed: tuple[str, ...] | None = None) -> Any:
        value = (getattr(body, name) or {}).get(key)
        return value if allowed is None or value in allowed else None

    return {
        "instructions": body.instructions,
        "metadata": body.metadata or {},
        "parallel_tool_calls": body.parallel_tool_calls is not False,
        "temperature": body.temperature,
        "top_p": body.top_p,
        "tool_choice": _told_choice(body.tool_choice),
        "tools": body.tools or [],
        "background": False,
        "max_output_tokens": body.max_output_tokens,
        "previous_response_id": body.previous_response_id,
        "reasoning": {"effort": given("reasoning", "effort"), "summary": given("reasoning", "summary", _SUMMARIES)},
        "store": body.store is not False,
        "text": {"format": given("text", "format") or {"type": "text"}}
        | ({"verbosity": verbosity} if (verbosity := given("text", "verbosity", _VERBOSITIES)) else {}),
        "top_logprobs": body.top_logprobs or 0,
        "truncation": body.truncation or "disabled",
    } | ({} if body.user is None else {"user": body.user})


def _told_choice(choice: Any) -> Any:
    match choice:
        case "none" | "auto" | "required" | {"type": "function", "name": str()}:
            return choice
    return "auto"  # without tools anything passes, and chooses nothing
