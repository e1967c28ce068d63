"""Starting, stopping, dying, and being told nonsense: what the processes leave behind and what they say."""

import json
import os
import signal
import socket
import subprocess
import sys
import threading
import time
from pathlib import Path
from typing import Any

import psutil
import pytest
from server import Server, free_port, paceline_command
from wire_client import completion, eventually, get, metrics, post, ready

pytestmark = pytest.mark.e2e


def socket_folders(server: Server) -> set[Path]:
    """Folders of the unix sockets that the server's processes have bound."""
    paths = {c.laddr for p in server.processes() for c in p.net_connections("unix") if c.laddr}
    return {Path(str(p)).parent for p in paths if str(p).startswith("/")}


def gone(pids: list[int]) -> bool:
    return not any(psutil.pid_exists(p) and psutil.Process(p).status() != psutil.STATUS_ZOMBIE for p in pids)


def test_sigterm_drains_and_leaves_nothing(serve: Any) -> None:
    with serve() as server:
        pids, folders = [p.pid for p in server.processes()], socket_folders(server)
        assert len(pids) == 6 and folders  # the tokenizer's chat template is the sixth
        assert all(os.stat(f).st_mode & 0o777 == 0o700 for f in folders)
        answers: list[dict[str, Any]] = []
        call = threading.Thread(
            target=lambda: answers.append(completion(server.url, [1, 2, 3], max_tokens=200, ignore_eos=True))
        )
        call.start()
        eventually(lambda: metrics(server.url).get("vllm:num_requests_running", 0) > 0 or not call.is_alive(), 10)
        server.process.send_signal(signal.SIGTERM)
        call.join(30)
        assert len(answers) == 1 and len(answers[0]["token_ids"]) == 200
        assert server.process.wait(15) == 0
        assert gone(pids)
        assert not [f for f in folders if f.exists()]


def test_a_killed_parent_takes_all_with_it(serve: Any) -> None:
    with serve() as server:
        pids = [p.pid for p in server.processes()]
        os.kill(server.process.pid, signal.SIGKILL)
        server.process.wait()
        eventually(lambda: gone(pids), 5)
        with socket.socket() as s:
            s.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)  # closed connections may linger
            s.bind(("127.0.0.1", int(server.url.rsplit(":", 1)[1])))


def test_idle_processes_burn_no_cpu(server: Server) -> None:
    completion(server.url, [1, 2, 3], max_tokens=8)
    time.sleep(1.0)

    def burnt() -> float:
        return sum(sum(p.cpu_times()[:2]) for p in server.processes())

    begun = burnt()
    time.sleep(3.0)
    assert burnt() - begun < 0.15


def test_a_client_that_leaves_frees_its_blocks(server: Server) -> None:
    total = ready(server.url)["total_blocks"]
    host, port = server.url.removeprefix("http://").split(":")
    body = json.dumps({"prompt": [5] * 100, "max_tokens": 400, "ignore_eos": True, "stream": True, "n": 4}).encode()
    for _ in range(3):
        with socket.create_connection((host, int(port))) as s:
            head = f"Host: x\r\nContent-Type: application/json\r\nContent-Length: {len(body)}\r\n"
            s.sendall(f"POST /v1/completions HTTP/1.1\r\n{head}\r\n".encode() + body)
            assert b"data: " in s.recv(65536) + s.recv(65536)
        eventually(lambda: ready(server.url)["running"] == 0, 2)
        eventually(lambda: ready(server.url)["free_blocks"] == total, 2)
    assert len(completion(server.url, [1, 2, 3], max_tokens=8, ignore_eos=True)["token_ids"]) == 8


@pytest.mark.parametrize("actor", ["target", "scheduler", "tokenizer"])
def test_an_actor_that_dies_comes_back_and_no_call_fails(serve: Any, actor: str) -> None:
    with serve() as server:
        before = completion(server.url, [9, 8, 7], max_tokens=12, temperature=0, ignore_eos=True)["token_ids"]
        outcome: list[Any] = []
        body = {"prompt": [1, 2, 3], "max_tokens": 450, "temperature": 0, "ignore_eos": True}
        call = threading.Thread(target=lambda: outcome.append(post(f"{server.url}/v1/completions", body)))
        call.start()
        time.sleep(0.15)
        os.kill(ready(server.url)["actors"][actor]["pid"], signal.SIGKILL)
        call.join(30)
        assert len(outcome) == 1
        code, answer = outcome[0]
        assert code == 200 and answer["usage"]["completion_tokens"] == 450, answer
        eventually(lambda: ready(server.url)["actors"][actor]["restarts"] == 1, 20)  # the call may end before the death
        eventually(lambda: get(f"{server.url}/ready")[0] == 200, 20)
        after = completion(server.url, [9, 8, 7], max_tokens=12, temperature=0, ignore_eos=True)["token_ids"]
        assert after == before


def refused(*command: str, env: dict[str, str] | None = None, within: float = 8.0) -> str:
    """The one line with which a command fails."""
    begun = time.monotonic()
    paceline = str(Path(sys.executable).parent / "paceline")
    done = subprocess.run(
        [paceline, *command], capture_output=True, text=True, timeout=60, env=os.environ | (env or {})
    )
    assert time.monotonic() - begun < within
    assert done.returncode not in (0, -11, 139), done
    assert "Traceback" not in done.stderr + done.stdout
    lines = [x for x in done.stderr.strip().splitlines() if x.strip()]
    assert lines, done
    return lines[-1]


def test_a_log_that_nobody_takes_fails_no_call(tiny_folder: Path) -> None:
    port = free_port()
    command = paceline_command(str(tiny_folder), port, ["-s", "cache.num_blocks=64"])
    with Server(command, port, log=Path("/dev/full")) as server:
        server.wait(timeout=60)
        for _ in range(3):
            status, _ = post(f"{server.url}/v1/completions", {"prompt": [5, 6], "max_tokens": 2})
            assert status == 200
        eventually(lambda: metrics(server.url).get("paceline_log_lines_lost_total", 0) >= 3)
    assert server.process.returncode == 0


def test_busy_port_names_port_and_owner(server: Server, tiny_folder: Path) -> None:
    port = server.url.rsplit(":", 1)[1]
    line = refused("serve", str(tiny_folder), "--port", port)
    assert f"port {port}" in line and f"pid {server.process.pid} (paceline serve)" in line and "--port" in line


def test_bad_toml_names_file_and_line(tmp_path: Path) -> None:
    path = tmp_path / "serve.toml"
    path.write_text("[server]\nprot = 8000\n")
    for command in (("serve", "--config", str(path)), ("check", str(path))):
        line = refused(*command, within=3.0)
        assert "serve.toml:2" in line and 'did you mean "port"' in line


@pytest.mark.parametrize("cut", [0, 8, 1000, -1])
def test_truncated_gguf_is_one_line(tmp_path: Path, tiny_gguf: Path, cut: int) -> None:
    path = tmp_path / "broken.gguf"
    path.write_bytes(tiny_gguf.read_bytes()[:cut])
    assert "broken.gguf" in refused("serve", str(path), "--port", str(free_port()))


def test_unknown_model_names_neighbours() -> None:
    assert "smollm2:135m" in refused("serve", "smolm2:135m", "--port", str(free_port()))


def test_command_line_refuses_remote_code_and_unknown_flags(tiny_folder: Path) -> None:
    assert "remote code" in refused("serve", str(tiny_folder), "--trust-remote-code", within=3.0)
    assert "--port" in refused("serve", str(tiny_folder), "--prot", "1", within=3.0)


def test_a_gguf_serves_with_its_own_tokenizer_and_template(serve: Any, tiny_gguf: Path) -> None:
    with serve(model=tiny_gguf) as server:
        body = {"messages": [{"role": "user", "content": "hello there"}], "max_tokens": 8, "temperature": 0}
        code, answer = post(f"{server.url}/v1/chat/completions", body)
        assert code == 200 and answer["usage"]["completion_tokens"] >= 1


def test_paceline_command_is_the_installed_one() -> None:
    assert Path(paceline_command("m", 1)[0]).exists()
