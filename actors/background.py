"""Work that may take long and must slow nobody down: a thread of its own, at the lowest priority.

Linux shares cores among sessions before it looks at threads (autogroup in sched(7)), and an actor has a session to
itself: a thread that asks for less within it would still get as much as the busiest neighbour. So for as long as such
work lasts its whole process counts for little.
"""

import asyncio
import contextlib
import os
import sys
import threading
import time
from collections.abc import Callable, Iterator
from typing import TypeVar

T = TypeVar("T")

_LOWEST = 19
_AUTOGROUP = "/proc/self/autogroup"
_SETTLE_S = 2.0


async def run_in_background(work: Callable[[], T]) -> T:
    """``work``'s result. On Linux its thread gets a core only while nobody else wants one; threads it starts, too.

    For actors only: the process stands back as a whole, so it should have nothing else to do meanwhile. Cancelling does
    not end the thread; it is a daemon and ends with the process at the latest.
    """
    loop = asyncio.get_running_loop()
    done: asyncio.Future[T] = loop.create_future()

    def settle(result: T | None, error: BaseException | None) -> None:
        if done.done():
            return
        if error is not None:
            done.set_exception(error)
        else:
            done.set_result(result)  # pyright: ignore[reportArgumentType]

    def run() -> None:
        result, error = None, None
        try:
            with _low_priority():
                result = work()
        except BaseException as e:
            error = e
        with contextlib.suppress(RuntimeError):  # the loop is closed: the process is ending
            loop.call_soon_threadsafe(settle, result, error)

    threading.Thread(target=run, name="background", daemon=True).start()
    return await done


@contextlib.contextmanager
def _low_priority() -> Iterator[None]:
    """This thread's for good, its session's for the block."""
    if sys.platform != "linux":  # elsewhere priorities are the process's, and one that was lowered stays low
        yield
        return
    with contextlib.suppress(OSError):
        os.setpriority(os.PRIO_PROCESS, threading.get_native_id(), _LOWEST)
        os.sched_setscheduler(threading.get_native_id(), os.SCHED_IDLE, os.sched_param(0))
    own = os.getsid(0) == os.getpid()  # else others share it, as in a test
    if own:
        _set_session_nice(_LOWEST)
    try:
        yield
    finally:
        if own:
            _set_session_nice(0)


def _set_session_nice(nice: int) -> None:
    """A kernel without autogroups has no such file; one with them takes ten changes a second, of all users together."""
    until = time.monotonic() + _SETTLE_S
    while True:
        try:
            with open(_AUTOGROUP, "w") as file:
                file.write(str(nice))
            return
        except BlockingIOError:
            if time.monotonic() > until:
                return
            time.sleep(0.05)
        except OSError:
            return
