"""A conversation to the text of a prompt, through the model's own template.

The template sees plain JSON values only, rebuilt here, in the shape that templates expect: text parts joined, arguments
of tool calls parsed, reasoning under the names in use. Faults of the template and of the conversation alike are the
client's 400: neither may end the actor.

What runs the template takes and returns plain values, so that it can be a process with bounds: ``template_process.py``.
"""

from collections.abc import Callable, Iterator, Mapping
from functools import partial
from typing import Any, TypeAlias

import msgspec

from ...engine.errors import InvalidRequestError
from ..messages import Chat
from .control_text import ControlText, unused_character
from .template_sandbox import compile_template, run_template

Renderer: TypeAlias = Callable[[dict[str, Any]], str]
"""Plain values to text; raises ``InvalidRequestError``."""

_MAX_DEPTH = 64
_RESERVED = frozenset(["messages", "tools", "documents", "add_generation_prompt"])


class Rendered(msgspec.Struct, frozen=True):
    """The text of a prompt; ``mark`` is inside control texts that came from the client (see ``control_text``)."""

    text: str
    mark: str | None = None


class ChatTemplate:
    """One model's template with its special token texts, such as ``bos_token``."""

    def __init__(
        self, source: str, special_tokens: Mapping[str, str], control: ControlText, run: Renderer | None = None
    ) -> None:
        """``run`` has compiled the template already; None runs it here, without bounds on time and memory."""
        self._source = source
        if run is None:
            compile_template(source)
        self._run = run or partial(run_template, source)
        self._special_tokens = dict(special_tokens)
        self._control = control
        self._knows_developer = "developer" in source

    def render(self, chat: Chat) -> Rendered:
        """The prompt's text.

        Raises:
            InvalidRequestError: the conversation is malformed, the template refused it, or the text is too long.
        """
        if chat.add_generation_prompt and chat.continue_final_message:
            what = "add_generation_prompt and continue_final_message are both true"
            raise InvalidRequestError(f"{what}; set one to false", param="continue_final_message")
        values: dict[str, Any] = {
            "messages": [self._message(m, f"messages.{i}") for i, m in enumerate(chat.messages)],
            "tools": _plain(chat.tools, "tools"),
            "documents": _plain(chat.documents, "documents"),
        }
        if not values["messages"]:
            raise InvalidRequestError("messages is empty; send at least one", param="messages")
        kwargs = self._kwargs(chat.template_kwargs)
        mark = self._control.choose_mark([values, kwargs], self._source)
        values = self._control.guard(values, mark)
        end = self._mark_end(values["messages"], mark) if chat.continue_final_message else None
        values |= self._special_tokens | self._control.guard(kwargs, mark)
        text = self._run(values | {"add_generation_prompt": chat.add_generation_prompt})
        if end is not None:
            text, found, _ = text.rpartition(end)
            if not found:
                what = "the model's chat template drops the end of the final message"
                raise InvalidRequestError(f"{what}; it cannot be continued", param="continue_final_message")
        return Rendered(text, mark)

    def _kwargs(self, kwargs: dict[str, Any]) -> dict[str, Any]:
        for name in kwargs:
            if name in _RESERVED or name in self._special_tokens:
                what = f"{name[:64]!r} in chat_template_kwargs replaces a value of ours"
                raise InvalidRequestError(f"{what}; leave it out", param=f"chat_template_kwargs.{name[:64]}")
        return _plain(kwargs, "chat_template_kwargs")

    def _message(self, message: dict[str, Any], param: str) -> dict[str, Any]:
        """One message in the shape that templates expect."""
        plain: dict[str, Any] = _plain(message, param)
        role = plain.get("role")
        if not isinstance(role, str) or not role:
            where = f"{param}.role"
            raise InvalidRequestError(f"{where} is missing or not text; set it, as to 'user'", param=where)
        if role == "developer" and not self._knows_developer:
            plain["role"] = "system"
        plain["content"] = message_text(plain.get("content"), f"{param}.content")
        reasoning = plain.get("reasoning_content") or plain.get("reasoning")
        if reasoning is not None:
            plain |= {"reasoning_content": reasoning, "thinking": reasoning}
        for i, call in enumerate(_calls(plain, param)):
            function = call.get("function")
            if isinstance(function, dict) and isinstance(function.get("arguments"), str):
                where = f"{param}.tool_calls.{i}.function.arguments"
                function["arguments"] = _arguments(function["arguments"], where)
        return plain

    def _mark_end(self, messages: list[dict[str, Any]], mark: str | None) -> str:
        """Put a character that occurs nowhere else behind the last message's text, and return it."""
        used = [self._source, msgspec.json.encode(messages).decode(), mark or ""]
        end = unused_character(used)
        messages[-1] = messages[-1] | {"content": messages[-1]["content"] + end}
        return end


def message_text(content: Any, param: str = "content") -> str:
    """The text of a message: a string, or text parts, each on a line of its own; null is empty.

    Raises:
        InvalidRequestError: it is something else, such as an image part.
    """
    if content is None:
        return ""
    if isinstance(content, str):
        return content
    if not isinstance(content, list):
        raise InvalidRequestError(f"{param} must be text, null or a list of text parts", param=param)
    texts: list[str] = []
    for i, part in enumerate(content):
        if not isinstance(part, dict) or part.get("type") != "text" or not isinstance(part.get("text"), str):
            what = f"{param}.{i} is not a part of type 'text'"
            raise InvalidRequestError(f"{what}, the only one this model takes", param=f"{param}.{i}")
        texts.append(part["text"])
    return "\n".join(texts)


def _calls(message: dict[str, Any], param: str) -> Iterator[dict[str, Any]]:
    calls = message.get("tool_calls")
    if calls is None:
        message.pop("tool_calls", None)
        return
    if not isinstance(calls, list) or not all(isinstance(c, dict) for c in calls):
        raise InvalidRequestError(f"{param}.tool_calls must be a list of objects", param=f"{param}.tool_calls")
    yield from calls


def _arguments(text: str, param: str) -> Any:
    """Templates print arguments as JSON, so they want the object and not its text."""
    try:
        return msgspec.json.decode(text) if text else {}
    except (msgspec.MsgspecError, RecursionError, UnicodeError) as e:
        what = f"{param} is not JSON"
        raise InvalidRequestError(f"{what}; send the arguments as a JSON object in text", param=param) from e


def _plain(value: Any, param: str, depth: int = 0) -> Any:
    """A copy made of plain JSON types; anything else becomes an inert text."""
    if value is None or type(value) in (str, bool, int, float):
        return value
    if depth > _MAX_DEPTH:
        raise InvalidRequestError(f"{param} is nested more than {_MAX_DEPTH} deep; flatten it", param=param)
    if isinstance(value, list | tuple):
        return [_plain(v, param, depth + 1) for v in value]
    if isinstance(value, dict):
        return {str(k): _plain(v, param, depth + 1) for k, v in value.items()}
    return f"<{type(value).__name__}>"
