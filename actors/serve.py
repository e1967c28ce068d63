"""``paceline serve`` and ``upgrade`` below their command lines: port, supervisor, signals, and what a person reads."""

import contextlib
import logging
import signal
import socket
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

import anyio
import msgspec

from ..engine.config import Config
from ..engine.errors import BadModelFileError, ConfigError, PacelineError, StoreError
from ..engine.store.located import Located, ModelCard
from . import logs
from .actor import root_cause
from .draft_files import find_drafter
from .handover import CONTROL, Offer, Predecessor
from .listen import bind, url
from .messages import Hello
from .supervisor import Supervisor, private_folder

log = logging.getLogger(__name__)

ACTORS = ("gateway", "tokenizer", "scheduler", "target")


class Ready(msgspec.Struct, frozen=True):
    """What there is to tell when the engine can serve."""

    url: str
    model: str
    load_s: float
    """From the start of the processes to the last Hello."""
    target: Hello | None


def serve(
    config: Config,
    located: Located,
    card: ModelCard,
    *,
    on_ready: Callable[[Ready], None] | None = None,
    entries: Mapping[str, str] | None = None,
    words: Sequence[str] = (),
    predecessor: Predecessor | None = None,
) -> int:
    """Serve until a signal; the process's exit code. A failure's root cause is the last line on stderr.

    The first SIGINT, SIGTERM or SIGHUP (unless ``nohup`` has that ignored) drains for ``server.shutdown_timeout_s``, a
    second one ends at once. ``entries`` replaces roles by ``module:Class``, for tests. ``words`` of the command line
    are what a server that takes over is told. From a ``predecessor`` its socket is taken, once everything else works.
    """
    logs.set_up("supervisor", config.server.log_level, config.server.log_format)
    try:
        drafter = find_drafter(config)
        taken = predecessor.listener if predecessor is not None else None
        with taken or bind(config.server.host, config.server.port) as listener, private_folder() as folder:
            supervisor = Supervisor(
                config, located, card, ACTORS, folder, listener=listener, entries=entries, drafter=drafter,
                is_listened_for=predecessor is not None,
            )  # fmt: skip
            server = _Server(config, supervisor, listener, folder, words, predecessor)
            return anyio.run(server.run, on_ready or announce)
    except (ConfigError, StoreError, BadModelFileError) as e:
        return _fail(e)


def announce(ready: Ready) -> None:
    """The one line that says that the engine serves."""
    blocks = ""
    if ready.target is not None:
        blocks = f", {ready.target.num_blocks} KV blocks of {ready.target.block_size} tokens"
    with contextlib.suppress(OSError):  # nobody reads it: a full disk, a closed pipe
        sys.stdout.write(f"paceline serves {ready.model} at {ready.url} (ready in {ready.load_s:.1f} s{blocks})\n")
        sys.stdout.flush()


class _Server:
    """One supervisor, the signals and the newer server that end it."""

    def __init__(
        self, config: Config, supervisor: Supervisor, listener: socket.socket, folder: str, words: Sequence[str],
        predecessor: Predecessor | None,
    ) -> None:  # fmt: skip
        self._config = config
        self._supervisor = supervisor
        self._listener = listener
        self._control = str(Path(folder) / CONTROL)
        self._words = words
        self._predecessor = predecessor
        self._taker: int | None = None
        self._is_taken = anyio.Event()

    async def run(self, on_ready: Callable[[Ready], None]) -> int:
        """Until the end; the exit code."""
        begun_s = time.monotonic()
        config, address = self._config, url(self._listener)
        try:
            async with anyio.create_task_group() as tasks:
                tasks.start_soon(self._obey_signals, tasks.cancel_scope)
                await tasks.start(self._supervisor.run)
                if self._predecessor is not None:
                    await anyio.to_thread.run_sync(self._predecessor.retire)
                tasks.start_soon(self._make_way, tasks.cancel_scope)
                tasks.start_soon(Offer(self._listener, self._words, self._take_over).serve, self._control)
                name = config.server.served_model_name or config.model
                on_ready(Ready(address, name, time.monotonic() - begun_s, self._supervisor.target_hello))
        except BaseExceptionGroup as group:
            cause = root_cause(group)
            if not isinstance(cause, PacelineError):
                raise
            return _fail(cause)
        return 0

    def _take_over(self, pid: int) -> None:
        self._taker = pid
        self._is_taken.set()

    async def _make_way(self, scope: anyio.CancelScope) -> None:
        """End once another server has taken over and our calls are answered."""
        await self._is_taken.wait()
        drain_s = self._config.server.shutdown_timeout_s
        log.warning(
            "pid %s has taken over: ending when open calls are answered, after %g s at most", self._taker, drain_s
        )
        await self._supervisor.drain(drain_s, hands_over=True)
        scope.cancel()

    async def _obey_signals(self, scope: anyio.CancelScope) -> None:
        supervisor, drain_s = self._supervisor, self._config.server.shutdown_timeout_s

        async def drain() -> None:
            await supervisor.drain(drain_s)
            scope.cancel()

        obeyed = [signal.SIGINT, signal.SIGTERM]
        if signal.getsignal(signal.SIGHUP) is not signal.SIG_IGN:
            obeyed.append(signal.SIGHUP)
        with anyio.open_signal_receiver(*obeyed) as signals:
            async with anyio.create_task_group() as tasks:
                async for number in signals:
                    name = signal.Signals(number).name
                    if supervisor.draining or not supervisor.is_ready:
                        log.warning("%s: ending at once", name)
                        scope.cancel()
                    else:
                        log.warning("%s: ending when open calls are answered, after %g s at most", name, drain_s)
                        tasks.start_soon(drain)


def _fail(error: PacelineError) -> int:
    sys.stderr.write(f"paceline: {error}\n")
    sys.stderr.flush()
    return 1
