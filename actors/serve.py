"""``paceline serve`` below its command line: port, supervisor, signals, and the lines a person reads."""

import logging
import signal
import socket
import sys
import time
from collections.abc import Callable, Mapping

import anyio
import msgspec

from ..engine.config import Config
from ..engine.errors import BadModelFileError, ConfigError, PacelineError, StoreError
from ..engine.store.located import Located, ModelCard
from .actor import root_cause
from .draft_files import find_drafter
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
) -> int:
    """Serve until a signal; the process's exit code. A failure's root cause is the last line on stderr.

    The first SIGINT, SIGTERM or SIGHUP (unless ``nohup`` has that ignored) drains for ``server.shutdown_timeout_s``, a
    second one ends at once. ``entries`` replaces roles by ``module:Class``, for tests.
    """
    try:
        drafter = find_drafter(config)
        with bind(config.server.host, config.server.port) as listener, private_folder() as folder:
            supervisor = Supervisor(
                config, located, card, ACTORS, folder, listener=listener, entries=entries, drafter=drafter
            )
            return anyio.run(_serve, config, supervisor, listener, on_ready or announce)
    except (ConfigError, StoreError, BadModelFileError) as e:
        return _fail(e)


def announce(ready: Ready) -> None:
    """The one line that says that the engine serves."""
    blocks = ""
    if ready.target is not None:
        blocks = f", {ready.target.num_blocks} KV blocks of {ready.target.block_size} tokens"
    sys.stdout.write(f"paceline serves {ready.model} at {ready.url} (ready in {ready.load_s:.1f} s{blocks})\n")
    sys.stdout.flush()


async def _serve(
    config: Config, supervisor: Supervisor, listener: socket.socket, on_ready: Callable[[Ready], None]
) -> int:
    begun_s = time.monotonic()
    try:
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(_obey_signals, supervisor, config.server.shutdown_timeout_s, tasks.cancel_scope)
            await tasks.start(supervisor.run)
            name = config.server.served_model_name or config.model
            on_ready(Ready(url(listener), name, time.monotonic() - begun_s, supervisor.target_hello))
    except BaseExceptionGroup as group:
        cause = root_cause(group)
        if not isinstance(cause, PacelineError):
            raise
        return _fail(cause)
    return 0


async def _obey_signals(supervisor: Supervisor, drain_s: float, scope: anyio.CancelScope) -> None:
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
