"""A body of Ollama's dialect to a ``ParsedCall``, by way of the OpenAI body that asks for the same."""

from typing import Any

import msgspec

from ...engine.errors import InvalidRequestError
from .limits import convert
from .ollama_fields import DEFAULTS, GenerateBody, OllamaBody, OllamaChatBody, Options, duration_s
from .openai_calls import MAX_IGNORED, ignored_fields, parse_completion, unsupported
from .openai_chat_calls import parse_chat
from .openai_fields import ChatBody, CompletionBody
from .parsed_call import Bounds, ParsedCall

WORDS = {name: f"options.{name}" for name in Options.__struct_fields__} | {
    "repetition_penalty": "options.repeat_penalty",
    "max_tokens": "options.num_predict",
    "response_format": "format",
}
"""Fields that have other names here."""
_SAMPLING = ("temperature", "top_k", "top_p")


def parse_generate(
    body: GenerateBody, fields: dict[str, msgspec.Raw], bounds: Bounds, request_id: str | None, defaults: dict[str, Any]
) -> ParsedCall:
    """Check a body of /api/generate. Unless it is raw, the prompt is one turn of a conversation.

    Raises:
        InvalidRequestError: naming the parameter.
    """
    for name in ("suffix", "template", "images"):
        if getattr(body, name):
            raise unsupported(name)
    if body.raw and (body.system or body.context):
        name = "system" if body.system else "context"
        raise InvalidRequestError(f"raw goes without {name}; write it into the prompt, or leave raw out", param=name)
    options, ignored = _options(body, fields, defaults, bounds)
    if body.raw or not bounds.chat_template:
        asked = CompletionBody(
            prompt=(body.system or "") + (body.prompt or ""), logprobs=_top_logprobs(body), **options, **_wishes(body)
        )
        call = parse_completion(asked, {}, bounds, request_id)
        return _finish(body, call, ignored, until_full=_is_endless(body) or "max_tokens" not in defaults)
    messages = [{"role": "user", "content": body.prompt or ""}]
    if body.system:
        messages.insert(0, {"role": "system", "content": body.system})
    return _chat(body, messages, None, options, ignored, bounds, request_id)


def parse_chat_body(
    body: OllamaChatBody, fields: dict[str, msgspec.Raw], bounds: Bounds, request_id: str | None,
    defaults: dict[str, Any],
) -> ParsedCall:  # fmt: skip
    """Check a body of /api/chat.

    Raises:
        InvalidRequestError: naming the parameter.
    """
    options, ignored = _options(body, fields, defaults, bounds)
    messages = [_message(message, f"messages.{i}") for i, message in enumerate(body.messages or [])]
    return _chat(body, messages, body.tools or None, options, ignored, bounds, request_id)


def _chat(
    body: OllamaBody, messages: list[Any], tools: list[Any] | None, options: dict[str, Any], ignored: list[str],
    bounds: Bounds, request_id: str | None,
) -> ParsedCall:  # fmt: skip
    asked = ChatBody(
        messages=messages,
        tools=tools,
        logprobs=body.logprobs,
        top_logprobs=body.top_logprobs if body.logprobs else None,
        **_thinking(body.think),
        **options,
        **_wishes(body),
    )
    return _finish(body, parse_chat(asked, {}, bounds, request_id), ignored, until_full=_is_endless(body))


def _finish(body: OllamaBody, call: ParsedCall, ignored: list[str], *, until_full: bool) -> ParsedCall:
    generate = msgspec.structs.replace(call.generate, until_full=until_full)
    return msgspec.structs.replace(call.in_words("format"), generate=generate, ignored=ignored[:MAX_IGNORED])


def ignored_fields_of(body: OllamaBody, fields: dict[str, msgspec.Raw]) -> list[str]:
    """Names of fields that are unknown, or that ask for what does not happen here.

    Raises:
        InvalidRequestError: ``keep_alive`` is no duration.
    """
    ignored = ignored_fields(body, fields)
    if body.keep_alive is not None and duration_s(body.keep_alive, "keep_alive") >= 0:
        ignored.append("keep_alive")  # the model stays, for longer than any client can ask
    asked = {"truncate": body.truncate, "shift": body.shift, "context": getattr(body, "context", None)}
    return [*ignored, *(name for name, value in asked.items() if value)][:MAX_IGNORED]


def _is_endless(body: OllamaBody) -> bool:
    """Whether the client itself wants no bound: that goes over the model's ``num_predict``."""
    raw = (body.options or {}).get("num_predict")
    return raw is not None and bytes(raw) != b"null" and bytes(raw).startswith(b"-")


def _wishes(body: OllamaBody) -> dict[str, Any]:
    wishes: dict[str, Any] = {"stream": body.stream is not False}
    if body.format == "json":
        wishes["response_format"] = {"type": "json_object"}
    elif isinstance(body.format, dict):
        wishes["response_format"] = {"type": "json_schema", "json_schema": {"name": "format", "schema": body.format}}
    elif body.format:
        raise InvalidRequestError('format must be "json" or a JSON schema', param="format")
    return wishes


def _top_logprobs(body: OllamaBody) -> int | None:
    return (body.top_logprobs or 0) if body.logprobs else None


def _thinking(think: bool | str | None) -> dict[str, Any]:
    """A template reads it or does not; there is no other way to tell the model."""
    if isinstance(think, bool):
        return {"chat_template_kwargs": {"enable_thinking": think}}
    return {"reasoning_effort": think} if think else {}


def _options(
    body: OllamaBody, raws: dict[str, msgspec.Raw], defaults: dict[str, Any], bounds: Bounds
) -> tuple[dict[str, Any], list[str]]:
    """OpenAI's fields, and the names of options without a meaning here. ``defaults`` are the model's own."""
    given = body.options or {}
    options = convert(given, Options, "options")
    ignored = ignored_fields_of(body, raws) + ignored_fields(options, given)
    fields: dict[str, Any] = {
        name: getattr(options, name)
        for name in (*_SAMPLING, "min_p", "presence_penalty", "frequency_penalty", "seed", "stop")
    }
    for name in _SAMPLING:
        if fields[name] is None and name not in defaults:
            fields[name] = DEFAULTS[name]
    if options.draft_num_predict is not None:
        if bounds.speculators:
            most = max(0, min(options.draft_num_predict, bounds.max_draft_tokens))
            fields["speculation"] = {"max_draft_tokens": most}
        else:
            ignored.append("draft_num_predict")
    fields["repetition_penalty"] = options.repeat_penalty
    fields["max_tokens"] = options.num_predict if options.num_predict and options.num_predict > 0 else None
    return fields, ignored


def _message(message: Any, param: str) -> Any:
    """Ollama's names for what OpenAI's messages have; what is wrong otherwise is found later."""
    if not isinstance(message, dict):
        return message
    if message.get("images"):
        raise InvalidRequestError(f"{param}.images: this model reads no images; leave them out",
                                  param=f"{param}.images", code="unsupported_parameter")  # fmt: skip
    renamed = {"thinking": "reasoning_content", "tool_name": "name"}
    return {"content": "", **{renamed.get(k, k): v for k, v in message.items() if k != "images" and v is not None}}
