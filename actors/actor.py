"""The life of an actor, the same for every role: set up, say hello, handle messages one at a time, report, end.

A role subclasses ``Actor`` and fills in what it needs::

    class Target(Actor):
        greets = ("supervisor", "scheduler")      # who gets our Hello
        async def start(self): ...                # heavy set-up; its failure is the actor's root cause
        def hello(self): ...                      # facts to add to the Hello
        async def serve(self, *, task_status): ...# a background task beside the message loop
        async def handle(self, sender, message): ...
        async def drain(self): ...                # return when what runs is finished
        async def stop(self): ...                 # release what start took

The base answers Stop, and reports progress from the same event loop that does the work: a heartbeat from a side thread
would prove nothing. It knows nothing of what a role does.
"""

import asyncio
import contextlib
import logging
import os
from typing import Any, ClassVar

import anyio
import msgspec
from anyio.abc import TaskStatus

from ..engine.config import Config
from ..engine.errors import PacelineError
from ..engine.store.located import Located, ModelCard
from ..engine.types import ErrorInfo
from .logs import Lines
from .mailbox import Mailbox, MailboxFull
from .messages import ActorLost, Drain, Failed, Heartbeat, Hello, Stats, Stop

log = logging.getLogger(__name__)

BEAT_S = 1.0
"""Seconds between reports of progress."""
_QUIET_S = 0.2
"""A change of ``busy`` is reported at once unless a report went out this recently."""
_STOP_S = 5.0
"""Bound on ``stop``."""
CRASH = "crash"
"""Code of an ErrorInfo whose cause is no PacelineError: a bug or a broken machine, worth another start."""


class Setup(msgspec.Struct, frozen=True, kw_only=True):
    """All that a new process is told, on its standard input. It comes from our parent, never from a wire."""

    actor: str
    epoch: int
    folder: str
    """Private 0700 folder of the sockets."""
    config: Config
    located: Located
    card: ModelCard
    entry: str = ""
    """``module:Class`` of the role; empty = the one of ``actor_main.ROLES``."""
    epochs: dict[str, int] = {}
    """Epochs of the other actors that are not 0."""
    socket_fd: int = -1
    """The gateway's listening socket, inherited."""
    is_listened_for: bool = False
    """Another server accepts connections on it until this gateway can answer them."""
    log_level: str = "info"


class Progress:
    """What the supervisor is told of the current step. Set it from the event loop's thread."""

    def __init__(self) -> None:
        self.step = 0
        self.busy = False
        self.changed = asyncio.Event()
        self._began_s = 0.0
        self._reported_s = 0.0

    def begin(self, step: int) -> None:
        """Step ``step`` starts now."""
        self.step = step
        self._began_s = anyio.current_time()
        self._set(True)

    def end(self) -> None:
        """The current step is over; nothing runs."""
        self._set(False)

    def nudge(self) -> None:
        """Something worth telling has changed: report soon, but not more often than is useful."""
        if anyio.current_time() - self._reported_s > _QUIET_S:
            self.changed.set()

    def report(self, actor: str, epoch: int) -> Heartbeat:
        """The heartbeat to send now."""
        now_s = anyio.current_time()
        self._reported_s = now_s
        self.changed.clear()
        age_s = now_s - self._began_s if self.busy else 0.0
        return Heartbeat(actor, epoch, self.step, self.busy, age_s)

    def _set(self, busy: bool) -> None:
        if busy != self.busy:
            self.busy = busy
            self.nudge()


class Actor:
    """Base of all roles; see the module's docstring."""

    greets: ClassVar[tuple[str, ...]] = ("supervisor",)
    """Who gets our Hello when we can work, and again after its restart."""

    def __init__(self, setup: Setup, mailbox: Mailbox) -> None:
        self.setup = setup
        self.mailbox = mailbox
        self.name = setup.actor
        self.epoch = setup.epoch
        self.progress = Progress()
        self.draining = False
        self.lines: Lines | None = None
        """Where this process logs."""
        self._scope: anyio.CancelScope | None = None
        self._sent: Stats | None = None

    # --- what a role fills in -----------------------------------------------------------------------------------------

    async def start(self) -> None:
        """Set up whatever is needed before the first message. A PacelineError raised here ends the engine's start."""

    def hello(self) -> Hello:
        """The Hello to send; a role adds facts with ``msgspec.structs.replace(super().hello(), ...)``."""
        return Hello(self.name, os.getpid(), self.epoch)

    async def serve(self, *, task_status: TaskStatus[None]) -> None:
        """Runs beside the message loop; Hello is sent after ``task_status.started()``, which must be called."""
        task_status.started()

    async def handle(self, sender: str, message: Any) -> None:
        """One message of this role's inbox, but never Stop. An exception ends the actor: catch what one request caused.

        ``ActorLost`` comes after the mailbox has forgotten the dead peer, ``Drain`` before ``drain`` begins.
        """

    async def drain(self) -> None:
        """Take nothing new and return when what runs is finished; the actor then ends."""

    async def stop(self) -> None:
        """Release what ``start`` took; called once at the end, also after a failure."""

    def stats(self) -> Stats | None:
        """Counters and gauges for the gateway; asked once a second and when ``busy`` changes, sent when different."""
        return None

    # --- the life -----------------------------------------------------------------------------------------------------

    async def run(self) -> int:
        """Live until Stop, a finished Drain, or a failure. Returns the process's exit code and closes the mailbox."""
        try:
            async with anyio.create_task_group() as tasks:
                self._scope = tasks.cancel_scope
                await self.start()
                await tasks.start(self._serve)
                for peer in self.greets:
                    self.mailbox.send(peer, self.hello())
                tasks.start_soon(self._beat)
                await self._receive(tasks)
            return 0
        except Exception as e:
            self._last_words(root_cause(e))
            return 1
        finally:
            with anyio.move_on_after(_STOP_S, shield=True):
                try:
                    await self.stop()
                except Exception:
                    log.exception("%s did not stop cleanly", self.name)
            self.mailbox.close()

    def finish(self) -> None:
        """End the actor's life from inside, with exit code 0."""
        if self._scope is not None:
            self._scope.cancel()

    async def _serve(self, *, task_status: TaskStatus[None]) -> None:
        await self.serve(task_status=task_status)

    async def _receive(self, tasks: anyio.abc.TaskGroup) -> None:
        while True:
            sender, message = await self.mailbox.receive()
            if isinstance(message, Stop):
                self.finish()
                return
            if isinstance(message, ActorLost):
                self.mailbox.lost(message.actor, message.epoch)
            await self.handle(sender, message)
            if isinstance(message, ActorLost) and message.actor in self.greets:
                self.mailbox.send(message.actor, self.hello())
            elif isinstance(message, Drain) and not self.draining:
                self.draining = True
                tasks.start_soon(self._drain)

    async def _drain(self) -> None:
        await self.drain()
        self.finish()

    async def _beat(self) -> None:
        while True:
            with contextlib.suppress(MailboxFull):  # the next report says the same, only later
                self.mailbox.send("supervisor", self.progress.report(self.name, self.epoch))
                stats = self._all_stats()
                if stats is not None and stats != self._sent:
                    self.mailbox.send("gateway", stats)
                    self._sent = stats
            with anyio.move_on_after(BEAT_S):
                await self.progress.changed.wait()

    def _all_stats(self) -> Stats | None:
        """The role's counters, and the mailbox's and the log's where there is something to count."""
        stats = self.stats()
        num_lost = self.lines.num_lost if self.lines is not None else 0
        counts = {"wire_decode_errors": self.mailbox.num_bad, "log_lines_lost": num_lost}
        more = {f"{name}/{self.name}": float(count) for name, count in counts.items() if count}
        if not more:
            return stats
        stats = stats or Stats(self.name, self.epoch, {})
        return msgspec.structs.replace(stats, values={**stats.values, **more})

    def _last_words(self, cause: BaseException) -> None:
        if not isinstance(cause, PacelineError):
            log.error("%s failed", self.name, exc_info=cause)
        with contextlib.suppress(MailboxFull):
            self.mailbox.send("supervisor", Failed(self.name, self.epoch, describe(cause)))


def root_cause(error: BaseException) -> BaseException:
    """The first leaf of an exception group; what stands at the start of the trouble."""
    while isinstance(error, BaseExceptionGroup):
        error = error.exceptions[0]
    return error


def describe(cause: BaseException) -> ErrorInfo:
    """An exception as it travels; ``code`` is ``CRASH`` unless a person can act on the message."""
    if isinstance(cause, PacelineError):
        return cause.info()
    if isinstance(cause, MemoryError):
        return ErrorInfo("internal", "out of memory; use a smaller model or a smaller cache.max_bytes", "out_of_memory")
    text = " ".join(str(cause).split())[:1000]
    return ErrorInfo("internal", f"{type(cause).__name__}: {text}" if text else type(cause).__name__, CRASH)
