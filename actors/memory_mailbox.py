"""The mailbox's twin for tests: the same bytes, decoders and bounds, delivered by the event loop of one process.

A seeded fault plan delays, loses or doubles messages. A delay never reorders the messages of one sender to one
receiver: ZeroMQ does not either.
"""

import asyncio
import random
from collections import deque
from collections.abc import Sequence
from typing import Any

from . import wire
from .mailbox import MailboxFull, Opener, identity_of


class Faults:
    """What happens to each message, drawn from ``seed`` alone, so that a failing run can be played again."""

    def __init__(self, seed: int = 0, *, max_delay_s: float = 0.0, lose: float = 0.0, double: float = 0.0) -> None:
        self._random = random.Random(seed)
        self._max_delay_s = max_delay_s
        self._lose = lose
        self._double = double

    def delays(self, sender: str, to: str) -> list[float]:
        """Seconds until each copy arrives: no entry = lost, two = doubled. The supervisor's messages always arrive."""
        delay_s = self._random.random() * self._max_delay_s
        if "supervisor" in (sender, to):
            return [delay_s]
        draw = self._random.random()
        if draw < self._lose:
            return []
        return [delay_s, delay_s] if draw < self._lose + self._double else [delay_s]


class MemoryNetwork:
    """All inboxes of a simulated engine, by address."""

    def __init__(self, faults: Faults | None = None, high_water_mark: int = 1000) -> None:
        self.faults = faults or Faults()
        self.high_water_mark = high_water_mark
        self.queues: dict[bytes, deque[tuple[bytes, bytes]]] = {}
        self.waiters: dict[bytes, asyncio.Event] = {}
        self._under_way: dict[tuple[bytes, bytes], deque[bytes]] = {}  # timers of one moment fire in any order
        self._not_before: dict[tuple[bytes, bytes], float] = {}
        self._cut: set[bytes] = set()

    def mailbox(self, name: str, epoch: int = 0, epochs: dict[str, int] | None = None) -> "MemoryMailbox":
        """A mailbox for one start of one actor."""
        return MemoryMailbox(self, name, epoch, epochs)

    def inbox(self, address: bytes) -> deque[tuple[bytes, bytes]]:
        """The queue at ``address``; like a socket that connects first, it may exist before its owner."""
        return self.queues.setdefault(address, deque())

    def cut(self, mailbox: "MemoryMailbox") -> None:
        """The owner of ``mailbox`` dies now: what it still tries to send is lost."""
        self._cut.add(mailbox.address)

    def post(self, source: bytes, to: bytes, frame: bytes, delays: list[float]) -> None:
        """Deliver ``frame`` once for each delay, in order with what ``source`` sent to ``to`` before."""
        if source in self._cut:
            return
        loop = asyncio.get_running_loop()
        frames = self._under_way.setdefault((source, to), deque())
        for delay_s in delays:
            frames.append(frame)
            due_s = max(loop.time() + delay_s, self._not_before.get((source, to), 0.0))
            self._not_before[source, to] = due_s
            if due_s <= loop.time() and len(frames) == 1:
                self._arrive(source, to)
            else:
                loop.call_at(due_s, self._arrive, source, to)

    def _arrive(self, source: bytes, to: bytes) -> None:
        self.inbox(to).append((source, self._under_way[source, to].popleft()))
        if (waiter := self.waiters.get(to)) is not None:
            waiter.set()


class MemoryMailbox:
    """See ``Mailbox``."""

    def __init__(self, network: MemoryNetwork, name: str, epoch: int, epochs: dict[str, int] | None) -> None:
        self.name = name
        self._network = network
        self.address = identity_of(name, epoch)
        self._opener = Opener(name, epochs)
        self._queue = network.inbox(self.address)
        self._awake = network.waiters.setdefault(self.address, asyncio.Event())

    @property
    def num_bad(self) -> int:
        """Frames that were no message of this inbox."""
        return self._opener.num_bad

    @property
    def num_stale(self) -> int:
        """Messages of a peer's earlier epoch."""
        return self._opener.num_stale

    def send(self, to: str, message: Any) -> None:
        """Encode and queue; see ``Mailbox.send``.

        Raises:
            MailboxFull: the receiver's queue is at the network's mark.
        """
        self.send_all(to, [message])

    def send_all(self, to: str, messages: Sequence[Any]) -> None:
        """Encode and queue, counting as one against the mark; see ``Mailbox.send_all``.

        Raises:
            MailboxFull: the receiver's queue is at the network's mark; nothing was queued.
        """
        wire.role_of(to)
        address = identity_of(to, self._opener.epochs.get(to, 0))
        if len(self._network.inbox(address)) >= self._network.high_water_mark:
            raise MailboxFull(f"{self._network.high_water_mark} messages wait for {to} already")
        for frame in [bytes(wire.encode(m)) for m in messages]:
            self._network.post(self.address, address, frame, self._network.faults.delays(self.name, to))

    async def receive(self) -> tuple[str, Any]:
        """The next (sender, message); see ``Mailbox.receive``."""
        await asyncio.sleep(0)
        while True:
            self._awake.clear()
            while self._queue:
                opened = self._opener.open(*self._queue.popleft())
                if opened is not None:
                    sender, epoch, message = opened
                    self.lost(sender, epoch - 1)
                    return sender, message
            await self._awake.wait()

    def lost(self, actor: str, epoch: int) -> None:
        """Send to the replacement of ``actor`` of ``epoch`` from now on."""
        self._opener.newer(actor, epoch + 1)

    def close(self) -> None:
        """Forget the inbox and what is in it."""
        self._network.queues.pop(self.address, None)
        self._network.waiters.pop(self.address, None)
