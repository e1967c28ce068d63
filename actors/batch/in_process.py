"""Requests of a batch to an engine of our own: through the application that a server has, without its port.

So that a line is checked, run and answered exactly as over HTTP.
"""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import anyio
import msgspec
from starlette.types import ASGIApp, Message

from ...engine.config import Config
from ...engine.store.located import Located, ModelCard
from ..client import EngineClient
from ..http.app import build_app
from ..http.service import Service
from ..stats import MetricsRegistry
from .driver import Reply

_POLL_S = 0.02


class InProcess:
    """A ``Way`` to an engine."""

    def __init__(self, app: ASGIApp, limit: int) -> None:
        self.limit = limit
        self._app = app

    async def post(self, url: str, body: bytes) -> Reply:
        """See ``Way``; there is always an answer."""
        status, request_id, retry_after_s, content = 500, "", None, list[bytes]()
        is_read, gone = False, anyio.Event()

        async def receive() -> Message:
            nonlocal is_read
            if is_read:
                await gone.wait()  # never: our client stays until it is cancelled
            is_read = True
            return {"type": "http.request", "body": body, "more_body": False}

        async def send(message: Message) -> None:
            nonlocal status, request_id, retry_after_s
            if message["type"] == "http.response.start":
                headers = {k.lower(): v.decode("latin-1") for k, v in message["headers"]}
                status, request_id = message["status"], headers.get(b"x-request-id", "")
                retry_after_s = float(headers[b"retry-after"]) if b"retry-after" in headers else None
            else:
                content.append(message.get("body", b""))

        await self._app(_scope(url), receive, send)
        return Reply(status, request_id, b"".join(content), retry_after_s)


@asynccontextmanager
async def started(config: Config, located: Located, card: ModelCard, name: str) -> AsyncIterator[InProcess]:
    """An engine below this process that serves ``name``, until the block ends.

    Raises:
        PacelineError: it could not start; the message is the root cause.
    """
    server = msgspec.structs.replace(config.server, served_model_name=name, api_keys=[], keys={})
    config = msgspec.structs.replace(config, server=server)
    async with EngineClient.launch(config, located, card) as client:
        service = Service(config, card, client, MetricsRegistry(name), located)
        while service.health.why_no_calls() is not None and service.health.state != "failed":
            await anyio.sleep(_POLL_S)  # the supervisor's word is on its way
        try:
            yield InProcess(build_app(service), most_at_once(config))
        finally:
            await service.grammars.close()


def most_at_once(config: Config) -> int:
    """All seats and as many behind them, so that a seat that comes free is taken at once."""
    seats = config.scheduler.max_num_seqs
    return seats + min(seats, config.scheduler.max_queued_requests)


def _scope(path: str) -> dict[str, Any]:
    return {
        "type": "http",
        "asgi": {"version": "3.0"},
        "http_version": "1.1",
        "method": "POST",
        "scheme": "http",
        "path": path,
        "raw_path": path.encode(),
        "root_path": "",
        "query_string": b"",
        "headers": [(b"content-type", b"application/json")],
        "client": None,
        "server": None,
        "state": {},
    }
