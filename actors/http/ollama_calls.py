"""A body of Ollama's dialect to a ``ParsedCall``, by way of the OpenAI body that asks for the same."""

from typing import Any

import msgspec

from ...engine.errors import InvalidRequestError
from .limits import convert
from .ollama_fields import DEFAULTS, GenerateBody, OllamaBody, OllamaChatBody, Options
from .openai_calls import MAX_IGNORED, parse_completion, unsupported
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
    body: GenerateBody, bounds: Bounds, request_id: str | None, defaults: dict[str, Any]
) -> ParsedCall:
    """Check a body of /api/generate. Unless it is raw, the prompt is one turn of a conversation.

    Raises:
        InvalidRequestError: naming the parameter.
    """
    for name in ("suffix", "template", "images"):
        if getattr(body, name):
            raise unsupported(name)
    options, ignored = _options(body, defaults, bounds)
    if body.raw or not bounds.chat_template:
        asked = CompletionBody(
            prompt=(body.system or "") + (body.prompt or ""), logprobs=_top_logprobs(body), **options, **_wishes(body)
        )
        call = parse_completion(asked, {}, bounds, request_id)
        generate = msgspec.structs.replace(call.generate, until_full=True)
        return _finish(msgspec.structs.replace(call, generate=generate), ignored)
    messages = [{"role": "user", "content": body.prompt or ""}]
    if body.system:
        messages.insert(0, {"role": "system", "content": body.system})
    return _chat(body, messages, None, options, ignored, bounds, request_id)


def parse_chat_body(
    body: OllamaChatBody, bounds: Bounds, request_id: str | None, defaults: dict[str, Any]
) -> ParsedCall:
    """Check a body of /api/chat.

    Raises:
        InvalidRequestError: naming the parameter.
    """
    options, ignored = _options(body, defaults, bounds)
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
    return _finish(parse_chat(asked, {}, bounds, request_id), ignored)


def _finish(call: ParsedCall, ignored: list[str]) -> ParsedCall:
    return msgspec.structs.replace(call.in_words("format"), ignored=ignored[:MAX_IGNORED])


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


def _options(body: OllamaBody, defaults: dict[str, Any], bounds: Bounds) -> tuple[dict[str, Any], list[str]]:
    """OpenAI's fields, and the names of options without a meaning here. ``defaults`` are the model's own."""
    given = body.options or {}
    options = convert(given, Options, "options")
    known = Options.__struct_fields__
    ignored = [name for name, raw in given.items() if name not in known and bytes(raw) != b"null"]
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
