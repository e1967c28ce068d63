"""Good bodies of every generating route, by path; together they set most fields."""

from typing import Any

_SCHEMA = {"type": "object", "properties": {"city": {"type": "string"}}, "required": ["city"]}
_TOOL = {"type": "function", "function": {"name": "weather", "description": "of a city", "parameters": _SCHEMA}}
_TALK = [
    {"role": "system", "content": "Be short."},
    {"role": "user", "content": [{"type": "text", "text": "Weather in Oslo?"}]},
    {
        "role": "assistant",
        "content": None,
        "tool_calls": [
            {"id": "call_1", "type": "function", "function": {"name": "weather", "arguments": '{"city": "Oslo"}'}}
        ],
    },
    {"role": "tool", "tool_call_id": "call_1", "content": "rain"},
]
_SAMPLING: dict[str, Any] = {
    "temperature": 0.7,
    "top_p": 0.9,
    "top_k": 40,
    "min_p": 0.05,
    "presence_penalty": 0.5,
    "frequency_penalty": -0.5,
    "repetition_penalty": 1.1,
    "seed": 7,
    "stop": ["\n", "END"],
    "stop_token_ids": [5, 9],
    "n": 2,
    "min_tokens": 1,
    "logit_bias": {"3": -100, "7": 1.5},
    "allowed_token_ids": [1, 2, 3],
    "bad_words": ["no", "never"],
    "priority": 0,
    "ignore_eos": False,
    "prompt_logprobs": 1,
    "cache_salt": "s",
    "truncate_prompt_tokens": 20,
    "truncation_side": "left",
    "request_id": "r-1",
    "return_token_ids": True,
    "stream": True,
    "stream_interval": 2,
    "stream_options": {"include_usage": True, "continuous_usage_stats": True},
    "speculation": {"enabled": True, "max_draft_tokens": 2},
}

BODIES: dict[str, list[Any]] = {
    "/v1/chat/completions": [
        {"model": "tiny", "messages": _TALK[:2], "max_tokens": 8},
        {"messages": _TALK, "tools": [_TOOL], "tool_choice": "auto", "parallel_tool_calls": False, "max_tokens": 8},
        {"messages": _TALK[:2], "tools": [_TOOL], "tool_choice": {"type": "function", "function": {"name": "weather"}}},
        {
            "messages": _TALK[:2],
            "response_format": {"type": "json_schema", "json_schema": {"name": "x", "schema": _SCHEMA}},
            "logprobs": True,
            "top_logprobs": 3,
            "max_completion_tokens": 9,
            "reasoning_effort": "low",
        },
        {
            "messages": [*_TALK[:2], {"role": "assistant", "content": "It"}],
            "continue_final_message": True,
            "echo": True,
            "add_generation_prompt": False,
            "chat_template_kwargs": {"x": [1]},
            "documents": [{"title": "a", "text": "b"}],
            "structured_outputs": {"regex": "[a-z]+"},
            "prediction": {"type": "content", "content": "It rains."},
        },
        {"messages": _TALK[:1], **_SAMPLING, "prompt_logprobs": 0},
    ],
    "/v1/completions": [
        {"model": "tiny", "prompt": "one two", "max_tokens": 4, "logprobs": 2, "echo": True},
        {"prompt": [[1, 2, 3], [4, 5]], "max_tokens": 4, "logprob_token_ids": [1, 2], "logprobs": 1},
        {"prompt": ["a", [1, 2]], "max_tokens": 5, "n": 3, **{k: v for k, v in _SAMPLING.items() if "stream" not in k}},
        {"prompt": "x", "structured_outputs": {"choice": ["yes", "no"]}, "add_special_tokens": False},
        {"prompt": "x", "structured_outputs": {"grammar": 'start: "a"'}, "suffix": "", "best_of": 1},
    ],
    "/v1/responses": [
        {"model": "tiny", "input": "hello", "instructions": "Be short.", "max_output_tokens": 9, "store": True},
        {
            "input": [
                {"role": "user", "content": [{"type": "input_text", "text": "hi"}]},
                {"type": "function_call", "call_id": "c", "name": "weather", "arguments": "{}"},
                {"type": "function_call_output", "call_id": "c", "output": "rain"},
                {"type": "reasoning", "id": "rs", "summary": [], "content": [{"type": "reasoning_text", "text": "x"}]},
            ],
            "tools": [{"type": "function", "name": "weather", "parameters": _SCHEMA}],
            "tool_choice": "required",
            "text": {"format": {"type": "json_schema", "name": "x", "schema": _SCHEMA}, "verbosity": "low"},
            "reasoning": {"effort": "low", "summary": "auto"},
            "include": ["message.output_text.logprobs"],
            "top_logprobs": 2,
            "truncation": "auto",
            "metadata": {"a": "b"},
            "previous_response_id": None,
        },
    ],
    "/v1/embeddings": [
        {"model": "tiny", "input": ["a", "b"], "encoding_format": "base64", "dimensions": 4, "user": "u"},
        {"input": [1, 2, 3], "truncate_prompt_tokens": 2, "truncation_side": "right"},
    ],
    "/v1/messages": [
        {
            "model": "tiny",
            "max_tokens": 9,
            "messages": [{"role": "user", "content": "hi"}],
            "system": "Be short.",
            "stop_sequences": ["END"],
            "temperature": 0.5,
            "top_p": 0.9,
            "top_k": 5,
            "metadata": {"user_id": "u"},
        },
        {
            "max_tokens": 9,
            "stream": True,
            "system": [{"type": "text", "text": "x"}],
            "thinking": {"type": "enabled", "budget_tokens": 99},
            "messages": [
                {"role": "user", "content": [{"type": "text", "text": "hi"}]},
                {
                    "role": "assistant",
                    "content": [{"type": "tool_use", "id": "t", "name": "weather", "input": {"city": "Oslo"}}],
                },
                {"role": "user", "content": [{"type": "tool_result", "tool_use_id": "t", "content": "rain"}]},
            ],
            "tools": [{"name": "weather", "description": "d", "input_schema": _SCHEMA}],
            "tool_choice": {"type": "tool", "name": "weather", "disable_parallel_tool_use": True},
        },
    ],
    "/api/chat": [
        {
            "model": "tiny",
            "messages": [{"role": "user", "content": "hi"}],
            "stream": False,
            "think": True,
            "keep_alive": "5m",
            "options": {
                "num_predict": 4,
                "temperature": 0.1,
                "top_k": 4,
                "seed": 3,
                "stop": ["a"],
                "num_ctx": 128,
                "repeat_penalty": 1.1,
                "draft_num_predict": 2,
            },
            "format": _SCHEMA,
        },
        {
            "messages": [
                {
                    "role": "assistant",
                    "content": "",
                    "tool_calls": [{"function": {"name": "weather", "arguments": {"city": "Oslo"}}}],
                },
                {"role": "tool", "tool_name": "weather", "content": "rain"},
            ],
            "tools": [_TOOL],
            "format": "json",
        },
    ],
    "/api/generate": [
        {
            "model": "tiny",
            "prompt": "hi",
            "system": "s",
            "suffix": "",
            "raw": False,
            "options": {},
            "context": [1, 2],
            "logprobs": True,
            "top_logprobs": 2,
        },
        {"prompt": "hi", "raw": True, "stream": True, "keep_alive": 0, "template": ""},
        {"model": "tiny"},
    ],
    "/api/embed": [{"model": "tiny", "input": ["a", "b"], "truncate": False, "dimensions": 3, "options": {}}],
    "/api/embeddings": [{"model": "tiny", "prompt": "a"}],
}
