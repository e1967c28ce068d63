"""An error as each dialect writes it. Which dialect a request speaks is told by its path, as it may have no body."""

from collections.abc import Callable
from typing import Any, TypeAlias

import msgspec

from .errors import Header, Problem

Envelope: TypeAlias = Callable[[Problem, str], dict[str, Any]]
"""From a problem and the request's id to the body of the reply."""

_ANTHROPIC_TYPES = {
    401: "authentication_error",
    403: "permission_error",
    404: "not_found_error",
    413: "request_too_large",
    429: "rate_limit_error",
    500: "api_error",
    503: "overloaded_error",
    504: "timeout_error",
}


def openai(problem: Problem, request_id: str) -> dict[str, Any]:
    """``{"error": {"message", "type", "param", "code"}}``, which is also that of routes of no dialect."""
    return problem.error()


def anthropic(problem: Problem, request_id: str) -> dict[str, Any]:
    """``{"type": "error", "error": {"type", "message"}, "request_id"}``."""
    kind = _ANTHROPIC_TYPES.get(problem.status, "invalid_request_error")
    return {"type": "error", "error": {"type": kind, "message": problem.message}, "request_id": request_id}


def ollama(problem: Problem, request_id: str) -> dict[str, Any]:
    """``{"error": text}``."""
    return {"error": problem.message}


def of_path(path: str) -> Envelope:
    """The envelope of a route."""
    if path.startswith("/api/"):
        return ollama
    return anthropic if is_anthropic(path) else openai


def is_anthropic(path: str) -> bool:
    """Whether Anthropic's clients call this route."""
    return path == "/v1/messages" or path.startswith("/v1/messages/")


def id_headers(path: str, request_id: str) -> list[Header]:
    """The request's id under the name or names that clients of the route look for."""
    names = (b"x-request-id", b"request-id") if is_anthropic(path) else (b"x-request-id",)
    return [(name, request_id.encode()) for name in names]


def reply(problem: Problem, path: str, request_id: str) -> tuple[list[Header], bytes]:
    """Headers and body of an error reply."""
    body = msgspec.json.encode(of_path(path)(problem, request_id))
    return [*problem.all_headers(), (b"content-length", b"%d" % len(body))], body
