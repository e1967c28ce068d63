"""Bodies of Ollama's routes, and what its clients mean by leaving something out."""

from typing import Any

import msgspec


class Options(msgspec.Struct, frozen=True, kw_only=True):
    """Those of ``options`` that mean something here; others are named in a header."""

    num_predict: int | None = None
    """Below 1 = as many as the context holds."""
    temperature: float | None = None
    top_k: int | None = None
    top_p: float | None = None
    min_p: float | None = None
    repeat_penalty: float | None = None
    presence_penalty: float | None = None
    frequency_penalty: float | None = None
    seed: int | None = None
    stop: list[str] | str | None = None
    draft_num_predict: int | None = None


DEFAULTS: dict[str, Any] = {"temperature": 0.8, "top_k": 40, "top_p": 0.9}
"""Ollama's own, where neither the client nor the model says anything."""


class OllamaBody(msgspec.Struct, frozen=True, kw_only=True):
    """Fields of both generating routes."""

    model: str | None = None
    stream: bool | None = None
    """Absent = true."""
    options: dict[str, msgspec.Raw] | None = None
    format: str | dict[str, Any] | None = None
    keep_alive: str | float | None = None
    think: bool | str | None = None
    logprobs: bool | None = None
    top_logprobs: int | None = None


class GenerateBody(OllamaBody, frozen=True, kw_only=True):
    """POST /api/generate."""

    prompt: str | None = None
    system: str | None = None
    raw: bool | None = None
    suffix: str | None = None
    template: str | None = None
    images: list[Any] | None = None
    context: list[int] | None = None


class OllamaChatBody(OllamaBody, frozen=True, kw_only=True):
    """POST /api/chat."""

    messages: list[Any] | None = None
    tools: list[Any] | None = None


class EmbedBody(msgspec.Struct, frozen=True, kw_only=True):
    """POST /api/embed."""

    model: str | None = None
    input: Any = None
    truncate: bool | None = None
    """Absent = true."""
    dimensions: int | None = None
    keep_alive: str | float | None = None


class OldEmbedBody(msgspec.Struct, frozen=True, kw_only=True):
    """POST /api/embeddings."""

    model: str | None = None
    prompt: str | None = None
    keep_alive: str | float | None = None


class ModelBody(msgspec.Struct, frozen=True, kw_only=True):
    """A route about one model; older clients say ``name``."""

    model: str | None = None
    name: str | None = None
    stream: bool | None = None
    verbose: bool | None = None
    insecure: bool | None = None
