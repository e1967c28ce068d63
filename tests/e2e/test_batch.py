"""``paceline batch`` with real processes: an engine of its own, a running server, death and Ctrl-C in the middle."""

import json
import os
import pty
import signal
import subprocess
from pathlib import Path
from typing import Any

import psutil
import pytest
from command import PACELINE, environment, paceline
from server import Server
from wire_client import eventually

pytestmark = pytest.mark.e2e
SMALL = ["-s", "cache.num_blocks=512", "-s", "target.max_model_len=512", "-s", "target.num_threads=1"]
NUM = 120


@pytest.fixture
def env(tmp_path: Path) -> dict[str, str]:
    """A home of its own and no network."""
    return environment(tmp_path, HF_HUB_OFFLINE="1", XDG_CACHE_HOME=str(tmp_path / "cache"), PYTHONWARNINGS="default")


def request(custom_id: str, url: str, **body: Any) -> str:
    return json.dumps({"custom_id": custom_id, "method": "POST", "url": url, "body": body})


def batch(path: Path, max_tokens: int = 40, **more: Any) -> Path:
    """Chats, completions and vectors, and two lines that are wrong in the middle."""
    lines = []
    for i in range(NUM):
        common = {"max_tokens": max_tokens, "temperature": 0, "ignore_eos": True} | more
        match i % 3:
            case 0:
                chat = [{"role": "user", "content": f"hello {i}"}]
                lines.append(request(f"r{i}", "/v1/chat/completions", messages=chat, **common))
            case 1:
                lines.append(request(f"r{i}", "/v1/completions", prompt=f"hello {i}", **common))
            case _:
                lines.append(request(f"r{i}", "/v1/embeddings", input=[f"hello {i}", "x"], **more))
    lines[60:60] = ["nonsense", request("bad", "/v1/completions", prompt="x", temperature=9)]
    path.write_text("\n".join(lines) + "\n")
    return path


def answers(path: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in path.read_text().splitlines()]


def by_id(path: Path) -> dict[str, Any]:
    """What was answered, without what differs from run to run."""
    found: dict[str, Any] = {}
    for row in answers(path):
        if row["custom_id"] is not None:
            assert row["custom_id"] not in found, "answered twice"
            body = row["response"]["body"]
            what = body.get("choices") or body.get("data") or body["error"]["param"]
            found[row["custom_id"]] = (row["response"]["status_code"], what)
    return found


def num_lines(path: Path) -> int:
    return path.read_bytes().count(b"\n") if path.exists() else 0


def test_kill_9_and_ctrl_c_lose_nothing(tiny_folder: Path, tmp_path: Path, env: dict[str, str], serve: Any) -> None:
    """Whole, killed and cut short runs over the engine and over a server give the same answers, each once."""
    file, out = batch(tmp_path / "a.jsonl"), tmp_path / "a.out.jsonl"
    command = [PACELINE, "batch", str(file), "--model", str(tiny_folder), *SMALL]
    for number, status in ((signal.SIGKILL, -9), (signal.SIGINT, 130)):
        before = num_lines(out)
        with subprocess.Popen(command, env=env, stderr=subprocess.PIPE, text=True) as process:
            eventually(lambda before=before: num_lines(out) > before + 10, seconds=60)
            actors = psutil.Process(process.pid).children(recursive=True)
            process.send_signal(number)
            _, err = process.communicate(timeout=20)
        assert process.returncode == status and "Traceback" not in err, err
        assert psutil.wait_procs(actors, timeout=10)[1] == []
        assert before < num_lines(out) < NUM + 2, "the signal came too late to prove anything"
    assert "the same command goes on" in err
    with out.open("ab") as torn:
        torn.write(b'{"id":"batch_req_0123","custom_id":"r')
    last = paceline(*command[1:], env=env, timeout=120)
    assert last.returncode == 1 and f"are in {out} already" in last.stderr, last.stderr
    assert "2 lines of" in last.stderr.splitlines()[-1]
    found = by_id(out)
    assert len(found) == NUM + 1 and num_lines(out) == NUM + 2
    assert found["bad"] == (400, "temperature") and {s for i, (s, _) in found.items() if i != "bad"} == {200}
    [bad] = [row for row in answers(out) if row["custom_id"] is None]
    assert bad["response"] is None and bad["error"]["line"] == 61

    with serve("--served-model-name", "other", "--api-key", "sk-1", model=tiny_folder) as server:
        over_http = tmp_path / "http.jsonl"
        words = ["batch", str(file), "-o", str(over_http), "--url", f"{server.url}/v1", "--model", "other"]
        refused = paceline(*words, env=env)
        assert refused.returncode == 1 and "refuses the key" in refused.stderr
        assert paceline(*words, env=env | {"PACELINE_API_KEY": "sk-1"}).returncode == 1
    assert by_id(over_http) == found


def test_each_line_may_name_its_model(tiny_folder: Path, tmp_path: Path, env: dict[str, str]) -> None:
    file, out = tmp_path / "a.jsonl", tmp_path / "b.jsonl"
    lines = [request("a", "/v1/embeddings", input="x", model=str(tiny_folder)),
             request("b", "/v1/embeddings", input="x", model="no-such-model")]  # fmt: skip
    file.write_text("\n".join(lines))
    done = paceline("batch", str(file), "-o", str(out), *SMALL, env=env)
    assert done.returncode == 1, done.stderr
    a, b = sorted(answers(out), key=lambda row: row["custom_id"])
    assert a["response"]["status_code"] == 200 and a["response"]["body"]["model"] == str(tiny_folder)
    assert b["response"] is None and b["error"]["code"] == "model_not_found"
    done = paceline("batch", str(file), "-o", str(tmp_path / "c"), "--model", "no-such-model", env=env)
    assert done.returncode == 1 and "no-such-model" in done.stderr and num_lines(tmp_path / "c") == 0


def test_a_terminal_shows_a_bar(tmp_path: Path, env: dict[str, str], server: Server) -> None:
    file = batch(tmp_path / "a.jsonl", max_tokens=2)
    pid, fd = pty.fork()
    if pid == 0:
        os.execve(PACELINE, [PACELINE, "batch", str(file), "--url", server.url], env | {"TERM": "xterm"})
    seen = b""
    while True:
        try:
            part = os.read(fd, 4096)
        except OSError:  # Linux's way to say that the other end is closed
            break
        if not part:
            break
        seen += part
    assert os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == 1
    os.close(fd)
    assert b"\x1b[" in seen and f"{NUM + 1} of {NUM + 1} lines, 1 failed".encode() in seen
