"""How actors reach each other: one bounded inbox each, addressed by actor name.

``ZmqMailbox`` (``zmq_mailbox.py``) is the real one; ``MemoryMailbox`` (``memory_mailbox.py``) passes the same bytes in
memory, for tests. Both speak for one start of one actor, its *epoch*: a message of a peer's earlier epoch is dropped
when it arrives, and a message to a peer that has been replaced is never read by the replacement.
"""

import logging
from collections.abc import Sequence
from typing import Any, Protocol

from ..engine.errors import WireError
from . import wire

log = logging.getLogger(__name__)


class MailboxFull(Exception):
    """The receiver's queue is at its mark; the caller keeps or refuses the message, it is never dropped silently."""


class Mailbox(Protocol):
    """An actor's end of the wire. Messages of one sender arrive in order; each arrives at most once."""

    name: str

    @property
    def num_bad(self) -> int:
        """Frames received so far that were no message of this inbox."""
        ...

    def send(self, to: str, message: Any) -> None:
        """Encode and queue ``message`` for actor ``to``; never blocks.

        Raises:
            MailboxFull: the queue towards ``to`` is full.
        """
        ...

    def send_all(self, to: str, messages: Sequence[Any]) -> None:
        """Like ``send``, for several messages at the price of little more than one: all are queued, or none.

        Raises:
            MailboxFull: the queue towards ``to`` is full.
        """
        ...

    async def receive(self) -> tuple[str, Any]:
        """The next (sender's name, decoded message). Malformed frames are counted and skipped."""
        ...

    def lost(self, actor: str, epoch: int) -> None:
        """``actor`` of ``epoch`` is dead: drop what is queued for it, and send to its replacement from now on."""
        ...

    def close(self) -> None:
        """Release sockets and their files."""
        ...


class Opener:
    """Turns (identity, frame) into (sender, message); counts what it refuses. Shared by both mailboxes.

    An identity is ``<name>.<epoch>``. The first bad frame of a sender is logged, the rest only counted.
    """

    def __init__(self, name: str, epochs: dict[str, int] | None) -> None:
        self._decoder = wire.decoder(wire.role_of(name))
        self._known: dict[bytes, tuple[str, int]] = {}
        self.epochs = dict(epochs or {})
        """Epoch of each peer as far as known; absent = 0."""
        self.num_bad = 0
        """Frames that were no message of this inbox."""
        self.num_stale = 0
        """Messages of a peer's earlier epoch."""

    def open(self, identity: bytes, frame: bytes) -> tuple[str, int, Any] | None:
        """(sender, its epoch, message), or None when the frame was refused and counted."""
        try:
            sender, epoch = self._known.get(identity) or self._parse(identity)
            if epoch < self.epochs.get(sender, 0):
                self.num_stale += 1
                return None
            return sender, epoch, self._decoder.decode(frame)
        except WireError as e:
            self.num_bad += 1
            if self.num_bad == 1:
                log.warning("from %s: %s", identity[:40].decode("ascii", "replace"), e)
            return None

    def newer(self, actor: str, epoch: int) -> bool:
        """Note that ``actor`` now lives in ``epoch``; whether that is news."""
        if epoch <= self.epochs.get(actor, 0):
            return False
        self.epochs[actor] = epoch
        return True

    def _parse(self, identity: bytes) -> tuple[str, int]:
        name, _, epoch = identity.decode("ascii", "replace").rpartition(".")
        try:
            wire.role_of(name)
            found = name, int(epoch)
        except (LookupError, ValueError) as e:
            raise WireError("the sender is no actor of this engine; dropped") from e
        if len(self._known) < 256:
            self._known[identity] = found
        return found


def identity_of(name: str, epoch: int) -> bytes:
    """What a sender calls itself on the wire."""
    return f"{name}.{epoch}".encode()
