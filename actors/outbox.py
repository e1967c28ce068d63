"""Messages on their way out: collected while the event loop is busy, sent as one batch, kept while the peer is full.

A full mailbox is an answer, not a loss: what finds no room waits here, in order, up to a bound; beyond it ``send``
refuses and the caller ends what the message was about.
"""

import asyncio
import logging
from collections import defaultdict, deque
from typing import Any

from ..engine.errors import WireError
from .mailbox import Mailbox, MailboxFull

log = logging.getLogger(__name__)

_BATCH = 128
_RETRY_S = 0.002


class Outbox:
    """Sends for one actor, from its event loop's thread."""

    def __init__(self, mailbox: Mailbox, limit: int) -> None:
        self._mailbox = mailbox
        self._limit = limit
        self._waiting: defaultdict[str, deque[Any]] = defaultdict(deque)
        self._timer: asyncio.Handle | None = None

    @property
    def is_empty(self) -> bool:
        """Whether everything has gone out."""
        return not any(self._waiting.values())

    def send(self, to: str, message: Any, *, force: bool = False) -> None:
        """Queue ``message``; it goes out before the event loop next sleeps. ``force`` ignores the bound.

        Raises:
            MailboxFull: ``limit`` messages wait for ``to`` already.
        """
        waiting = self._waiting[to]
        if len(waiting) >= self._limit and not force:
            raise MailboxFull(f"{self._limit} messages wait for {to} already")
        waiting.append(message)
        if self._timer is None:
            self._timer = asyncio.get_running_loop().call_soon(self._flush)

    def forget(self, to: str) -> None:
        """Drop what waits for a peer that died."""
        self._waiting.pop(to, None)

    def close(self) -> None:
        """Stop trying."""
        if self._timer is not None:
            self._timer.cancel()

    def _flush(self) -> None:
        self._timer = None
        is_full = False
        for to, waiting in self._waiting.items():
            try:
                self._send_all(to, waiting)
            except MailboxFull:
                is_full = True
        if is_full:
            self._timer = asyncio.get_running_loop().call_later(_RETRY_S, self._flush)

    def _send_all(self, to: str, waiting: deque[Any]) -> None:
        while waiting:
            batch = [waiting[i] for i in range(min(_BATCH, len(waiting)))]
            try:
                self._mailbox.send_all(to, batch)
            except WireError:
                batch = batch[:1]  # one of them is over the frame cap: find it
                self._send_one(to, batch[0])
            for _ in batch:
                waiting.popleft()

    def _send_one(self, to: str, message: Any) -> None:
        try:
            self._mailbox.send(to, message)
        except WireError as e:  # the receiver notices the gap and ends the call
            log.error("a message for %s is lost: %s", to, e)
