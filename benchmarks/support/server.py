"""Start a server process, wait until it can answer, and stop it again with all it started."""

import os
import signal
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from types import TracebackType

import psutil


def free_port() -> int:
    """A TCP port nobody listens on just now."""
    with socket.socket() as s:
        s.bind(("127.0.0.1", 0))
        return int(s.getsockname()[1])


def status(url: str, timeout: float = 5.0) -> int:
    """HTTP status of a GET, 0 when nobody answers."""
    try:
        with urllib.request.urlopen(url, timeout=timeout) as answer:
            return int(answer.status)
    except urllib.error.HTTPError as e:
        return e.code
    except (OSError, TimeoutError):
        return 0


def paceline_command(model: str, port: int | str, extra: Sequence[str] = ()) -> list[str]:
    """The command that serves ``model`` with the interpreter running this script."""
    return [str(Path(sys.executable).parent / "paceline"), "serve", model, "--port", str(port), *extra]


def exit_on_sigterm() -> None:
    """Make SIGTERM an exit through ``with`` and ``finally``: servers must not outlive who started them."""
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))


@contextmanager
def sigterm_waits() -> Iterator[None]:
    """SIGTERM is answered at the end of the block: a process must not be lost between its start and its being known."""
    seen: list[int] = []
    before = signal.signal(signal.SIGTERM, lambda number, _: seen.append(number))
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)
        if seen:
            signal.raise_signal(signal.SIGTERM)


class Server:
    """A child process with an HTTP port; ``with`` it, and it is gone afterwards."""

    def __init__(self, command: Sequence[str], port: int, ready_path: str = "/ready", log: Path | None = None) -> None:
        self.url = f"http://127.0.0.1:{port}"
        self.ready_path = ready_path
        self.started = time.monotonic()
        self.output = log.open("wb") if log else subprocess.DEVNULL
        self.process = subprocess.Popen(command, stdout=self.output, stderr=subprocess.STDOUT, start_new_session=True)

    def wait(self, path: str | None = None, timeout: float = 180.0) -> float:
        """Seconds from the start until ``path`` answers 200.

        Raises:
            RuntimeError: the process ended or the time is over.
        """
        while time.monotonic() - self.started < timeout:
            if self.process.poll() is not None:
                raise RuntimeError(f"{self.process.args} ended with {self.process.returncode} before it was ready")
            if status(self.url + (path or self.ready_path)) == 200:
                return time.monotonic() - self.started
            time.sleep(0.02)
        raise RuntimeError(f"{self.process.args} was not ready after {timeout:g} s")

    def processes(self) -> list[psutil.Process]:
        """The server's process and all below it."""
        parent = psutil.Process(self.process.pid)
        return [parent, *parent.children(recursive=True)]

    def memory(self) -> dict[str, int]:
        """Proportional set size in bytes of each process, keyed by its command line's end."""
        return {f"{p.pid} {' '.join(p.cmdline()[-2:])[-40:]}": p.memory_full_info().pss for p in self.processes()}

    def stop(self, timeout: float = 15.0) -> float:
        """Seconds until the process ended after SIGTERM (SIGKILL after ``timeout``)."""
        begun = time.monotonic()
        if self.process.poll() is None:
            self.process.send_signal(signal.SIGTERM)
            try:
                self.process.wait(timeout)
            except subprocess.TimeoutExpired:
                os.killpg(self.process.pid, signal.SIGKILL)
                self.process.wait()
        return time.monotonic() - begun

    def __enter__(self) -> "Server":
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.stop()
        if not isinstance(self.output, int):
            self.output.close()
