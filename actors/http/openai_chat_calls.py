"""A body of /v1/chat/completions to a ``ParsedCall``: the conversation, its tools, and what else only a chat has.

Reshaping for the chat template is the tokenizer's; here is refused what no template could take.
"""

from typing import Any

import msgspec

from ...engine.errors import InvalidRequestError
from ..messages import Chat
from ..text.response.flatten import flattened
from .errors import describe
from .limits import check_plain
from .openai_calls import (
    build_call,
    check_logprobs,
    check_range,
    check_sampling,
    refuse_unsupported,
)
from .openai_fields import ChatBody
from .openai_speculation import prediction
from .parsed_call import Bounds, ParsedCall
from .tool_wish import ToolChoice, output_plan, tool_choice

ROLES = ("system", "developer", "user", "assistant", "tool", "function")
_EFFORTS = ("none", "minimal", "low", "medium", "high", "xhigh", "max")
_OURS = frozenset(
    ["messages", "tools", "documents", "add_generation_prompt", "continue_final_message", "tokenizer", "tokenize",
     "chat_template", "bos_token", "eos_token", "unk_token", "pad_token"]
)  # fmt: skip
"""Template variables that a request may not replace."""
_MESSAGE_FIELDS = ("role", "content", "name", "tool_calls", "tool_call_id", "reasoning_content")


def parse_chat(body: ChatBody, fields: dict[str, msgspec.Raw], bounds: Bounds, request_id: str | None) -> ParsedCall:
    """Check a body of /v1/chat/completions.

    Raises:
        InvalidRequestError: naming the parameter.
    """
    refuse_unsupported(body, fields)
    choice = tool_choice(body)
    chat = _chat(body, bounds, choice)
    most = body.max_tokens if body.max_completion_tokens is None else body.max_completion_tokens
    if most is not None:
        param = "max_tokens" if body.max_completion_tokens is None else "max_completion_tokens"
        check_range(param, most, 1, bounds.max_model_len, why="the context")
    check_range("truncate_prompt_tokens", body.truncate_prompt_tokens, -1, bounds.max_model_len, why="the context")
    sampling = check_sampling(body, bounds, logprobs=_logprobs(body, bounds), max_tokens=most)
    special = bool(body.add_special_tokens)  # the template writes them itself
    call = build_call(body, fields, bounds, request_id, sampling, chat=chat, add_special_tokens=special,
                      predicted=prediction(body.prediction))  # fmt: skip
    plan = output_plan(body, choice, call.wish, bounds)
    return msgspec.structs.replace(
        call,
        generate=msgspec.structs.replace(call.generate, reading=plan.reading),
        wish=plan.wish,
        wish_in_thought=plan.wish_in_thought,
        is_named=choice.kind == "named",
    )


def parse_conversation(body: ChatBody, bounds: Bounds) -> Chat:
    """Check what the chat template gets to see.

    Raises:
        InvalidRequestError: naming the parameter.
    """
    return _chat(body, bounds, tool_choice(body))


def _chat(body: ChatBody, bounds: Bounds, choice: ToolChoice) -> Chat:
    messages = _messages(body.messages, bounds)
    tools: list[dict[str, Any]] | None = choice.tools or None
    if not bounds.format.knows_tools:
        messages, tools = flattened(messages, choice.callable), None
    return Chat(
        messages=messages,
        tools=tools,
        documents=_documents(body.documents),
        add_generation_prompt=_generation_prompt(body),
        continue_final_message=bool(body.continue_final_message),
        template_kwargs=_template_kwargs(body),
    )


def _logprobs(body: ChatBody, bounds: Bounds) -> int | None:
    if body.top_logprobs and not body.logprobs:
        raise InvalidRequestError("top_logprobs needs logprobs to be true; set it", param="top_logprobs")
    top = check_logprobs("top_logprobs", body.top_logprobs, bounds)
    return (top or 0) if body.logprobs else None


def _messages(messages: list[Any] | None, bounds: Bounds) -> list[dict[str, Any]]:
    if not messages:
        raise InvalidRequestError("messages is missing or empty; send at least one message", param="messages")
    check_plain(messages, "messages")
    return [_message(message, f"messages.{i}", bounds) for i, message in enumerate(messages)]


def _message(message: Any, param: str, bounds: Bounds) -> dict[str, Any]:
    if not isinstance(message, dict):
        raise InvalidRequestError(
            f"{param} is {describe(message)}: must be an object with role and content", param=param
        )
    role = message.get("role")
    _check_role(role, f"{param}.role", bounds)
    if "content" not in message and not message.get("tool_calls"):
        raise InvalidRequestError(f"{param}.content is missing; set it to text or null", param=f"{param}.content")
    _check_content(message.get("content"), f"{param}.content")
    for name in ("name", "tool_call_id", "reasoning", "reasoning_content"):
        if not isinstance(message.get(name), str | None):
            where = f"{param}.{name}"
            raise InvalidRequestError(f"{where} is {describe(message[name])}: must be a string", param=where)
    _check_tool_calls(message.get("tool_calls"), f"{param}.tool_calls")
    kept = {name: message[name] for name in _MESSAGE_FIELDS if message.get(name) is not None}
    if message.get("reasoning") is not None:
        kept.setdefault("reasoning_content", message["reasoning"])
    return kept


def _check_role(role: Any, param: str, bounds: Bounds) -> None:
    """The usual ones, and whatever else the model's own template names."""
    if isinstance(role, str) and role:
        template = bounds.chat_template
        if role in ROLES or f"'{role}'" in template or f'"{role}"' in template:
            return
    shown = "missing" if role is None else describe(role)
    known = ", ".join(ROLES)
    raise InvalidRequestError(f"{param} is {shown}: use {known}, or a role of the model's chat template", param=param)


def _check_content(content: Any, param: str) -> None:
    if content is None or isinstance(content, str):
        return
    if not isinstance(content, list):
        raise InvalidRequestError(f"{param} is {describe(content)}: must be text, null or a list of parts", param=param)
    for i, part in enumerate(content):
        where = f"{param}.{i}"
        if not isinstance(part, dict) or not isinstance(part.get("type"), str):
            raise InvalidRequestError(
                f'{where} is {describe(part)}: must be {{"type": "text", "text": ...}}', param=where
            )
        if part["type"] != "text":
            what = f"{where}.type is {describe(part['type'])}"
            raise InvalidRequestError(f"{what}: this model takes parts of type text only", param=f"{where}.type")
        if not isinstance(part.get("text"), str):
            raise InvalidRequestError(f"{where}.text must be a string", param=f"{where}.text")


def _check_tool_calls(calls: Any, param: str) -> None:
    if calls is None:
        return
    if not isinstance(calls, list):
        raise InvalidRequestError(f"{param} is {describe(calls)}: must be a list", param=param)
    for i, call in enumerate(calls):
        function = call.get("function") if isinstance(call, dict) else None
        if not isinstance(function, dict) or not isinstance(function.get("name"), str):
            raise InvalidRequestError(
                f"{param}.{i} must be an object with a function that has a name", param=f"{param}.{i}"
            )
        if not isinstance(function.get("arguments"), str | dict | None):
            where = f"{param}.{i}.function.arguments"
            raise InvalidRequestError(f"{where} must be JSON text", param=where)


def _documents(documents: list[Any] | None) -> list[dict[str, Any]] | None:
    for i, document in enumerate(documents or []):
        if not isinstance(document, dict) or not all(isinstance(v, str) for v in document.values()):
            raise InvalidRequestError(f"documents.{i} must be an object of strings", param=f"documents.{i}")
    return documents or None


def _generation_prompt(body: ChatBody) -> bool:
    if body.continue_final_message and body.add_generation_prompt:
        what = "add_generation_prompt and continue_final_message are both true"
        raise InvalidRequestError(f"{what}; set one to false", param="continue_final_message")
    return not body.continue_final_message and body.add_generation_prompt is not False


def _template_kwargs(body: ChatBody) -> dict[str, Any]:
    kwargs = dict(body.chat_template_kwargs or {})
    for name in kwargs:
        if name in _OURS:
            where = f"chat_template_kwargs.{name}"
            raise InvalidRequestError(f"{where} would replace a value of ours; leave it out", param=where)
    check_plain(kwargs, "chat_template_kwargs")
    if body.reasoning_effort is not None:
        if body.reasoning_effort not in _EFFORTS:
            what = f"reasoning_effort is {describe(body.reasoning_effort)}: must be one of {', '.join(_EFFORTS)}"
            raise InvalidRequestError(what, param="reasoning_effort")
        kwargs.setdefault("reasoning_effort", body.reasoning_effort)
        if body.reasoning_effort == "none":  # what templates call that
            kwargs.setdefault("enable_thinking", False)
    return kwargs
