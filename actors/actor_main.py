"""Where a spawned actor's process begins: ``python -P -m paceline.actors.actor_main``, set up through standard input.

The role's module is imported here and nowhere else in the process tree: only the target's process pays for torch.
"""

import contextlib
import ctypes
import logging
import os
import shutil
import signal
import sys
import threading
import time
from importlib import import_module
from typing import NoReturn

import anyio
import msgspec

from . import logs
from .actor import Actor, Setup
from .wire import role_of
from .zmq_mailbox import ZmqMailbox

ROLES = {
    "gateway": ".http.gateway:Gateway",
    "tokenizer": ".tokenizer:Tokenizer",
    "scheduler": ".scheduler:SchedulerActor",
    "target": ".target:Target",
    "draft": ".draft:Draft",
}
_PR_SET_PDEATHSIG = 1
_FINISH_S = 10.0


def main() -> int:
    """Read the Setup, tie our life to the parent's, and run the actor."""
    setup = _read_setup()
    lines = logs.set_up(setup.actor, setup.log_level, setup.config.server.log_format)
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # the terminal's Ctrl-C is the supervisor's to answer
    _die_with_parent(setup)
    return anyio.run(_run, setup, lines)


async def _run(setup: Setup, lines: logs.Lines) -> int:
    mailbox = ZmqMailbox(setup.actor, setup.epoch, setup.folder, setup.epochs)
    try:
        actor = _load(setup)(setup, mailbox)
        actor.lines = lines
    except BaseException:
        mailbox.close()
        raise
    return await actor.run()


def _load(setup: Setup) -> type[Actor]:
    module, _, name = (setup.entry or ROLES[role_of(setup.actor)]).partition(":")
    return getattr(import_module(module, __package__), name)


def _read_setup() -> Setup:
    data = bytearray()
    while not data.endswith(b"\n"):
        chunk = os.read(0, 65536)
        if not chunk:
            raise SystemExit("an actor is started by the supervisor, not by hand; run: paceline serve")
        data += chunk
    return msgspec.json.decode(bytes(data), type=Setup)


def _die_with_parent(setup: Setup) -> None:
    """End when standard input ends, whatever the event loop is doing, and leave no socket file behind.

    An actor that may hang inside a device call is killed by the kernel as well; the others clean up for it.
    """
    if role_of(setup.actor) in ("target", "draft") and sys.platform == "linux":
        ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)

    def watch() -> None:
        with contextlib.suppress(OSError):  # a reset is an end, too
            while os.read(0, 4096):
                pass
        shutil.rmtree(setup.folder, ignore_errors=True)
        os._exit(1)

    threading.Thread(target=watch, name="lifeline", daemon=True).start()


def _leave(status: int) -> NoReturn:
    """End the process without taking the interpreter down, once all that has to be released is.

    A thread that is inside a torch operation then comes back to an interpreter that has ended, which unwinds it through
    C++ frames that allow no such thing: "terminate called without an active exception", and a core file. Threads that
    are no daemons are waited for, at most ``_FINISH_S``: whoever stops this process may have less patience.
    """
    until = time.monotonic() + _FINISH_S
    for thread in threading.enumerate():  # such as the one that keeps packed weights for the next start
        if not thread.daemon and thread is not threading.current_thread():
            thread.join(max(0.0, until - time.monotonic()))
    logging.shutdown()
    for stream in (sys.stdout, sys.stderr):
        with contextlib.suppress(OSError, ValueError):  # a closed log pipe
            stream.flush()
    os._exit(status)


if __name__ == "__main__":
    _leave(main())
