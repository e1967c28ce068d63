"""Start one actor in a process of its own. Spawned, never forked; nothing is pickled.

The child's standard input carries the Setup and then stays open as its lifeline: when we are gone it ends. A session of
its own keeps the terminal's signals away from it, because only the supervisor decides who ends when.
"""

import asyncio
import asyncio.subprocess
import contextlib
import signal
import sys

import msgspec

from .actor import Setup


class Child:
    """A running actor process."""

    def __init__(self, setup: Setup, process: asyncio.subprocess.Process) -> None:
        self.setup = setup
        self.pid = process.pid
        self._process = process

    async def wait(self) -> int:
        """Its exit status once it has ended; negative = the signal that ended it."""
        return await self._process.wait()

    @property
    def returncode(self) -> int | None:
        """None while it runs."""
        return self._process.returncode

    def signal(self, number: signal.Signals) -> None:
        """Send a signal; a process that has ended is left alone."""
        with contextlib.suppress(ProcessLookupError):
            self._process.send_signal(number)

    def release(self) -> None:
        """Close our end of the lifeline; a child that still runs ends by itself."""
        if self._process.stdin is not None:
            self._process.stdin.close()


async def spawn(setup: Setup) -> Child:
    """Start the process for ``setup`` and hand it over. Returns before the actor is ready."""
    process = await asyncio.create_subprocess_exec(
        sys.executable,
        "-P",
        "-m",
        f"{__package__}.actor_main",
        stdin=asyncio.subprocess.PIPE,
        stdout=sys.stderr.fileno() if _has_fileno() else None,
        start_new_session=True,
        pass_fds=[setup.socket_fd] if setup.socket_fd >= 0 else [],
    )
    assert process.stdin is not None
    process.stdin.write(msgspec.json.encode(setup) + b"\n")
    try:
        await process.stdin.drain()
    except ConnectionError:
        pass  # it died at once; ``wait`` tells how
    except BaseException:
        process.kill()
        raise
    return Child(setup, process)


def _has_fileno() -> bool:
    try:
        return sys.stderr.fileno() >= 0
    except (OSError, ValueError):
        return False


def death_cause(status: int) -> str:
    """An exit status in words."""
    if status >= 0:
        return f"exited with status {status}"
    try:
        name = signal.Signals(-status).name
    except ValueError:
        name = f"signal {-status}"
    hint = " (out of memory?)" if name == "SIGKILL" else ""
    return f"was ended by {name}{hint}"
