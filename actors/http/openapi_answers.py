"""What this server answers, as JSON Schema (2020-12): the components of ``/openapi.json`` that no Struct describes.

Written by hand and held against real answers by the tests. Plain data.
"""

from typing import Any

Schema = dict[str, Any]

TEXT: Schema = {"type": "string"}
INTEGER: Schema = {"type": "integer"}
NUMBER: Schema = {"type": "number"}
YES_OR_NO: Schema = {"type": "boolean"}
NULL: Schema = {"type": "null"}


def ref(name: str) -> Schema:
    """A component."""
    return {"$ref": f"#/components/schemas/{name}"}


def const(value: Any) -> Schema:
    """One value."""
    return {"const": value}


def one_of(*values: Any) -> Schema:
    """Some values."""
    return {"enum": list(values)}


def or_null(schema: Schema) -> Schema:
    """Always there, maybe null."""
    return {"anyOf": [schema, NULL]}


def list_of(schema: Schema) -> Schema:
    """A list."""
    return {"type": "array", "items": schema}


def map_of(schema: Schema) -> Schema:
    """An object with any keys."""
    return {"type": "object", "additionalProperties": schema}


def record(text: str, fields: dict[str, Schema], optional: tuple[str, ...] = ()) -> Schema:
    """An object with these keys, all but the ``optional`` ones always there."""
    required = [name for name in fields if name not in optional]
    return {"type": "object", "description": text, "properties": fields, "required": required}


_TOKEN_LOGPROB = {"token": TEXT, "logprob": NUMBER, "bytes": or_null(list_of(INTEGER))}
_HEAD = {"id": TEXT, "created": INTEGER, "model": TEXT, "system_fingerprint": TEXT, "service_tier": or_null(TEXT)}
_OLLAMA_HEAD = {"model": TEXT, "created_at": {"type": "string", "format": "date-time"}}
_OLLAMA_FIGURES = {
    "done": const(True),
    "done_reason": one_of("stop", "length", "load", "unload"),
    **dict.fromkeys(("total_duration", "load_duration", "prompt_eval_count", "prompt_eval_duration", "eval_count",
                     "eval_duration"), INTEGER),
}  # fmt: skip
_OLLAMA_OPTIONAL = (*list(_OLLAMA_FIGURES)[2:], "logprobs")
_OLLAMA_DETAILS = record("Sizes, for people.", {
    **dict.fromkeys(("parent_model", "format", "family", "parameter_size", "quantization_level"), TEXT),
    "families": list_of(TEXT),
})  # fmt: skip
_OLLAMA_MODEL: dict[str, Schema] = {
    "name": TEXT, "model": TEXT, "modified_at": {"type": "string", "format": "date-time"}, "size": INTEGER,
    "digest": TEXT, "details": _OLLAMA_DETAILS,
}  # fmt: skip
_ERROR = record("What is wrong.", {"message": TEXT, "type": TEXT, "param": or_null(TEXT), "code": or_null(TEXT)})

ANSWERS: dict[str, Schema] = {
    "Error": record("Every error outside of /api and /v1/messages.", {"error": _ERROR}),
    "AnthropicError": record("Every error of /v1/messages.", {
        "type": const("error"), "error": record("What is wrong.", {"type": TEXT, "message": TEXT}), "request_id": TEXT,
    }),
    "OllamaError": record("Every error of /api.", {"error": TEXT}),
    "Model": record("The served model.", {
        "id": TEXT, "object": const("model"), "created": INTEGER, "owned_by": TEXT, "root": TEXT,
        "parent": or_null(TEXT), "max_model_len": INTEGER, "permission": list_of({}),
    }),
    "Models": record("The served models.", {"object": const("list"), "data": list_of(ref("Model"))}),
    "Usage": record("Tokens of a call; a prompt counts once, whatever n is.", {
        "prompt_tokens": INTEGER, "completion_tokens": INTEGER, "total_tokens": INTEGER,
        "prompt_tokens_details": record("Of the prompt.", {"cached_tokens": INTEGER}),
        "completion_tokens_details": record("Of the output.", {"reasoning_tokens": INTEGER}),
    }),
    "SpeculationMetrics": record("What speculation did for a call of one choice.", {
        "speculative_decoding": {"type": "object"}, "speculation": {"type": "object"},
    }, ("speculative_decoding",)),
    "PromptLogprobs": {
        **or_null(list_of(or_null(map_of(record("A token.", {
            "logprob": NUMBER, "rank": INTEGER, "decoded_token": TEXT}))))),
        "description": "For each prompt token the likeliest and itself, by id; the first has none.",
    },
    "CompletionLogprobs": record("By token.", {
        "text_offset": list_of(INTEGER), "token_logprobs": list_of(or_null(NUMBER)), "tokens": list_of(TEXT),
        "top_logprobs": list_of(or_null(map_of(NUMBER))),
    }),
    "ChatLogprobs": record("By token.", {
        "content": list_of(record("A token.", _TOKEN_LOGPROB | {
            "top_logprobs": list_of(record("An alternative.", _TOKEN_LOGPROB))})),
        "refusal": NULL,
    }),
    "Completion": record("The answer of /v1/completions.", _HEAD | {
        "object": const("text_completion"),
        "choices": list_of(record("One text.", {
            "index": INTEGER, "text": TEXT, "logprobs": or_null(ref("CompletionLogprobs")),
            "finish_reason": one_of("stop", "length"), "stop_reason": {"type": ["string", "integer", "null"]},
            "token_ids": or_null(list_of(INTEGER)), "prompt_token_ids": or_null(list_of(INTEGER)),
            "prompt_logprobs": ref("PromptLogprobs"),
        })),
        "usage": ref("Usage"), "metrics": ref("SpeculationMetrics"),
    }, ("metrics",)),
    "ChatCompletion": record("The answer of /v1/chat/completions.", _HEAD | {
        "object": const("chat.completion"),
        "choices": list_of(record("One answer.", {
            "index": INTEGER,
            "message": record("What the model says.", {
                "role": const("assistant"), "content": or_null(TEXT), "refusal": NULL, "annotations": list_of({}),
                "reasoning": or_null(TEXT), "tool_calls": list_of({"type": "object"}),
            }, ("tool_calls",)),
            "logprobs": or_null(ref("ChatLogprobs")), "finish_reason": one_of("stop", "length", "tool_calls"),
            "stop_reason": {"type": ["string", "integer", "null"]}, "token_ids": or_null(list_of(INTEGER)),
        })),
        "usage": ref("Usage"), "prompt_logprobs": ref("PromptLogprobs"),
        "prompt_token_ids": or_null(list_of(INTEGER)), "metrics": ref("SpeculationMetrics"),
    }, ("metrics",)),
    "Embeddings": record("The answer of /v1/embeddings.", {
        "id": TEXT, "object": const("list"), "created": INTEGER, "model": TEXT,
        "data": list_of(record("One vector of length 1.", {
            "index": INTEGER, "object": const("embedding"),
            "embedding": {"anyOf": [list_of(NUMBER), {
                "type": "string", "contentEncoding": "base64", "description": "float32, little-endian"}]},
        })),
        "usage": record("Tokens of all inputs.", {"prompt_tokens": INTEGER, "total_tokens": INTEGER}),
    }),
    "Response": {
        **record("The answer of /v1/responses; it also tells what was asked for.", {
            "id": TEXT, "object": const("response"), "created_at": INTEGER, "model": TEXT,
            "status": one_of("completed", "incomplete", "in_progress", "failed", "cancelled", "queued"),
            "error": {"type": ["object", "null"]}, "incomplete_details": {"type": ["object", "null"]},
            "output": list_of({"type": "object"}), "usage": {"type": ["object", "null"]},
        }),
        "additionalProperties": True,
    },
    "DeletedResponse": record("It is gone.", {"id": TEXT, "object": const("response"), "deleted": const(True)}),
    "InputItems": {
        **record("What went into a response.", {"object": const("list"), "data": list_of({"type": "object"})}),
        "additionalProperties": True,
    },
    "Message": record("The answer of /v1/messages.", {
        "id": TEXT, "type": const("message"), "role": const("assistant"), "model": TEXT,
        "content": list_of({
            "type": "object", "properties": {"type": TEXT}, "required": ["type"], "additionalProperties": True}),
        "stop_reason": one_of("end_turn", "max_tokens", "stop_sequence", "tool_use"),
        "stop_sequence": or_null(TEXT),
        "usage": record("Tokens; those from the cache are counted once.", dict.fromkeys((
            "input_tokens", "cache_creation_input_tokens", "cache_read_input_tokens", "output_tokens"), INTEGER)),
    }),
    "TokenCount": record("Tokens of a prompt.", {"input_tokens": INTEGER}),
    "Tokenized": record("Ids of a text.", {
        "count": INTEGER, "max_model_len": INTEGER, "tokens": list_of(INTEGER), "token_strs": or_null(list_of(TEXT)),
    }),
    "Detokenized": record("The text of ids.", {"prompt": TEXT}),
    "TokenizerInfo": record("As a tokenizer_config.json says it.", {
        "tokenizer_class": TEXT,
        **dict.fromkeys(("bos_token", "eos_token", "unk_token", "pad_token", "chat_template"), or_null(TEXT)),
        "add_bos_token": YES_OR_NO, "model_max_length": INTEGER,
    }),
    "OllamaGenerated": record("A line of /api/generate, or all of it; the last line has the figures.", {
        **_OLLAMA_HEAD, "response": TEXT, **_OLLAMA_FIGURES, "done": YES_OR_NO, "logprobs": list_of({}),
    }, ("done_reason", *_OLLAMA_OPTIONAL)),
    "OllamaChatted": record("A line of /api/chat, or all of it; the last line has the figures.", {
        **_OLLAMA_HEAD,
        "message": record("What the model says.", {
            "role": const("assistant"), "content": TEXT, "thinking": TEXT, "tool_calls": list_of({"type": "object"}),
        }, ("thinking", "tool_calls")),
        **_OLLAMA_FIGURES, "done": YES_OR_NO, "logprobs": list_of({}),
    }, ("done_reason", *_OLLAMA_OPTIONAL)),
    "OllamaEmbedded": record("Vectors of length 1.", {
        "model": TEXT, "embeddings": list_of(list_of(NUMBER)), "total_duration": INTEGER, "load_duration": INTEGER,
        "prompt_eval_count": INTEGER,
    }, ("total_duration", "load_duration", "prompt_eval_count")),
    "OllamaEmbedding": record("One vector of length 1.", {"embedding": list_of(NUMBER)}),
    "OllamaTags": record("The models that are here.", {"models": list_of(record("A model.", _OLLAMA_MODEL))}),
    "OllamaRunning": record("The models that are loaded.", {"models": list_of(record("A model.", _OLLAMA_MODEL | {
        "expires_at": TEXT, "size_vram": INTEGER, "context_length": INTEGER}))}),
    "OllamaShown": record("A model.", {
        **dict.fromkeys(("license", "modelfile", "parameters", "template", "modified_at"), TEXT),
        "details": _OLLAMA_DETAILS, "model_info": map_of({}), "capabilities": list_of(TEXT),
    }),
    "OllamaPulling": record("A line of /api/pull.", {
        "status": TEXT, "digest": TEXT, "total": INTEGER, "completed": INTEGER, "error": TEXT,
    }, ("status", "digest", "total", "completed", "error")),
    "Ready": record("How the engine is. Without a key, where keys are set, only status.", {
        "status": one_of("starting", "ok", "degraded", "recovering", "draining", "failed"),
        **dict.fromkeys(("running", "waiting", "free_blocks", "total_blocks"), INTEGER),
        "actors": map_of(record("A process.", {
            "state": TEXT, "pid": or_null(INTEGER), "restarts": INTEGER, "idle_s": NUMBER, "error": or_null(TEXT)})),
        "error": _ERROR,
    }, ("running", "waiting", "free_blocks", "total_blocks", "actors", "error")),
    "Version": record("Ours.", {"version": TEXT}),
    "Load": record("Requests in the engine.", {"server_load": INTEGER}),
    "PrefixCacheReset": record("Blocks that can be found no more.", {"num_blocks": INTEGER}),
}  # fmt: skip
