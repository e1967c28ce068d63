"""How actors reach each other: one bounded inbox each, addressed by actor name.

``ZmqMailbox`` is the real one; ``MemoryMailbox`` passes the same bytes in memory, for tests.
"""

from typing import Any, Protocol


class MailboxFull(Exception):
    """The receiver's queue is at its mark; the caller keeps or refuses the message, it is never dropped silently."""


class Mailbox(Protocol):
    """An actor's end of the wire. Messages of one sender arrive in order; each arrives at most once."""

    name: str

    def send(self, to: str, message: Any) -> None:
        """Encode and queue ``message`` for actor ``to``; never blocks.

        Raises:
            MailboxFull: the queue towards ``to`` is full.
        """
        ...

    async def receive(self) -> tuple[str, Any]:
        """The next (sender's name, decoded message). Malformed frames are counted and skipped."""
        ...

    def close(self) -> None:
        """Release sockets and their files."""
        ...
