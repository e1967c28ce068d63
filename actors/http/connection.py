"""uvicorn's protocol classes with the timers and bounds they lack, and with our error object for their plain text.

uvicorn 0.54 limits neither the size of a header block nor the time it takes, nor how long a client may not read. What
is complete is checked in ``limits.py``; here is only what an application never gets to see.
"""

import asyncio
import logging
import resource
from typing import TYPE_CHECKING, Any

import h11
from uvicorn.protocols.http import h11_impl

from .errors import HttpError, Problem
from .limits import MAX_HEADER_BYTES

if TYPE_CHECKING:
    from uvicorn.protocols.http.h11_impl import H11Protocol as _Base
else:
    _Base = object

try:
    from uvicorn.protocols.http import httptools_impl
except ImportError:  # the optional extra "fast" is not installed
    httptools_impl = None

log = logging.getLogger(__name__)

HEADER_S = 10.0
STALL_S = 60.0
"""A client that reads too little for this long to let the write buffer drain is cut."""
LINGER_S = 2.0
"""How long what a client still sends is thrown away after an early answer, which a reset would lose otherwise."""
_MAX_CONNECTIONS = 4096
_SPARE_FDS = 64

_REASONS = {400: b"Bad Request", 408: b"Request Timeout", 431: b"Request Header Fields Too Large",
            503: b"Service Unavailable"}  # fmt: skip


def max_connections() -> int:
    """As many as we want and the descriptor limit allows."""
    soft, _ = resource.getrlimit(resource.RLIMIT_NOFILE)
    return _MAX_CONNECTIONS if soft == resource.RLIM_INFINITY else max(1, min(_MAX_CONNECTIONS, soft - _SPARE_FDS))


class GuardedConnection(_Base):
    """Mixed in before a protocol class of uvicorn. The application finds it as ``scope["state"]["connection"]``."""

    max_open = max_connections()
    header_s = HEADER_S
    stall_s = STALL_S

    def __init__(self, config: Any, server_state: Any, app_state: dict[str, Any], _loop: Any = None) -> None:
        super().__init__(config, server_state, app_state | {"connection": self}, _loop)
        self._num_head_bytes = 0
        self._is_refused = False
        self._head_timer: asyncio.TimerHandle | None = None
        self._stall_timer: asyncio.TimerHandle | None = None
        self._linger_timer: asyncio.TimerHandle | None = None

    def close_after_answer(self) -> None:
        """Close once the current answer is sent."""
        if self.cycle is not None:
            self.cycle.keep_alive = False

    # --- what uvicorn and asyncio call --------------------------------------------------------------------------------

    def connection_made(self, transport: asyncio.Transport) -> None:  # pyright: ignore[reportIncompatibleMethodOverride]
        """A client is there."""
        super().connection_made(transport)
        if len(self.connections) > self.max_open:
            what = f"{self.max_open} connections are open, the server's limit"
            self._refuse(HttpError(503, f"{what}; try again", code="queue_full", type="unavailable_error"))
            return
        self._head_timer = self.loop.call_later(self.header_s, self._head_is_late)

    def data_received(self, data: bytes) -> None:
        """Bytes of a head or a body."""
        if self._is_refused or self.transport.is_closing():
            return
        if self._awaits_head():
            self._num_head_bytes += len(data)
        super().data_received(data)
        if self._is_refused or self.transport.is_closing():
            return
        if not self._awaits_head() or self._is_answering():
            self._disarm_head()
        elif self._head_timer is None:
            self._head_timer = self.loop.call_later(self.header_s, self._head_is_late)
        if not self._awaits_head():
            self._num_head_bytes = 0
        elif self._num_head_bytes > MAX_HEADER_BYTES:
            self.send_400_response("")

    def connection_lost(self, exc: Exception | None) -> None:
        """The client is gone."""
        self._disarm_head()
        for timer in (self._stall_timer, self._linger_timer):
            if timer is not None:
                timer.cancel()
        super().connection_lost(exc)

    def pause_writing(self) -> None:
        """More than the write buffer's mark waits to be read."""
        super().pause_writing()
        if self._stall_timer is None:
            self._stall_timer = self.loop.call_later(self.stall_s, self._cut)

    def resume_writing(self) -> None:
        """The client has read on."""
        super().resume_writing()
        if self._stall_timer is not None:
            self._stall_timer.cancel()
            self._stall_timer = None

    def on_response_complete(self) -> None:
        """The answer is written, though perhaps neither sent nor the request's body read."""
        is_body_open = self.cycle is not None and self.cycle.response_complete and self.cycle.more_body
        super().on_response_complete()
        if self._stall_timer is None and self.transport.is_closing() and self.transport.get_write_buffer_size():
            self._stall_timer = self.loop.call_later(self.stall_s, self._cut)
        if is_body_open and self._linger_timer is None:
            self._linger_timer = self.loop.call_later(LINGER_S, self._end_linger)

    def send_400_response(self, msg: str) -> None:
        """What could not be parsed, or is too long to be."""
        if self._num_head_bytes > MAX_HEADER_BYTES:
            what = f"the header block has more than {MAX_HEADER_BYTES} bytes"
            self._refuse(HttpError(431, f"{what}; send fewer or shorter headers", code="headers_too_large"))
        else:
            self._refuse(HttpError(400, "this is not HTTP/1.1; send a valid request", code="invalid_http"))

    def shutdown(self) -> None:
        """The server ends."""
        if self._is_refused:
            self.transport.abort()
        else:
            super().shutdown()

    def _unsupported_upgrade_warning(self) -> None:
        """Nothing to say: an upgrade that is not taken is ignored, as HTTP has it."""

    # --- ours ---------------------------------------------------------------------------------------------------------

    def _awaits_head(self) -> bool:
        """Whether the next byte belongs to a header block."""
        raise NotImplementedError

    def _is_answering(self) -> bool:
        return self.cycle is not None and not self.cycle.response_complete

    def _disarm_head(self) -> None:
        if self._head_timer is not None:
            self._head_timer.cancel()
            self._head_timer = None

    def _head_is_late(self) -> None:
        self._head_timer = None
        if not self.transport.is_closing() and not self._is_answering():
            what = f"no complete header block within {self.header_s:g} s"
            self._refuse(HttpError(408, f"{what}; send it faster", code="request_timeout"))

    def _end_linger(self) -> None:
        if self._is_answering():
            self.close_after_answer()
        else:
            self.transport.close()

    def _cut(self) -> None:
        log.info("a client read nothing for %g s and was cut", self.stall_s)
        self.transport.abort()

    def _refuse(self, error: HttpError) -> None:
        """Answer without the application and close. In the middle of an answer there is only the closing."""
        self._disarm_head()
        self._is_refused = True
        if self._is_answering():
            if self.cycle.response_started:
                self.transport.close()
                return
            self.cycle.disconnected = True  # the application, still reading the body, has nobody to answer
            self.cycle.message_event.set()
        self.transport.write(_raw_answer(error.problem))
        self.transport.write_eof()
        self._linger_timer = self.loop.call_later(LINGER_S, self.transport.abort)


class H11Connection(GuardedConnection, h11_impl.H11Protocol):
    """The pure Python parser."""

    def _awaits_head(self) -> bool:
        return self.conn.their_state is h11.IDLE


def protocol_class() -> type[GuardedConnection]:
    """The faster parser that is installed."""
    return H11Connection if HttpToolsConnection is None else HttpToolsConnection


def _raw_answer(problem: Problem) -> bytes:
    body = problem.body()
    headers = [*problem.all_headers(), (b"content-length", b"%d" % len(body)), (b"connection", b"close")]
    head = b"".join(k + b": " + v + b"\r\n" for k, v in headers)
    return b"HTTP/1.1 %d %s\r\n%s\r\n%s" % (problem.status, _REASONS[problem.status], head, body)


HttpToolsConnection: type[GuardedConnection] | None = None

if httptools_impl is not None:

    class _HttpToolsConnection(GuardedConnection, httptools_impl.HttpToolsProtocol):  # pyright: ignore
        """The parser in C."""

        def __init__(self, *args: Any, **kwargs: Any) -> None:
            super().__init__(*args, **kwargs)
            self._in_head = True

        def on_headers_complete(self) -> None:
            self._in_head = False
            self._num_head_bytes = 0
            super().on_headers_complete()

        def on_message_complete(self) -> None:
            super().on_message_complete()
            self._in_head = True

        def _awaits_head(self) -> bool:
            return self._in_head

    HttpToolsConnection = _HttpToolsConnection
