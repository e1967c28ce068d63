"""The mailbox between processes: ZeroMQ over ``ipc`` in a private folder.

One bound ROUTER socket is the inbox; one DEALER a peer is the way out. ROUTER only receives here, so that its habit of
dropping what it cannot send never matters, and DEALER says EAGAIN at its mark. The socket file is named after actor
*and* epoch: what is queued for a dead peer is never read by its replacement, and a stale file is never in the way.

The inbox is read without ``zmq.asyncio``: its descriptor says only that *something* changed. The reader callback asks
for EVENTS (which clears the descriptor, else the loop would spin while a handler is busy) and wakes ``receive``, which
reads until EAGAIN before it sleeps again.
"""

import asyncio
import contextlib
import os
from collections import deque
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import zmq

from ..engine.errors import ConfigError
from . import wire
from .mailbox import MailboxFull, Opener, identity_of

HIGH_WATER_MARK = 1000
"""Messages queued on each side of a connection."""
LAST_WORDS_MS = 500
"""How long closing waits for the supervisor to get what was sent to it; for other peers nothing is worth waiting."""
_MAX_PATH_BYTES = 107
_BURST = 32
"""Messages given out in a row before other tasks get a turn."""


def endpoint(folder: str, name: str, epoch: int) -> str:
    """Address of one start of one actor. Another transport (tcp between machines) would be chosen here.

    Raises:
        ConfigError: the path does not fit into a socket address.
    """
    path = os.path.join(folder, f"{name}.{epoch}.sock")
    if len(os.fsencode(path)) > _MAX_PATH_BYTES:
        raise ConfigError(f"socket path {path} is over {_MAX_PATH_BYTES} bytes; set TMPDIR to a shorter folder")
    return f"ipc://{path}"


class ZmqMailbox:
    """See ``Mailbox``. Belongs to the thread and event loop that created it."""

    def __init__(self, name: str, epoch: int, folder: str, epochs: dict[str, int] | None = None) -> None:
        self.name = name
        self._folder = folder
        self._identity = identity_of(name, epoch)
        self._opener = Opener(name, epochs)
        self._context = zmq.Context()
        self._outs: dict[str, zmq.Socket[bytes]] = {}
        self._awake = asyncio.Event()
        self._burst = 0
        self._rest: deque[tuple[bytes, bytes]] = deque()  # of a batch that came as one
        self._inbox: zmq.Socket[bytes] = self._context.socket(zmq.ROUTER)
        self._inbox.set(zmq.RCVHWM, HIGH_WATER_MARK)
        self._inbox.set(zmq.LINGER, 0)
        self._inbox.set(zmq.MAXMSGSIZE, wire.MAX_FRAME_BYTES)
        self._address = endpoint(folder, name, epoch)
        self._inbox.bind(self._address)
        self._loop = asyncio.get_running_loop()
        self._fd = self._inbox.FD
        self._loop.add_reader(self._fd, self._wake)

    @property
    def num_bad(self) -> int:
        """Frames that were no message of this inbox."""
        return self._opener.num_bad

    def send(self, to: str, message: Any) -> None:
        """Encode and queue; see ``Mailbox.send``.

        Raises:
            MailboxFull: ``HIGH_WATER_MARK`` messages wait for ``to`` already.
            WireError: the message is over the frame cap.
        """
        out = self._outs.get(to) or self._connect(to)
        try:
            out.send(wire.encode(message), zmq.NOBLOCK)
        except zmq.Again:
            raise _full(to) from None

    def send_all(self, to: str, messages: Sequence[Any]) -> None:
        """Encode and queue as one multipart message; see ``Mailbox.send_all``.

        Raises:
            MailboxFull: ``HIGH_WATER_MARK`` messages wait for ``to`` already.
            WireError: a message is over the frame cap.
        """
        if not messages:
            return
        out = self._outs.get(to) or self._connect(to)
        try:
            out.send_multipart([wire.encode(m) for m in messages], zmq.NOBLOCK)
        except zmq.Again:
            raise _full(to) from None

    async def receive(self) -> tuple[str, Any]:
        """The next (sender, message); see ``Mailbox.receive``."""
        while True:
            if not self._rest:
                self._awake.clear()
                try:
                    identity, *frames = self._inbox.recv_multipart(zmq.NOBLOCK)
                except zmq.Again:
                    self._burst = 0
                    await self._awake.wait()
                    continue
                self._rest.extend((identity, frame) for frame in frames)
                self._burst += 1
                if self._burst % _BURST == 0:
                    await asyncio.sleep(0)
                continue
            opened = self._opener.open(*self._rest.popleft())
            if opened is not None:
                sender, epoch, message = opened
                self.lost(sender, epoch - 1)
                return sender, message

    def lost(self, actor: str, epoch: int) -> None:
        """Drop the connection to ``actor`` of ``epoch``; the next send goes to its replacement."""
        if self._opener.newer(actor, epoch + 1) and (out := self._outs.pop(actor, None)) is not None:
            out.close(linger=0)

    def close(self) -> None:
        """Close all sockets and remove the inbox's file; waits at most ``LAST_WORDS_MS``."""
        if self._inbox.closed:
            return
        self._loop.remove_reader(self._fd)
        self._inbox.close()
        for out in self._outs.values():
            out.close()
        self._context.term()
        with contextlib.suppress(OSError):
            Path(self._address.removeprefix("ipc://")).unlink()

    def _connect(self, to: str) -> "zmq.Socket[bytes]":
        wire.role_of(to)
        out: zmq.Socket[bytes] = self._context.socket(zmq.DEALER)
        out.set(zmq.IDENTITY, self._identity)
        out.set(zmq.SNDHWM, HIGH_WATER_MARK)
        out.set(zmq.LINGER, LAST_WORDS_MS if to == "supervisor" else 0)
        out.set(zmq.RECONNECT_IVL, 20)
        out.set(zmq.RECONNECT_IVL_MAX, 500)
        out.connect(endpoint(self._folder, to, self._opener.epochs.get(to, 0)))
        self._outs[to] = out
        return out

    def _wake(self) -> None:
        self._inbox.get(zmq.EVENTS)  # clears the descriptor; see the module's docstring
        self._awake.set()


def _full(to: str) -> MailboxFull:
    return MailboxFull(f"{HIGH_WATER_MARK} messages wait for {to} already")
