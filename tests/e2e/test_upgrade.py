"""A newer server takes the port over under load, and back: nobody's call fails; what cannot start changes nothing."""

import json
import os
import socket
import subprocess
import sys
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import httpx
import pytest
from server import Server, paceline_command
from wire_client import eventually, ready

from paceline.actors import handover

pytestmark = pytest.mark.e2e

CALLS: list[dict[str, Any]] = [
    {"prompt": [9 + i, 20, 30], "max_tokens": 300 + i, "ignore_eos": True, "seed": i, "temperature": i % 2}
    for i in range(8)
]


def stream(url: str, body: dict[str, Any]) -> str:
    with httpx.stream("POST", f"{url}/v1/completions", json=body | {"stream": True}, timeout=60) as answer:
        assert answer.status_code == 200, answer.read()
        lines = [x.removeprefix("data: ") for x in answer.iter_lines() if x]
    assert lines[-1] == "[DONE]", lines[-1]
    return "".join(json.loads(line)["choices"][0]["text"] for line in lines[:-1])


class Callers:
    """Short calls without a pause, each caller's on connections that are kept open."""

    def __init__(self, url: str) -> None:
        self.statuses: list[int] = []
        self._url = url
        self._is_over = threading.Event()
        self._threads = [threading.Thread(target=self._call) for _ in range(3)]

    def __enter__(self) -> "Callers":
        for thread in self._threads:
            thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._is_over.set()
        for thread in self._threads:
            thread.join()

    def _call(self) -> None:
        with httpx.Client(base_url=self._url, timeout=60) as client:
            while not self._is_over.is_set():
                answer = client.post("/v1/completions", json={"prompt": [5], "max_tokens": 1})
                self.statuses.append(answer.status_code)


@contextmanager
def upgraded(old: Server, log: Path, *words: str) -> Iterator[Server]:
    """``paceline upgrade`` at the old server's port, once its gateway answers."""
    port, before = old.url.rpartition(":")[2], ready(old.url)["actors"]["gateway"]["pid"]
    command = [str(Path(sys.executable).parent / "paceline"), "upgrade", "--port", port, *words]
    with Server(command, int(port), log=log) as newer:
        eventually(lambda: ready(old.url)["actors"]["gateway"]["pid"] != before or newer.process.poll() is not None)
        assert newer.process.poll() is None, log.read_text()
        yield newer


def test_no_call_fails_over_an_upgrade_and_the_way_back(serve: Any, tmp_path: Path) -> None:
    with serve("-s", "server.shutdown_timeout_s=60") as old, ThreadPoolExecutor(len(CALLS)) as pool:
        alone = list(pool.map(lambda body: stream(old.url, body), CALLS))
        with Callers(old.url) as callers:
            first = [pool.submit(stream, old.url, body) for body in CALLS]
            with upgraded(old, tmp_path / "new.log") as new:
                assert [future.result() for future in first] == alone
                assert old.process.wait(30) == 0
                second = [pool.submit(stream, old.url, body) for body in CALLS]
                with upgraded(new, tmp_path / "back.log", *_words(old)):
                    assert [future.result() for future in second] == alone
                    assert new.process.wait(30) == 0
                    callers.__exit__()
                    assert len(callers.statuses) > 20
                    assert set(callers.statuses) == {200}
        assert "goes on" not in (tmp_path / "new.log").read_text()


def _words(server: Server) -> list[str]:
    """What its command line says besides the port."""
    words = [str(word) for word in server.process.args][2:]  # type: ignore[union-attr]
    at = words.index("--port")
    return words[:at] + words[at + 2 :]


def test_what_cannot_start_leaves_the_old_server_as_it_was(serve: Any) -> None:
    with serve() as old:
        port, pid = old.url.rpartition(":")[2], old.process.pid
        told = upgrade(port, *_words(old), "-s", "target.max_model_len=-1")
        assert (told.returncode, told.stderr) == (1, "paceline: target.max_model_len = -1: must be at least 0\n")
        for words in (["no-such-model"], [*_words(old), "-s", "cache.num_blocks=0", "-s", "cache.max_bytes=1"]):
            told = upgrade(port, *words)
            assert told.returncode == 1
            assert told.stderr.strip().endswith(f"pid {pid} goes on serving"), told.stderr
            assert "Traceback" not in told.stderr
        assert stream(old.url, CALLS[0])
        assert old.process.poll() is None


def upgrade(port: str, *words: str) -> "subprocess.CompletedProcess[str]":
    command = [str(Path(sys.executable).parent / "paceline"), "upgrade", "--port", port, *words]
    return subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)


def test_one_at_a_time_and_strangers_nonsense_changes_nothing(serve: Any) -> None:
    with serve() as old:
        port, pid = int(old.url.rpartition(":")[2]), old.process.pid
        for nonsense in (b"", b"\n", b"{}\n", b"\xff" * 70_000, b'{"type":"Retire"}\n'):
            with socket.socket(socket.AF_UNIX) as control:
                control.connect(_control(pid))
                control.sendall(nonsense)
        with handover.take(port) as taken:
            assert (taken.pid, taken.cwd) == (pid, os.getcwd())
            assert taken.listener.getsockname()[1] == port
            assert upgrade(str(port)).returncode == 1
            with socket.socket(socket.AF_UNIX) as control:
                control.connect(_control(pid))
                control.sendall(b'{"type":"Ask","pid":7}\n')
                assert f"pid {os.getpid()} is taking over from pid {pid}" in control.recv(4096).decode()
        eventually(lambda: _is_free_again(port))
        assert stream(old.url, CALLS[0])


def _is_free_again(port: int) -> bool:
    """The old one has seen that we hung up."""
    try:
        handover.take(port).close()
    except handover.PacelineError:
        return False
    return True


def _control(pid: int) -> str:
    import psutil

    paths = [str(c.laddr) for c in psutil.Process(pid).net_connections("unix")]
    return next(path for path in paths if path.endswith("/control"))


def test_a_port_of_somebody_else_is_left_alone() -> None:
    with socket.socket() as stranger:
        stranger.bind(("127.0.0.1", 0))
        stranger.listen()
        told = upgrade(str(stranger.getsockname()[1]))
    assert told.returncode == 1
    assert "which is no paceline server" in told.stderr
    told = upgrade(str(stranger.family and 9))
    assert told.returncode == 1
    assert "no server of yours listens on port 9" in told.stderr


def test_a_newer_server_is_told_apart_from_a_used_port(serve: Any, tiny_folder: Path) -> None:
    with serve() as old:
        told = subprocess.run(
            paceline_command(str(tiny_folder), old.url.rpartition(":")[2]), capture_output=True, text=True, timeout=30
        )
    assert told.returncode == 1
    assert "replace it with paceline upgrade" in told.stderr
