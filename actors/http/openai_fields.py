"""Bodies of /v1/completions and /v1/chat/completions: names and types. Ranges are in ``openai_calls.py``.

For every optional field null means absent. A field that is in neither a Struct nor ``UNSUPPORTED`` is ignored and named
in a header of the answer.
"""

from typing import Any

import msgspec


class StreamOptions(msgspec.Struct, frozen=True):
    """What a stream tells beside the text."""

    include_usage: bool | None = None
    continuous_usage_stats: bool | None = None


class Body(msgspec.Struct, frozen=True, kw_only=True):
    """Fields of both routes."""

    model: str | None = None
    n: int | None = None
    temperature: float | None = None
    top_p: float | None = None
    top_k: int | None = None
    min_p: float | None = None
    presence_penalty: float | None = None
    frequency_penalty: float | None = None
    repetition_penalty: float | None = None
    max_tokens: int | None = None
    min_tokens: int | None = None
    seed: int | None = None
    stop: str | list[str] | None = None
    include_stop_str_in_output: bool | None = None
    stop_token_ids: list[int] | None = None
    ignore_eos: bool | None = None
    logit_bias: dict[str, float] | None = None
    allowed_token_ids: list[int] | None = None
    bad_words: list[str] | None = None
    logprob_token_ids: list[int] | None = None
    prompt_logprobs: int | None = None
    stream: bool | None = None
    stream_options: StreamOptions | None = None
    stream_interval: int | None = None
    echo: bool | None = None
    skip_special_tokens: bool | None = None
    spaces_between_special_tokens: bool | None = None
    add_special_tokens: bool | None = None
    truncate_prompt_tokens: int | None = None
    truncation_side: str | None = None
    priority: int | None = None
    request_id: str | None = None
    session_id: str | None = None
    user: str | None = None
    cache_salt: str | None = None
    return_token_ids: bool | None = None
    return_tokens_as_token_ids: bool | None = None
    response_format: dict[str, Any] | None = None
    structured_outputs: dict[str, Any] | None = None
    guided_json: Any = None
    guided_regex: str | None = None
    guided_choice: list[str] | None = None
    guided_grammar: str | None = None
    speculation: bool | dict[str, Any] | None = None


class CompletionBody(Body, frozen=True, kw_only=True):
    """POST /v1/completions."""

    prompt: Any = None
    logprobs: int | None = None


class ChatBody(Body, frozen=True, kw_only=True):
    """POST /v1/chat/completions."""

    messages: list[Any] | None = None
    max_completion_tokens: int | None = None
    logprobs: bool | None = None
    top_logprobs: int | None = None
    tools: list[Any] | None = None
    tool_choice: str | dict[str, Any] | None = None
    parallel_tool_calls: bool | None = None
    reasoning_effort: str | None = None
    include_reasoning: bool | None = None
    chat_template_kwargs: dict[str, Any] | None = None
    documents: list[Any] | None = None
    add_generation_prompt: bool | None = None
    continue_final_message: bool | None = None
    prediction: dict[str, Any] | None = None


_NULL = b"null"
_NONE, _OFF = frozenset([_NULL]), frozenset([_NULL, b"false"])

UNSUPPORTED: dict[str, frozenset[bytes]] = {
    "repetition_detection": _NONE,
    "thinking_token_budget": frozenset([_NULL, b"-1"]),
    "suffix": frozenset([_NULL, b'""']),
    "chat_template": _NONE,
    "return_prompt_text": _OFF,
    "use_beam_search": _OFF,
    "prompt_embeds": _NONE,
    "watermarking": _OFF,
    "kv_transfer_params": _NONE,
    "ec_transfer_params": _NONE,
    "media_io_kwargs": _NONE,
    "mm_processor_kwargs": _NONE,
}
"""Fields that we know and cannot honour -> the JSON values that ask for nothing."""
