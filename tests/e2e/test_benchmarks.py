"""The benchmark scripts run, and say what they promise; their figures are nobody's business here."""

import json
import subprocess
import sys
from pathlib import Path

import psutil
import pytest
from server import Server
from wire_client import eventually

from paceline.kernels.native import load

pytestmark = pytest.mark.e2e

BENCHMARKS = Path(__file__).resolve().parents[2] / "benchmarks"


def script(name: str, *args: str) -> str:
    command = [sys.executable, "-P", str(BENCHMARKS / name), *args]
    done = subprocess.run(command, capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


@pytest.fixture
def short_prompts(tmp_path: Path) -> Path:
    """Prompts that fit the small model's context whichever are drawn: it has nearly a token a byte."""
    file = tmp_path / "prompts.jsonl"
    file.write_text("".join(json.dumps({"prompt": f"Count to {n}."}) + "\n" for n in range(8)))
    return file


def test_serve_compares_two_servers_in_turn(server: Server, short_prompts: Path, tmp_path: Path) -> None:
    urls = ["--url", f"one={server.url}", "--url", f"two={server.url}"]
    urls += ["--data", str(short_prompts)]
    traffic = ["--concurrency", "1,3", "--requests", "4", "--repeats", "1", "--max-tokens", "8"]
    out, plot = tmp_path / "figures.json", tmp_path / "plot.png"
    text = script("serve.py", *urls, *traffic, "--out", str(out), "--plot", str(plot))
    assert text.count("one ") == text.count("two ") == 2
    result = json.loads(out.read_text())["result"]
    assert [(r["server"], r["load"], r["errors"]) for r in result[:2]] == [("one", 1.0, 0), ("two", 1.0, 0)]
    assert all(r["output_tok_s"] > 0 and r["rounds"][0]["requests"] == 4 for r in result)
    assert plot.read_bytes().startswith(b"\x89PNG")


def test_serve_open_loop(server: Server, short_prompts: Path) -> None:
    where = ["--url", server.url, "--data", str(short_prompts)]
    text = script("serve.py", *where, "--rate", "20", "--requests", "6", "--repeats", "1", "--max-tokens", "4")
    assert "rate/s" in text


def test_memory_finds_little_waste_and_nothing_lost(server: Server) -> None:
    traffic = ["--clients", "8", "--requests", "60", "--max-words", "40", "--max-tokens", "120", "--every", "0.05"]
    text = script("memory.py", "--url", server.url, *traffic)
    assert "KV waste" in text and "; 0 lost" in text


def test_scheduler_prints_a_table() -> None:
    assert "256" in script("scheduler.py", "--running", "16", "256", "--steps", "30", "--rounds", "1")


def test_kernels_holds_linears_against_the_machine() -> None:
    if reason := load.why_not("cpu"):
        pytest.skip(reason)
    text = script("kernels.py", "--layers", "1", "--rows", "1,3", "--rounds", "2")
    assert "ceiling: read" in text
    for name in ("layers Q4_1", "layers int8", "head int8"):
        assert all(f"{name}, M={m} " in text for m in (1, 3))


@pytest.mark.parametrize("name", ["clients.py", "schema.py", "startup.py"])
def test_sigterm_leaves_no_server_behind(name: str, tiny_folder: Path) -> None:
    command = [sys.executable, "-P", str(BENCHMARKS / name), "--model", str(tiny_folder)]
    command += ["--schema", "/openapi.json", "--as-it-is"] if name == "schema.py" else []
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT) as process:
        below = psutil.Process(process.pid)
        eventually(lambda: len(below.children(recursive=True)) > 1, seconds=30)  # the server and its first actor
        started = below.children(recursive=True)
        process.terminate()
        assert process.wait(timeout=30) == 143
    eventually(lambda: not any(child.is_running() for child in started), seconds=10)


@pytest.mark.parametrize("name", sorted(p.name for p in BENCHMARKS.glob("*.py")))
def test_every_script_has_help(name: str) -> None:
    assert "usage:" in script(name, "--help")


def test_faults_harms_a_server_and_judges_it(tiny_folder: Path, short_prompts: Path, tmp_path: Path) -> None:
    """A death, departures, slow readers and a soak, each small. Times and memory are nobody's business here."""
    out = tmp_path / "figures.json"
    load = ["--model", str(tiny_folder), "--data", str(short_prompts), "--clients", "6", "--max-tokens", "60"]
    less = ["--rounds", "1", "--departures", "12", "--slow-readers", "2", "--soak", "40"]
    small = ["-s", "target.max_model_len=512", "-s", "target.num_threads=1", "--out", str(out)]
    command = [sys.executable, "-P", str(BENCHMARKS / "faults.py"), "--faults", "scheduler,storm,slow", *load, *less]
    done = subprocess.run([*command, *small], capture_output=True, text=True, timeout=120)
    assert out.exists(), done.stderr
    result = json.loads(out.read_text())["result"]
    assert [r["fault"] for r in result] == ["scheduler SIGKILL", "12 disconnects", "2 slow readers", "soak of 40"]
    assert all(r["failed"] == r["different"] == 0 for r in result), done.stdout
    assert done.returncode == any(r["faults"] for r in result)
