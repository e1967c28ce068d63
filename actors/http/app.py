"""The ASGI application: routes, and the one layer around them that checks, counts, logs and turns errors into answers.

What listens is never discovered: every route stands in ``build_app``. Nothing passes the layer without its checks.
"""

import difflib
import logging
from contextlib import nullcontext

import anyio
from starlette.exceptions import HTTPException
from starlette.routing import Route, Router
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from ...engine.errors import PacelineError, UnavailableError
from ..logs import fields
from .access import OPEN_PATHS, Access
from .admin import AdminRoutes
from .anthropic import CountTokens, MessagesDialect
from .embeddings import EmbeddingsDialect, OllamaEmbedDialect, OllamaEmbeddingsDialect
from .envelopes import id_headers, reply
from .errors import ClientGone, HttpError, describe, problem_of
from .facts import CallFacts
from .generation import Generation
from .invocations import Invocations
from .limits import BodyGuard, check_headers
from .ollama import GenerateDialect, OllamaChatDialect
from .ollama_manage import OllamaManage
from .ollama_models import OllamaModels
from .ollama_pull import Pull
from .openai import ChatDialect, CompletionsDialect
from .openapi import OpenApi
from .plain import PlainRoutes
from .responses import ResponsesDialect, StoredResponses
from .responses_store import ResponseStore
from .service import Service
from .tokenization import TokenRoutes

log = logging.getLogger(__name__)

_METHODS = frozenset(["GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS"])
_MAX_LOGGED_BYTES = 2000
_CLIENT_GONE = 499
"""Status in metrics and log of a request whose client left; nginx's number."""


def build_app(service: Service) -> ASGIApp:
    """All that the port answers."""
    access = Access(service.config.server)
    plain, tokens, ollama = PlainRoutes(service, access), TokenRoutes(service), OllamaModels(service)
    manage, responses, admin = OllamaManage(service), ResponseStore(), AdminRoutes(service)
    stored = StoredResponses(responses)
    completion, chat = Generation(service, CompletionsDialect(service)), Generation(service, ChatDialect(service))
    embeddings = Generation(service, EmbeddingsDialect(service))
    routes = [
        Route("/v1/completions", completion, methods=["POST"]),
        Route("/v1/chat/completions", chat, methods=["POST"]),
        Route("/v1/embeddings", embeddings, methods=["POST"]),
        Route(
            "/invocations", Invocations(chat=chat, completion=completion, embeddings=embeddings), methods=["POST"]
        ),
        Route("/v1/models", plain.models, methods=["GET"]),
        Route("/v1/models/{id:path}", plain.model, methods=["GET"]),
        Route("/api/generate", Generation(service, GenerateDialect(service)), methods=["POST"]),
        Route("/api/chat", Generation(service, OllamaChatDialect(service)), methods=["POST"]),
        Route("/api/tags", ollama.tags, methods=["GET"]),
        Route("/api/ps", ollama.ps, methods=["GET"]),
        Route("/api/version", ollama.version, methods=["GET"]),
        Route("/api/show", ollama.show, methods=["POST"]),
        Route("/api/pull", Pull(service), methods=["POST"]),
        Route("/api/create", manage.create, methods=["POST"]),
        Route("/api/copy", manage.copy, methods=["POST"]),
        Route("/api/delete", manage.delete, methods=["DELETE"]),
        Route("/api/embed", Generation(service, OllamaEmbedDialect(service)), methods=["POST"]),
        Route("/api/embeddings", Generation(service, OllamaEmbeddingsDialect(service)), methods=["POST"]),
        Route("/v1/messages", Generation(service, MessagesDialect(service)), methods=["POST"]),
        Route("/v1/messages/count_tokens", CountTokens(service).count, methods=["POST"]),
        Route("/v1/responses", Generation(service, ResponsesDialect(service, responses)), methods=["POST"]),
        Route("/v1/responses/{id}", stored.one, methods=["GET", "DELETE"]),
        Route("/v1/responses/{id}/input_items", stored.input_items, methods=["GET"]),
        Route("/v1/responses/{id}/cancel", stored.cancel, methods=["POST"]),
        Route("/tokenize", tokens.tokenize, methods=["POST"]),
        Route("/detokenize", tokens.detokenize, methods=["POST"]),
        Route("/tokenizer_info", tokens.info, methods=["GET"]),
        Route("/reset_prefix_cache", admin.reset_prefix_cache, methods=["POST"]),
        Route("/v1/load_lora_adapter", admin.unsupported, methods=["POST"]),
        Route("/v1/unload_lora_adapter", admin.unsupported, methods=["POST"]),
        Route("/sleep", admin.unsupported, methods=["POST"]),
        Route("/wake_up", admin.unsupported, methods=["POST"]),
        Route("/health", plain.health, methods=["GET"]),
        Route("/ping", plain.health, methods=["GET", "POST"]),
        Route("/ready", plain.ready, methods=["GET"]),
        Route("/live", plain.live, methods=["GET"]),
        Route("/version", plain.version, methods=["GET"]),
        Route("/load", plain.load, methods=["GET"]),
        Route("/metrics", plain.metrics, methods=["GET"]),
        Route("/openapi.json", OpenApi().describe, methods=["GET"]),
        Route("/", plain.root, methods=["GET"]),
    ]
    return Front(service, access, routes)


class Front:
    """The layer around all routes."""

    def __init__(self, service: Service, access: Access, routes: list[Route]) -> None:
        self._service = service
        self._access = access
        self._paths = [route.path for route in routes if "{" not in route.path]
        self._patterns = [(route.path_regex, route.path_format) for route in routes if "{" in route.path]
        self._router = Router(routes, redirect_slashes=False, default=self._no_route)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Serve one request."""
        if scope["type"] != "http":
            return
        facts = CallFacts(scope)
        facts.handler = self._handler(scope["path"])
        cors = self._access.cors(scope)

        async def send_counted(message: Message) -> None:
            if message["type"] == "http.response.start":
                facts.status = message["status"]
                extra = [*id_headers(scope["path"], facts.request_id), *cors]
                if self._service.closes_connections:
                    extra.append((b"connection", b"close"))
                message["headers"] = [*message.get("headers", []), *extra]
            await send(message)

        try:
            await self._serve(
                scope, BodyGuard(receive, scope, self._service.config.server.max_body_bytes), send_counted
            )
        except ClientGone:
            facts.status = _CLIENT_GONE
        except HTTPException as e:
            await self._answer_error(scope, facts, send_counted, self._method_error(scope, e))
        except Exception as e:
            await self._answer_error(scope, facts, send_counted, e)
        except anyio.get_cancelled_exc_class():
            if not self._service.calls.is_stopping:
                raise
            if not facts.status:  # the server ends, and with it the tasks that still read a body
                stopping = UnavailableError("the server is shutting down; try again soon", code="draining")
                await self._answer_error(scope, facts, send_counted, stopping)
        finally:
            self._count(scope, facts)

    async def _serve(self, scope: Scope, receive: Receive, send: Send) -> None:
        check_headers(scope)
        if (allowed := self._access.preflight(scope)) is not None:
            await send({"type": "http.response.start", "status": 204, "headers": allowed})
            await send({"type": "http.response.body", "body": b"", "more_body": False})
            return
        quota = self._access.check(scope)
        scope["app"] = self  # has Starlette raise, rather than answer in its own words, when the method is wrong
        if quota is None:
            await self._router(scope, receive, send)
            return
        CallFacts.of(scope).key_name = quota.name
        # What reads is cheap, and a client that waits for its turn must be able to ask how things stand.
        with quota.used(anyio.current_time()) if scope["method"] == "POST" else nullcontext():
            await self._router(scope, receive, send)

    async def _no_route(self, scope: Scope, receive: Receive, send: Send) -> None:
        near = difflib.get_close_matches(scope["path"][:100], self._paths, n=1, cutoff=0.6)
        hint = f"did you mean {near[0]}?" if near else "docs/api.md lists the routes"
        what = f"there is no route {describe(scope['path'])}"
        raise HttpError(404, f"{what}; {hint}", code="route_not_found", type="not_found_error")

    def _method_error(self, scope: Scope, error: HTTPException) -> HttpError:
        allow = ", ".join(sorted((error.headers or {}).get("Allow", "").split(", ")))
        what = f"{describe(scope['path'])} does not take {scope['method'][:20]}"
        return HttpError(
            error.status_code, f"{what}; use {allow}", code="method_not_allowed", headers=((b"allow", allow.encode()),)
        )

    async def _answer_error(self, scope: Scope, facts: CallFacts, send: Send, error: Exception) -> None:
        if facts.status:  # too late for a status: the server logs it and cuts the connection
            raise error
        if not isinstance(error, PacelineError):
            log.error("%s %s failed", scope["method"], facts.handler, exc_info=error)
        problem = problem_of(error)
        headers, body = reply(problem, scope["path"], facts.request_id)
        await send({"type": "http.response.start", "status": problem.status, "headers": headers})
        await send({"type": "http.response.body", "body": body, "more_body": False})

    def _handler(self, path: str) -> str:
        if path in self._paths:
            return path
        return next((shown for pattern, shown in self._patterns if pattern.match(path)), "none")

    def _count(self, scope: Scope, facts: CallFacts) -> None:
        elapsed_s, handler = anyio.current_time() - facts.began_s, facts.handler
        method = scope["method"] if scope["method"] in _METHODS else "other"
        status = facts.status or _CLIENT_GONE
        self._service.registry.inc("http_requests", 1, handler, method, f"{status // 100}xx")
        self._service.registry.observe("http_request_duration", elapsed_s, handler)
        level = logging.DEBUG if handler in OPEN_PATHS else logging.INFO  # probes come every few seconds
        if not log.isEnabledFor(level):
            return
        body = None if facts.body is None else facts.body[:_MAX_LOGGED_BYTES].decode(errors="replace")
        told = facts.meter.told() if facts.meter is not None else {}
        log.log(level, "%s %s %d %.1f ms", method, handler, status, elapsed_s * 1000,
                extra=fields(request_id=facts.request_id, key=facts.key_name, **told, body=body))  # fmt: skip
