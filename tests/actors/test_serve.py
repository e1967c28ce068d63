"""A server from outside: ready line, signals, drain, busy port, murder. Roles are fakes that speak lines over TCP."""

import os
import re
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import msgspec
import psutil
import pytest
from fake_actors import SUPPORT, expected, text_of

from paceline.actors.listen import bind, url
from paceline.actors.messages import EngineState
from paceline.engine.errors import ConfigError

pytestmark = pytest.mark.e2e

Start = Callable[..., "Running"]


class Running:
    """A started server."""

    def __init__(self, process: "subprocess.Popen[str]", folder: Path) -> None:
        self.process = process
        self.folder = folder
        assert process.stdout is not None
        self.ready_line = process.stdout.readline()
        found = re.search(r"http://127\.0\.0\.1:(\d+)", self.ready_line)
        self.port = int(found[1]) if found else 0
        self.children = psutil.Process(process.pid).children(recursive=True) if self.port else []

    def connect(self) -> socket.socket:
        return socket.create_connection(("127.0.0.1", self.port), timeout=20)

    def ask(self, line: str) -> list[str]:
        """Lines of the answer."""
        with self.connect() as s:
            s.sendall(line.encode() + b"\n")
            lines: list[str] = []
            for answer in s.makefile():
                lines.append(answer.strip())
                if lines[-1] == "done" or lines[-1].startswith(("error", "[")):
                    break
            return lines

    def state(self) -> EngineState:
        return msgspec.json.decode(self.ask("state")[0], type=EngineState)

    def end(self, timeout_s: float = 15.0) -> tuple[int, str]:
        """Exit status and all of stderr."""
        _, err = self.process.communicate(timeout=timeout_s)
        return self.process.returncode, err

    def nothing_left(self) -> bool:
        alive = [c for c in self.children if c.is_running() and c.status() != psutil.STATUS_ZOMBIE]
        return not alive and not list(self.folder.glob("paceline-*"))


@pytest.fixture
def start(tmp_path: Path) -> Iterator[Start]:
    """``start(drain_s, FAKE_X=...)``: a server with sockets below ``tmp_path``."""
    servers: list[Running] = []

    def begin(drain_s: float = 10.0, port: int = 0, **env: str) -> Running:
        command = [sys.executable, "-P", os.path.join(SUPPORT, "serve_fakes.py"), str(port), str(drain_s)]
        process = subprocess.Popen(
            command,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            env=os.environ | {"PYTHONPATH": SUPPORT, "TMPDIR": str(tmp_path)} | env,
        )
        servers.append(Running(process, tmp_path))
        return servers[-1]

    yield begin
    for server in servers:
        server.process.kill()
        server.process.communicate()
        eventually(server.nothing_left)


def eventually(condition: Callable[[], bool], timeout_s: float = 5.0) -> None:
    end_s = time.monotonic() + timeout_s
    while not condition():
        assert time.monotonic() < end_s, "not in time"
        time.sleep(0.02)


def in_background(server: Running, line: str) -> tuple[threading.Thread, list[Any]]:
    outcome: list[Any] = []

    def run() -> None:
        try:
            outcome.append(server.ask(line))
        except OSError as e:
            outcome.append(e)

    thread = threading.Thread(target=run)
    thread.start()
    return thread, outcome


def test_it_says_that_it_is_ready_answers_and_drains(start: Start) -> None:
    server = start(FAKE_STEP_S="0.01")
    assert re.fullmatch(
        r"paceline serves .+ at http://127\.0\.0\.1:\d+ \(ready in \d+\.\d s, 64 KV blocks of 4 tokens\)\n",
        server.ready_line,
    )
    assert "".join(x + " " for x in server.ask("7 20")[:-1]) == text_of(expected([7], 20))
    assert server.state().state == "ok"
    call, outcome = in_background(server, "9 100")
    time.sleep(0.3)
    server.process.send_signal(signal.SIGTERM)
    call.join(20)
    [lines] = outcome
    assert lines[-1] == "done" and "".join(x + " " for x in lines[:-1]) == text_of(expected([9], 100))
    code, err = server.end()
    assert code == 0 and err == "WARNING supervisor: SIGTERM: ending when open calls are answered, after 10 s at most\n"
    assert server.nothing_left()


def test_a_terminal_that_goes_away_ends_it_in_order(start: Start) -> None:
    server = start()
    server.process.send_signal(signal.SIGHUP)
    code, err = server.end()
    assert code == 0 and err.startswith("WARNING supervisor: SIGHUP: ") and server.nothing_left()


def test_under_nohup_it_outlives_its_terminal(start: Start) -> None:
    before = signal.signal(signal.SIGHUP, signal.SIG_IGN)  # as nohup has it; children inherit it
    try:
        server = start()
    finally:
        signal.signal(signal.SIGHUP, before)
    server.process.send_signal(signal.SIGHUP)
    assert server.ask("7 5")[-1] == "done"


@pytest.mark.parametrize("how", ["no drain", "second signal"])
def test_it_ends_at_once_when_told_so(start: Start, how: str) -> None:
    server = start(0.0 if how == "no drain" else 60.0, FAKE_STEP_S="0.1")
    call, outcome = in_background(server, "9 100")
    time.sleep(0.3)
    begun_s = time.monotonic()
    server.process.send_signal(signal.SIGINT)
    if how == "second signal":
        time.sleep(0.3)
        assert server.process.poll() is None
        server.process.send_signal(signal.SIGINT)
    assert server.end()[0] == 0
    assert time.monotonic() - begun_s < 4.0
    call.join(5)
    assert outcome and server.nothing_left()


def test_a_stopped_child_does_not_hold_up_the_end(start: Start) -> None:
    server = start()
    pid = next(a.pid for a in server.state().actors if a.name == "scheduler")
    os.kill(pid, signal.SIGSTOP)
    server.process.send_signal(signal.SIGTERM)
    assert server.end()[0] == 0
    assert server.nothing_left()


def test_a_murdered_parent_takes_everything_with_it(start: Start) -> None:
    server = start()
    assert list(server.folder.glob("paceline-*/*.sock"))
    server.process.kill()
    server.process.wait()
    eventually(server.nothing_left)
    with socket.socket() as s:
        s.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)  # closed connections may linger
        s.bind(("127.0.0.1", server.port))


def test_a_signal_while_it_starts_ends_it(start: Start, tmp_path: Path) -> None:
    threading.Timer(1.0, lambda: kill_youngest(tmp_path)).start()
    server = start(FAKE_TARGET_FAULT="slow")  # returns when the process ends
    assert server.ready_line == ""
    assert server.end()[0] == 0
    assert not list(tmp_path.glob("paceline-*"))


def kill_youngest(tmp_path: Path) -> None:
    for child in psutil.Process().children():
        child.send_signal(signal.SIGTERM)


def test_the_gateway_comes_back_on_the_same_port(start: Start) -> None:
    server = start()
    os.kill(next(a.pid for a in server.state().actors if a.name == "gateway"), signal.SIGKILL)

    def back() -> bool:
        try:
            state = server.state()
        except (OSError, IndexError):
            return False
        return state.state == "ok" and [a.restarts for a in state.actors if a.name == "gateway"] == [1]

    eventually(back)
    assert server.ask("7 5")[-1] == "done"


def test_a_crash_loop_keeps_the_gateway_and_names_the_cause(start: Start, tmp_path: Path) -> None:
    server = start(FAKE_RESTART_DELAY_S="0.05")
    victim = "tokenizer"
    deaths = 0
    while (state := server.state()).state != "failed" and deaths < 10:
        pid = next(a.pid for a in state.actors if a.name == victim)
        if pid:
            os.kill(pid, signal.SIGKILL)
            deaths += 1
            eventually(lambda pid=pid: server.state().actors[1].pid != pid)
    assert state.state == "failed" and deaths == 5
    assert state.error is not None and state.error.startswith("tokenizer: the process was ended by SIGKILL")


@pytest.mark.parametrize("fault", ["bad file", "crash"])
def test_a_failed_start_prints_its_cause_last(start: Start, fault: str) -> None:
    server = start(FAKE_TARGET_FAULT=fault)
    code, err = server.end()
    last = err.strip().splitlines()[-1]
    assert code == 1
    assert ("ends at byte 7 of 4096" if fault == "bad file" else "RuntimeError: boom") in last
    assert ("Traceback" in err) == (fault == "crash")  # a bug is worth one, a bad file is not


def test_a_busy_port_is_told_with_its_owner_before_anything_starts(start: Start) -> None:
    with bind("127.0.0.1", 0) as mine:
        port = mine.getsockname()[1]
        begun_s = time.monotonic()
        server = start(port=port)
        code, err = server.end()
        assert time.monotonic() - begun_s < 2.0
        assert code == 1
        assert err.startswith(f"paceline: port {port} on 127.0.0.1 is in use by pid {os.getpid()} (")
        assert err.endswith("stop it or pass --port\n") and err.count("\n") == 1
        assert url(mine) == f"http://127.0.0.1:{port}"


def test_a_host_that_is_not_ours_is_a_config_error() -> None:
    with pytest.raises(ConfigError, match=r"192\.0\.2\.1 cannot be opened"):
        bind("192.0.2.1", 0)
    with pytest.raises(ConfigError, match="is not an address"):
        bind("no such host", 0)


def test_idle_processes_burn_no_cpu(start: Start) -> None:
    server = start()
    server.ask("7 5")
    time.sleep(0.5)
    processes = [psutil.Process(server.process.pid), *server.children]

    def burnt() -> float:
        return sum(p.cpu_times().user + p.cpu_times().system for p in processes)

    begun = burnt()
    time.sleep(2.0)
    assert burnt() - begun < 0.08
