"""An engine in one process under a virtual clock: real actors, real message bytes, seeded delays, deaths and restarts.

Time stands still while anything can run and jumps to the next timer when nothing can: an hour takes a moment, and every
run with the same seed is the same run.
"""

import asyncio
import selectors
from collections.abc import Awaitable, Callable, Coroutine
from typing import Any

import anyio
from fake_actors import CARD, LOCATED, FakeTarget, FakeTokenizer, config

from paceline.actors.actor import Actor, Setup
from paceline.actors.client import EngineClient
from paceline.actors.memory_mailbox import Faults, MemoryMailbox, MemoryNetwork
from paceline.actors.messages import ActorLost, Stop
from paceline.actors.scheduler import SchedulerActor
from paceline.actors.tokenizer import Tokenizer
from paceline.engine.config import Config


class _Jump(selectors.DefaultSelector):
    """A selector that never sleeps: what it should have slept is added to the clock."""

    now_s = 1000.0

    def select(self, timeout: float | None = None) -> list[Any]:
        events = super().select(0)
        if not events:
            if timeout is None:
                raise RuntimeError("deadlock: everybody waits and no timer is set")
            self.now_s += timeout
        return events


class VirtualLoop(asyncio.SelectorEventLoop):
    """An event loop whose clock is the sum of the time it would have slept."""

    def __init__(self) -> None:
        self._jump = _Jump()
        super().__init__(self._jump)

    def time(self) -> float:
        return self._jump.now_s


def simulate(main: Callable[[], Coroutine[Any, Any, Any]]) -> Any:
    """Run ``main`` under the virtual clock."""
    return anyio.run(main, backend_options={"loop_factory": VirtualLoop})


class Watched(MemoryNetwork):
    """Counts the messages of the engine's own actors, so that something can be done behind any one of them."""

    def __init__(self, faults: Faults | None, mark: int) -> None:
        super().__init__(faults, mark)
        self.num_sent = 0
        self._awaited: dict[int, asyncio.Event] = {}

    def post(self, source: bytes, to: bytes, frame: bytes, delays: list[float]) -> None:
        super().post(source, to, frame, delays)
        if b"supervisor" in source + to or b"Stats" in frame:
            return  # those that come by the clock, not by what is done
        self.num_sent += 1
        if (event := self._awaited.pop(self.num_sent, None)) is not None:
            event.set()

    def sent(self, number: int) -> asyncio.Event:
        """Set when so many more messages have gone out."""
        return self._awaited.setdefault(self.num_sent + number, asyncio.Event())


class Simulation:
    """Tokenizer, scheduler and target over a ``MemoryNetwork``, and a client in the gateway's place."""

    roles: dict[str, type[Actor]] = {
        "tokenizer": FakeTokenizer,
        "scheduler": SchedulerActor,
        "target": FakeTarget,
    }

    def __init__(self, faults: Faults | None = None, *, settings: Config | None = None, mark: int = 1000) -> None:
        self.network = Watched(faults, mark)
        self.config = settings or config()
        self.epochs: dict[str, int] = {}
        self.actors: dict[str, Actor] = {}
        self.mailboxes: dict[str, MemoryMailbox] = {}
        self._tasks: dict[str, asyncio.Task[int]] = {}
        self.supervisor = self.network.mailbox("supervisor")
        self.client_mailbox = self.network.mailbox("gateway")
        self.client = EngineClient(self.client_mailbox, max_waiting=self.config.scheduler.max_queued_requests)
        self._client_task: asyncio.Task[None] | None = None

    async def __aenter__(self) -> "Simulation":
        self._client_task = asyncio.create_task(self.client.run())
        for name in self.roles:
            self.start(name)
        await anyio.sleep(0.5)
        return self

    async def __aexit__(self, *exc: object) -> None:
        for name in self.roles:
            self.supervisor.send(name, Stop())
        await anyio.sleep(1.0)
        tasks: list[asyncio.Task[Any]] = [*self._tasks.values()]
        if self._client_task is not None:
            self._client_task.cancel()
            tasks.append(self._client_task)
        results = await asyncio.gather(*tasks, return_exceptions=True)
        if exc == (None, None, None):
            assert all(r == 0 or isinstance(r, asyncio.CancelledError) for r in results), results

    @property
    def scheduler(self) -> SchedulerActor:
        actor = self.actors["scheduler"]
        assert isinstance(actor, SchedulerActor)
        return actor

    def start(self, name: str) -> None:
        """A new process, so to speak."""
        epoch = self.epochs[name] = self.epochs.get(name, -1) + 1
        epochs = {n: e for n, e in self.epochs.items() if n != name}
        mailbox = self.mailboxes[name] = self.network.mailbox(name, epoch, epochs)
        setup = Setup(
            actor=name, epoch=epoch, folder="", config=self.config, located=LOCATED, card=CARD, epochs=epochs
        )
        actor = self.actors[name] = self.roles[name](setup, mailbox)
        self._tasks[name] = asyncio.create_task(actor.run())

    async def kill(self, name: str, *, down_s: float = 0.1) -> None:
        """Death without last words, then the supervisor's part: tell everybody, start another."""
        task, mailbox, epoch = self._tasks.pop(name), self.mailboxes[name], self.epochs[name]
        self.network.cut(mailbox)
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)
        self.supervisor.lost(name, epoch)
        for other in {*self._tasks, "gateway"}:
            self.supervisor.send(other, ActorLost(name, epoch))
        await anyio.sleep(down_s)
        self.start(name)


def settle(sim: Simulation) -> None:
    """Nothing is left of any call, anywhere."""
    core = sim.scheduler.core
    assert core is not None
    core.check()
    stats = core.stats()
    assert (stats.num_running, stats.num_waiting, stats.num_used_blocks, stats.num_in_flight) == (0, 0, 0, 0)
    assert not sim.scheduler._live and not sim.scheduler._outputs and not sim.scheduler._open
    assert not sim.scheduler._orphans and not sim.scheduler._held
    if isinstance(tokenizer := sim.actors.get("tokenizer"), Tokenizer):
        assert not tokenizer._calls and not tokenizer._call_of
    assert sim.client.num_open == 0


async def eventually(condition: Callable[[], bool | Awaitable[bool]], timeout_s: float = 5.0) -> None:
    """Wait until ``condition`` holds; fail after ``timeout_s``."""
    with anyio.fail_after(timeout_s):
        while True:
            result = condition()
            if not isinstance(result, bool):
                result = await result
            if result:
                return
            await anyio.sleep(0.02)
