"""How a running server hands its listening socket to a newer one on the same machine, and when it ends for it.

The running server listens on a Unix socket in its private folder, which only its user can open. A newer one finds it
through the process that holds the port, is sent the listening socket, warms up, begins to accept, and only then asks
the older one to retire. Whatever happens before that leaves the older one as it was: its end of the connection closes.

    newer  Ask(pid)          older  Offered(pid, version, words, cwd) with the socket, or Refused(why)
    newer  Retire()          older  Retires()
"""

import logging
import os
import socket
from collections.abc import Callable, Sequence
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, Self

import anyio
import msgspec
from anyio.abc import SocketStream, UNIXSocketStream

from .. import __version__
from ..engine.errors import PacelineError
from . import listen

if TYPE_CHECKING:
    import psutil

log = logging.getLogger(__name__)

CONTROL = "control"
"""Name of the Unix socket in a server's private folder."""
_ANSWER_S = 5.0
_MAX_BYTES = 1 << 20


class Ask(msgspec.Struct, tag=True, frozen=True):
    """``pid`` would take the port over."""

    pid: int


class Offered(msgspec.Struct, tag=True, frozen=True):
    """Comes with the listening socket: who serves now, by which command line (without its verb), in which folder."""

    pid: int
    version: str
    words: list[str]
    cwd: str


class Refused(msgspec.Struct, tag=True, frozen=True):
    """No, and why."""

    why: str


class Retire(msgspec.Struct, tag=True, frozen=True):
    """The newer server accepts connections."""


class Retires(msgspec.Struct, tag=True, frozen=True):
    """The older one accepts none any more, and ends when it has answered what it has."""


_Message = Ask | Offered | Refused | Retire | Retires
_decoder = msgspec.json.Decoder(_Message)


def _encode(message: _Message) -> bytes:
    return msgspec.json.encode(message) + b"\n"


class Offer:
    """The older server's side. ``retire`` is called once, with the pid of the one that took over."""

    def __init__(self, listener: socket.socket, words: Sequence[str], retire: Callable[[int], None]) -> None:
        self._listener = listener
        self._words = list(words)
        self._retire = retire
        self._taker = 0
        self._retired_for = 0

    async def serve(self, path: str) -> None:
        """Answer on a Unix socket at ``path`` until cancelled."""
        async with await anyio.create_unix_listener(path, mode=0o600) as control:
            await control.serve(self._attend)

    async def _attend(self, stream: SocketStream) -> None:
        assert isinstance(stream, UNIXSocketStream)
        async with stream:
            try:
                await self._talk(stream)
            except (OSError, anyio.BrokenResourceError, anyio.EndOfStream, TimeoutError, msgspec.MsgspecError) as e:
                log.info("an upgrade was given up: %s", type(e).__name__)

    async def _talk(self, stream: UNIXSocketStream) -> None:
        with anyio.fail_after(_ANSWER_S):
            ask = await _receive(stream)
        if not isinstance(ask, Ask):
            return
        if other := self._retired_for or self._taker:
            done = "has taken over from" if self._retired_for else "is taking over from"
            await stream.send(_encode(Refused(f"pid {other} {done} pid {os.getpid()}; wait for it, then try again")))
            return
        self._taker = ask.pid
        try:
            offered = Offered(os.getpid(), __version__, self._words, str(Path.cwd()))
            await stream.send_fds(_encode(offered), [self._listener.fileno()])
            if isinstance(await _receive(stream), Retire):
                self._retired_for = ask.pid
                self._retire(ask.pid)
                await stream.send(_encode(Retires()))
        finally:
            self._taker = 0


async def _receive(stream: UNIXSocketStream) -> _Message:
    """The next message, alone on its line.

    Raises:
        anyio.EndOfStream, msgspec.MsgspecError: there is none.
    """
    line = bytearray()
    while not line.endswith(b"\n"):
        line += await stream.receive()
        if len(line) > _MAX_BYTES:
            raise msgspec.ValidationError("a line without end")
    return _decoder.decode(line)


class Predecessor:
    """The newer server's side: what the older one is, and its listening socket. Close it, or leave its ``with``."""

    def __init__(self, control: socket.socket, offered: Offered, listener: socket.socket) -> None:
        self.pid = offered.pid
        self.version = offered.version
        self.words = offered.words
        self.cwd = offered.cwd
        self.listener = listener
        self.has_retired = False
        self._control = control

    def retire(self) -> None:
        """Have it accept no more connections and end when its calls are answered. It may be gone already."""
        try:
            self._control.sendall(_encode(Retire()))
            _read(self._control)
        except (OSError, EOFError) as e:
            log.warning("pid %d did not answer (%s); both may accept connections until it ends", self.pid, e)
        self.has_retired = True

    def close(self) -> None:
        """Let go of it; one that was not asked to retire goes on."""
        self._control.close()
        self.listener.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, _: TracebackType | None) -> None:
        self.close()


def take(port: int) -> Predecessor:
    """Ask the server at ``port`` of this machine for its socket.

    Raises:
        PacelineError: one line: nobody is there, it is no server of ours, it is another user's, or it refuses.
    """
    process = listen.owner(port)
    if process is None:
        raise PacelineError(
            f"no server of yours listens on port {port}; start one with paceline serve, or pass --port"
        )
    control = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    try:
        control.settimeout(_ANSWER_S)
        control.connect(_control_path(process, port))
        control.sendall(_encode(Ask(os.getpid())))
        told, fds = _read_with_sockets(control)
    except (OSError, EOFError, msgspec.MsgspecError) as e:
        control.close()
        raise PacelineError(f"pid {process.pid} does not hand port {port} over ({e or 'no answer'}); "
                            f"end it with: paceline stop --port {port}") from e  # fmt: skip
    if not isinstance(told, Offered) or len(fds) != 1:
        control.close()
        for fd in fds:
            os.close(fd)
        why = told.why if isinstance(told, Refused) else f"pid {process.pid} does not hand port {port} over"
        raise PacelineError(why)
    listener = socket.socket(fileno=fds[0])
    listener.setblocking(False)
    return Predecessor(control, told, listener)


def _control_path(process: "psutil.Process", port: int) -> str:
    import psutil

    name = listen.name_of(process)
    if not listen.is_server(process):
        raise PacelineError(f"port {port} belongs to pid {process.pid} ({name}), which is no paceline server")
    try:
        sockets = [c.laddr for c in process.net_connections("unix")]
    except psutil.Error as e:
        raise PacelineError(f"pid {process.pid} ({name}) cannot be asked: {e}; run this as its user") from e
    path = next((p for p in sockets if isinstance(p, str) and Path(p).name == CONTROL), None)
    if path is None:
        raise PacelineError(
            f"pid {process.pid} ({name}) cannot hand port {port} over: it is still starting or of an older version; "
            f"wait, or end it with: paceline stop --port {port}"
        )
    return path


def _read(control: socket.socket) -> _Message:
    return _read_with_sockets(control)[0]


def _read_with_sockets(control: socket.socket) -> tuple[_Message, list[int]]:
    """A message and the descriptors that came with it.

    Raises:
        EOFError: the other end has closed.
    """
    line, found = bytearray(), []
    while not line.endswith(b"\n"):
        data, fds, _, _ = socket.recv_fds(control, 65536, 4)
        found += fds
        if not data or len(line) > _MAX_BYTES:
            for fd in found:
                os.close(fd)
            raise EOFError("it hung up")
        line += data
    return _decoder.decode(line), found
