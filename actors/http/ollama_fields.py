"""Bodies of Ollama's routes, and what its clients mean by leaving something out."""

import re
from typing import Any

import msgspec

from ...engine.errors import InvalidRequestError
from .errors import describe

_UNITS = {"ns": 1e-9, "us": 1e-6, "µs": 1e-6, "ms": 1e-3, "s": 1.0, "m": 60.0, "h": 3600.0, "": 1.0}
_TERM = r"(\d+\.?\d*)(ns|us|µs|ms|s|m|h)"
_DURATION = re.compile(rf"([-+]?)((?:{_TERM})+|\d+\.?\d*)")


def duration_s(value: str | float, param: str) -> float:
    """Seconds of a number of them, or of a text such as ``1h30m``; negative = for ever.

    Raises:
        InvalidRequestError: it is neither.
    """
    if not isinstance(value, str):
        return value
    m = _DURATION.fullmatch(value.strip()) if len(value) <= 40 else None
    if m is None:
        raise InvalidRequestError(f"{param} is {describe(value)}: must be seconds, or a text such as 5m", param=param)
    terms = re.findall(_TERM, m[2]) or [(m[2], "")]
    total_s = sum(float(number) * _UNITS[unit] for number, unit in terms)
    return -total_s if m[1] == "-" else total_s


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
    truncate: bool | None = None
    """False is how it is here: what is too long is refused."""
    shift: bool | None = None
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


class CopyBody(msgspec.Struct, frozen=True, kw_only=True):
    """POST /api/copy."""

    source: str | None = None
    destination: str | None = None


class CreateBody(ModelBody, frozen=True, kw_only=True):
    """POST /api/create."""

    source: str | None = msgspec.field(name="from", default=None)
    system: str | None = None
    template: str | None = None
    parameters: dict[str, Any] | None = None
    messages: list[dict[str, Any]] | None = None
    license: str | list[str] | None = None
    draft: str | None = None
    renderer: str | None = None
    parser: str | None = None
    requires: str | None = None
    files: dict[str, Any] | None = None
    adapters: dict[str, Any] | None = None
    quantize: str | None = None
    modelfile: str | None = None
    """Of clients before Ollama 0.5."""
