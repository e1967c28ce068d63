"""Ollama's POST /api/pull: fetch a model and tell how far it is, line by line."""

import math
from typing import Any

import anyio
import anyio.to_thread
import msgspec
from starlette.types import Receive, Scope, Send

from ...engine.store.progress import Progress
from .envelopes import ollama
from .errors import ClientGone
from .generation import send_json
from .ollama import json_line
from .ollama_models import check_may_manage, model_name, read_model_body
from .service import Service
from .stream import LINES_TYPE, EventStream

_EVERY_S = 0.1
"""Time between two lines at least."""


class Pull:
    """POST /api/pull, as an ASGI application. Ends with its client; what was fetched is kept and resumed."""

    def __init__(self, service: Service) -> None:
        self._service = service

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Serve one pull."""
        body = await read_model_body(scope, receive)
        check_may_manage(self._service)
        name = model_name(body)
        stream = EventStream(scope, send, [(b"content-type", LINES_TYPE)]) if body.stream is not False else None

        async def work() -> None:
            if stream is None:
                await self._fetch(name, None)
                return
            await stream.open(lambda problem: json_line(ollama(problem, "")))
            await stream.send(json_line({"status": "pulling manifest"}))
            await self._fetch(name, stream)
            for status in ("writing manifest", "success"):
                await stream.send(json_line({"status": status}))
            await stream.end(b"")

        try:
            await self._service.calls.attend(receive, math.inf, 0, work)
        except ClientGone:
            raise
        except Exception as e:
            if stream is None or not stream.is_open:
                raise
            await stream.fail(e)
        if stream is None:
            await send_json(send, 200, msgspec.json.encode({"status": "success"}), [])

    async def _fetch(self, name: str, stream: EventStream | None) -> None:
        watched = _Watched()
        failure: Exception | None = None
        try:
            async with anyio.create_task_group() as tasks:
                if stream is not None:
                    tasks.start_soon(watched.tell, stream)
                try:
                    pull = self._service.store.pull
                    await anyio.to_thread.run_sync(pull, name, watched.report, abandon_on_cancel=True)
                except Exception as e:  # raised again below: the group would wrap it
                    failure = e
                tasks.cancel_scope.cancel()
        finally:
            watched.is_over = True
        if failure is not None:
            raise failure
        if stream is not None:
            await watched.tell_latest(stream)


class _Watched:
    """The latest step of a fetch: written in its thread, told from the event loop. A slow reader misses steps."""

    def __init__(self) -> None:
        self.is_over = False
        """Nobody waits for the fetch any more."""
        self._latest: Progress | None = None
        self._told: Progress | None = None

    def report(self, step: Progress) -> None:
        """Note a step; an exception here is the way to end the fetch."""
        if self.is_over:
            raise ClientGone
        self._latest = step

    async def tell(self, stream: EventStream) -> None:
        """Send steps until cancelled."""
        while True:
            await self.tell_latest(stream)
            await anyio.sleep(_EVERY_S)

    async def tell_latest(self, stream: EventStream) -> None:
        """Send the latest step, if it is new."""
        latest = self._latest
        if latest is not None and latest is not self._told:
            self._told = latest
            await stream.send(json_line(_line(latest)))


def _line(step: Progress) -> dict[str, Any]:
    match step.phase:
        case "wait":
            return {"status": f"waiting for another pull of {step.what}"}
        case "verify":
            return {"status": "verifying sha256 digest"}
        case _:
            # Clients draw one bar for each value of ``digest``; it is known only once the file is here.
            return {"status": f"pulling {step.what}", "digest": step.what, "total": step.total, "completed": step.done}
