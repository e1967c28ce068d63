"""How a call is attended while the engine works on it: client gone, deadline, shutdown; and the event stream itself.

A stream's head is sent only after admission, so that every refusal is a real status. A failure after it is the last
event, and no ``[DONE]`` follows: a plain end would look like success.
"""

import logging
from collections.abc import Awaitable, Callable
from typing import Any

import anyio
import msgspec
from starlette.types import Receive, Scope, Send

from ...engine.errors import DeadlineError, PacelineError, UnavailableError
from .errors import ClientGone, Header, Problem, problem_of

log = logging.getLogger(__name__)

EVENTS_TYPE = b"text/event-stream; charset=utf-8"
LINES_TYPE = b"application/x-ndjson"
_STREAM_HEADERS: list[Header] = [
    (b"cache-control", b"no-cache"),
    (b"x-accel-buffering", b"no"),
]


class OpenCalls:
    """The calls that the gateway attends now."""

    def __init__(self) -> None:
        self.num_requests = 0
        """Choices of all open calls."""
        self.is_stopping = False
        self._scopes: set[anyio.CancelScope] = set()
        self._empty = anyio.Event()

    async def drained(self) -> None:
        """Return once none is open."""
        while self._scopes:
            self._empty = anyio.Event()
            await self._empty.wait()

    def stop(self) -> None:
        """End all with an error that asks to try again."""
        self.is_stopping = True
        for scope in self._scopes:
            scope.cancel()

    async def attend(
        self, receive: Receive, timeout_s: float, num_requests: int, work: Callable[[], Awaitable[None]]
    ) -> None:
        """Run ``work`` until it ends, its client leaves, its time is over or the server stops.

        Raises:
            ClientGone: nobody waits for the answer any more.
            DeadlineError: ``timeout_s`` have passed.
            UnavailableError: the server stops.
        """
        failure: Exception | None = None
        is_gone = is_done = False
        async with anyio.create_task_group() as tasks:
            scope = tasks.cancel_scope
            scope.deadline = anyio.current_time() + timeout_s

            async def watch() -> None:
                nonlocal is_gone
                while (await receive())["type"] != "http.disconnect":
                    pass
                is_gone = True
                scope.cancel()

            self._scopes.add(scope)
            self.num_requests += num_requests
            try:
                tasks.start_soon(watch)
                await work()
                is_done = True
            except Exception as e:  # raised again below: the group would wrap it
                failure = e
            finally:
                self._scopes.discard(scope)
                self.num_requests -= num_requests
                if not self._scopes:
                    self._empty.set()
                scope.cancel()
        if failure is not None:
            raise failure
        if is_done:
            return
        if is_gone:
            raise ClientGone
        if self.is_stopping:
            raise UnavailableError("the server is shutting down; try again soon", code="draining")
        raise DeadlineError(f"the call is not complete after {timeout_s:g} s, the server's limit; ask for less")


class EventStream:
    """One answer in parts, of whatever type its headers say."""

    def __init__(self, scope: Scope, send: Send, headers: list[Header]) -> None:
        self._scope = scope
        self._send = send
        self._headers = headers
        self.is_open = False
        """Whether the head is out."""
        self._is_ended = False
        self._failed: Callable[[Problem], bytes] | None = None

    async def open(self, failed: Callable[[Problem], bytes]) -> None:
        """Send the head; ``failed`` writes the last event if it comes to that."""
        self.is_open = True
        self._failed = failed
        headers = [*_STREAM_HEADERS, *self._headers]
        await self._send({"type": "http.response.start", "status": 200, "headers": headers})

    async def send(self, events: bytes) -> None:
        """Send events; waits while the client reads too slowly."""
        await self._send({"type": "http.response.body", "body": events, "more_body": True})

    async def end(self, events: bytes) -> None:
        """Send the last events."""
        self._is_ended = True
        await self._send({"type": "http.response.body", "body": events, "more_body": False})

    async def fail(self, error: Exception) -> None:
        """Tell ``error`` in the last event and close the connection."""
        if self._is_ended or self._failed is None:
            return
        if not isinstance(error, PacelineError):
            log.error("a stream failed", exc_info=error)
        close_connection(self._scope)
        await self.end(self._failed(problem_of(error)))


def event(name: str, data: object) -> bytes:
    """One named server-sent event."""
    return b"event: %s\ndata: %s\n\n" % (name.encode(), msgspec.json.encode(data))


def close_connection(scope: Scope) -> None:
    """Have the server close the connection once the answer is out."""
    connection: Any = scope.get("state", {}).get("connection")
    if connection is not None:
        connection.close_after_answer()
