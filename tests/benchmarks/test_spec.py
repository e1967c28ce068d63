"""The script itself: on real servers of the tiny model, and what it makes of its options."""

import json
import os
import subprocess
import sys
from pathlib import Path

import psutil
import pytest
import tiny_models

SCRIPT = Path(__file__).resolve().parents[2] / "benchmarks" / "spec.py"
SMALL = ["cache.num_blocks=256", "target.max_model_len=512", "target.num_threads=1"]
OPTIONS = [word for key in SMALL for word in ("-s", key)]


def script(*args: str, **environ: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-P", str(SCRIPT), *args]
    return subprocess.run(command, capture_output=True, text=True, timeout=150, env={**os.environ, **environ})


@pytest.mark.e2e
@pytest.mark.slow
def test_two_methods_against_off(tmp_path: Path) -> None:
    tiny_models.make_llama(tmp_path / "tiny")
    model = str(tmp_path / "tiny")
    load = ["--sets", "chat", "--concurrency", "2", "--temperatures", "0,1", "--requests", "2", "--repeats", "1"]
    out, plot = tmp_path / "figures.json", tmp_path / "plot.png"
    methods = ["--methods", "suffix+draft_model,idle", "--draft", model, "--policy", "fixed", "--depths", "2"]
    written = ["--max-tokens", "12", "--out", str(out), "--plot", str(plot), "--markdown"]
    done = script("--model", model, *methods, *load, *OPTIONS, *written, XDG_CACHE_HOME=str(tmp_path / "cache"))
    assert done.returncode == 0, done.stdout + done.stderr
    found = json.loads(out.read_text())
    rows = found["result"]["rows"]
    assert len(rows) == 4 and not found["result"]["left_out"]
    assert all(row["texts_different"] == 0 and row["texts_compared"] == row["requests"] == 4 for row in rows)
    drafting = [row for row in rows if row["method"] == "suffix+draft_model"]
    # the model is its own draft model: greedy, it is always right
    greedy = [row["acceptance"] for row in drafting if row["temperature"] == 0]
    assert all(got["accepted"] > 0 and got["accepted_by"]["draft_model"] > 0 for got in greedy)
    assert all(row["depth"] == 2 and len(row["acceptance"]["unconditional"]) <= 2 for row in drafting)
    assert all(row["acceptance"]["drafted"] == 0 for row in rows if row["method"] == "idle")
    assert plot.read_bytes().startswith(b"\x89PNG")
    assert "| chat | 0 | 2 | suffix+draft_model | 2 |" in done.stdout


def test_a_draft_model_must_be_named() -> None:
    done = script("--methods", "draft_model")
    assert done.returncode == 1 and "--draft NAME" in done.stderr


def test_quick_changes_defaults_but_not_what_is_said() -> None:
    code = "import spec; a = spec.arguments(['--quick', '--repeats', '5']); print(a.repeats, a.concurrency)"
    command = [sys.executable, "-P", "-c", f"import sys; sys.path.insert(0, {str(SCRIPT.parent)!r}); {code}"]
    done = subprocess.run(command, capture_output=True, text=True, timeout=60)
    assert done.stdout.split() == ["5", "1,4"], done.stderr


@pytest.mark.e2e
def test_a_terminated_run_leaves_no_server_behind(tmp_path: Path) -> None:
    tiny_models.make_llama(tmp_path / "tiny")
    command = [sys.executable, "-P", str(SCRIPT), "--model", str(tmp_path / "tiny"), "--sets", "chat", *OPTIONS]
    environ = {**os.environ, "XDG_CACHE_HOME": str(tmp_path / "cache")}
    with subprocess.Popen(
        command, stderr=subprocess.PIPE, stdout=subprocess.DEVNULL, text=True, env=environ
    ) as running:
        assert running.stderr is not None
        assert running.stderr.readline().startswith("off: ready")
        started = psutil.Process(running.pid).children(recursive=True)
        assert len(started) > 3
        running.terminate()
        assert running.wait(timeout=60) == 143
    _, alive = psutil.wait_procs(started, timeout=10)
    assert not alive
