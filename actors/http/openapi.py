"""GET /openapi.json: this interface described in OpenAPI 3.1, from one table.

A test compares the table with ``build_app``. Bodies are described by the Structs that decode them, so that no field can
be forgotten; what a Struct leaves open, and the ranges, stand in ``FIELDS``. Answers are in ``openapi_answers.py``.
"""

import re
from typing import Any, NamedTuple

import msgspec
from starlette.requests import Request
from starlette.responses import Response

from ... import __version__
from .access import OPEN_PATHS
from .anthropic_calls import CountBody, MessagesBody
from .embeddings_calls import EmbeddingsBody
from .ollama_fields import (
    CopyBody,
    CreateBody,
    EmbedBody,
    GenerateBody,
    ModelBody,
    OldEmbedBody,
    OllamaChatBody,
    Options,
)
from .openai_fields import ChatBody, CompletionBody
from .openapi_answers import ANSWERS, Schema, list_of, ref
from .responses_calls import ResponsesBody
from .tokenization import DetokenizeBody, TokenizeBody

JSON, EVENTS, LINES, TEXT, HTML = (
    "application/json", "text/event-stream", "application/x-ndjson", "text/plain", "text/html",
)  # fmt: skip


class Operation(NamedTuple):
    """One method of one route."""

    path: str
    method: str
    summary: str
    answer: str = ""
    """Component of the JSON answer; empty = none."""
    body: str = ""
    """Component of the JSON body; several are separated by ``|``."""
    others: tuple[str, ...] = ()
    """Media types in which it may answer besides."""


OPERATIONS = (
    Operation("/v1/chat/completions", "post", "Continue a conversation", "ChatCompletion", "ChatBody", (EVENTS,)),
    Operation("/v1/completions", "post", "Continue texts", "Completion", "CompletionBody", (EVENTS,)),
    Operation("/v1/embeddings", "post", "Vectors of texts", "Embeddings", "EmbeddingsBody"),
    Operation("/v1/responses", "post", "Answer, and keep the answer", "Response", "ResponsesBody", (EVENTS,)),
    Operation("/v1/responses/{id}", "get", "A kept answer", "Response"),
    Operation("/v1/responses/{id}", "delete", "Forget a kept answer", "DeletedResponse"),
    Operation("/v1/responses/{id}/input_items", "get", "What went into a kept answer", "InputItems"),
    Operation("/v1/responses/{id}/cancel", "post", "Always refused: nothing runs in the background"),
    Operation("/v1/models", "get", "The served models", "Models"),
    Operation("/v1/models/{id}", "get", "One of them; its name may hold slashes", "Model"),
    Operation("/v1/messages", "post", "Continue a conversation, in Anthropic's dialect", "Message", "MessagesBody",
              (EVENTS,)),
    Operation("/v1/messages/count_tokens", "post", "How long a prompt is", "TokenCount", "CountBody"),
    Operation("/invocations", "post", "SageMaker's name for chat, completion or embeddings, by what the body holds",
              "ChatCompletion|Completion|Embeddings", "ChatBody|CompletionBody|EmbeddingsBody", (EVENTS,)),
    Operation("/tokenize", "post", "Ids of a text or a conversation", "Tokenized", "TokenizeBody"),
    Operation("/detokenize", "post", "The text of ids", "Detokenized", "DetokenizeBody"),
    Operation("/tokenizer_info", "get", "What the tokenizer is", "TokenizerInfo"),
    Operation("/api/generate", "post", "Continue a prompt, in Ollama's dialect; a stream unless told otherwise",
              "OllamaGenerated", "GenerateBody", (LINES,)),
    Operation("/api/chat", "post", "Continue a conversation, in Ollama's dialect; a stream unless told otherwise",
              "OllamaChatted", "OllamaChatBody", (LINES,)),
    Operation("/api/embed", "post", "Vectors of texts", "OllamaEmbedded", "EmbedBody"),
    Operation("/api/embeddings", "post", "The vector of a text", "OllamaEmbedding", "OldEmbedBody"),
    Operation("/api/tags", "get", "The models that are here", "OllamaTags"),
    Operation("/api/ps", "get", "The model that is loaded", "OllamaRunning"),
    Operation("/api/show", "post", "What is known of a model", "OllamaShown", "ModelBody"),
    Operation("/api/version", "get", "Our version", "Version"),
    Operation("/api/pull", "post", "Fetch a model; needs --enable-model-management", "OllamaPulling", "ModelBody",
              (LINES,)),
    Operation("/api/create", "post", "Make a model of another one; needs --enable-model-management", "OllamaPulling",
              "CreateBody", (LINES,)),
    Operation("/api/copy", "post", "Another name for a model; needs --enable-model-management", "", "CopyBody"),
    Operation("/api/delete", "delete", "Delete a model; needs --enable-model-management", "", "ModelBody"),
    Operation("/health", "get", "200 while every needed process makes progress"),
    Operation("/ping", "get", "The same"),
    Operation("/ping", "post", "The same"),
    Operation("/ready", "get", "200 while new work is taken", "Ready"),
    Operation("/live", "get", "200 while the gateway answers"),
    Operation("/version", "get", "Our version", "Version"),
    Operation("/load", "get", "Requests in the engine", "Load"),
    Operation("/metrics", "get", "Prometheus text under vLLM's names", "", "", (TEXT,)),
    Operation("/openapi.json", "get", "This description", "Description"),
    Operation("/", "get", "The chat page for a browser, a line of text for others", "", "", (TEXT, HTML)),
    Operation("/reset_prefix_cache", "post", "Have later calls compute their prompts anew; needs --enable-admin",
              "PrefixCacheReset"),
    Operation("/v1/load_lora_adapter", "post", "Refused: adapters are not supported in this version"),
    Operation("/v1/unload_lora_adapter", "post", "Refused: adapters are not supported in this version"),
    Operation("/sleep", "post", "Refused: the engine cannot sleep in this version"),
    Operation("/wake_up", "post", "Refused: the engine cannot sleep in this version"),
)  # fmt: skip

BODIES: tuple[type[msgspec.Struct], ...] = (
    ChatBody, CompletionBody, EmbeddingsBody, ResponsesBody, MessagesBody, CountBody, TokenizeBody, DetokenizeBody,
    GenerateBody, OllamaChatBody, EmbedBody, OldEmbedBody, ModelBody, CreateBody, CopyBody, Options,
)  # fmt: skip

_IDS = list_of({"type": "integer", "minimum": 0})
_TEXTS = {"anyOf": [{"type": "string"}, list_of({"type": "string"}), _IDS, list_of(_IDS)]}
_MESSAGES = list_of({"type": "object"}) | {"minItems": 1}
FIELDS: dict[str, Schema] = {
    "temperature": {"minimum": 0, "maximum": 2},
    "top_p": {"exclusiveMinimum": 0, "maximum": 1},
    "top_k": {"minimum": -1},
    "min_p": {"minimum": 0, "maximum": 1},
    "n": {"minimum": 1, "maximum": 128},
    "presence_penalty": {"minimum": -2, "maximum": 2},
    "frequency_penalty": {"minimum": -2, "maximum": 2},
    "repetition_penalty": {"exclusiveMinimum": 0},
    "min_tokens": {"minimum": 0},
    "dimensions": {"minimum": 1},
    "truncate_prompt_tokens": {"minimum": -1},
    "truncation_side": {"enum": ["left", "right", None]},
    "encoding_format": {"enum": ["float", "base64", None]},
    "cache_salt": {"maxLength": 128},
    "CompletionBody.prompt": {**_TEXTS, "description": "Text, token ids, or up to 1024 of either."},
    "EmbeddingsBody.input": {**_TEXTS, "description": "Text, token ids, or up to 2048 of either."},
    "EmbedBody.input": {"anyOf": [{"type": "string"}, list_of({"type": "string"})]},
    "ChatBody.messages": _MESSAGES,
    "MessagesBody.messages": _MESSAGES,
    "CountBody.messages": _MESSAGES,
    "GenerateBody.options": ref("Options"),
    "OllamaChatBody.options": ref("Options"),
}
"""What the Structs leave open, by field, or by Struct and field; added to, or in place of, what they say."""
_REQUIRED = {
    "ChatBody": ["messages"], "CompletionBody": ["prompt"], "EmbeddingsBody": ["input"], "ResponsesBody": ["input"],
    "MessagesBody": ["messages", "max_tokens"], "CountBody": ["messages"], "DetokenizeBody": ["tokens"],
}  # fmt: skip
_ERRORS = {
    "Error": "The request is wrong, refused, or cannot be served now.",
    "AnthropicError": "The same in Anthropic's shape.",
    "OllamaError": "The same in Ollama's shape.",
}


class OpenApi:
    """The route. What it says never changes while the server runs."""

    def __init__(self) -> None:
        self._body = msgspec.json.encode(description())

    async def describe(self, request: Request) -> Response:
        """The description."""
        return Response(self._body, headers={"content-type": JSON})


def description() -> dict[str, Any]:
    """The whole document."""
    paths: dict[str, dict[str, Any]] = {}
    for operation in OPERATIONS:
        paths.setdefault(operation.path, {})[operation.method] = _operation(operation)
    schemas = _bodies() | ANSWERS | {"Description": {"type": "object", "description": "OpenAPI 3.1."}}
    return {
        "openapi": "3.1.1",
        "info": {
            "title": "paceline",
            "version": __version__,
            "description": "OpenAI's, Anthropic's and Ollama's interfaces to one model. For every optional field null "
            "means absent; unknown fields are ignored and named in the header x-paceline-ignored.",
            "license": {"name": "Apache-2.0", "identifier": "Apache-2.0"},
        },
        "servers": [{"url": "/"}],
        "security": [{}, {"bearer": []}, {"header": []}],
        "paths": paths,
        "components": {
            "schemas": schemas,
            "responses": {
                name: {"description": text, "content": {JSON: {"schema": ref(name)}}} for name, text in _ERRORS.items()
            },
            "securitySchemes": {
                "bearer": {"type": "http", "scheme": "bearer", "description": "Where the server has keys."},
                "header": {"type": "apiKey", "in": "header", "name": "x-api-key"},
            },
        },
    }


def _operation(operation: Operation) -> dict[str, Any]:
    content: dict[str, Any] = {JSON: {"schema": _any_of(operation.answer)}} if operation.answer else {}
    content |= {media: {"schema": {"type": "string"}} for media in operation.others}
    answer: dict[str, Any] = {"description": operation.summary}
    told: dict[str, Any] = {
        "operationId": re.sub(r"\W+", "_", f"{operation.method}{operation.path}").strip("_"),
        "summary": operation.summary,
        "responses": {
            "200": answer | ({"content": content} if content else {}),
            "default": {"$ref": f"#/components/responses/{_error_of(operation.path)}"},
        },
    }
    if operation.body:
        told["requestBody"] = {"required": True, "content": {JSON: {"schema": _any_of(operation.body)}}}
    if names := re.findall(r"\{(\w+)\}", operation.path):
        told["parameters"] = [
            {"name": name, "in": "path", "required": True, "schema": {"type": "string"}} for name in names
        ]
    if operation.path in OPEN_PATHS and operation.method == "get":
        told["security"] = [{}]
    return told


def _any_of(names: str) -> Schema:
    found = [ref(name) for name in names.split("|")]
    return found[0] if len(found) == 1 else {"anyOf": found}


def _error_of(path: str) -> str:
    if path.startswith("/api/"):
        return "OllamaError"
    return "AnthropicError" if path.startswith("/v1/messages") else "Error"


def _bodies() -> dict[str, Schema]:
    """The Structs that decode bodies, with what they leave open."""
    _, found = msgspec.json.schema_components(BODIES, ref_template="#/components/schemas/{name}")
    for name, schema in found.items():
        for field, told in schema.get("properties", {}).items():
            told.pop("default", None)  # always null, which means absent
            if (own := FIELDS.get(f"{name}.{field}")) is not None:
                schema["properties"][field] = {"anyOf": [own, {"type": "null"}]}
            else:
                told |= FIELDS.get(field, {})
        schema["required"] = _REQUIRED.get(name, [])
    return found
