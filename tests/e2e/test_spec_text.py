"""Speculation through real servers: what a client gets is what it gets without, down to usage and stop strings."""

import json
import os
import subprocess
import sys
import urllib.request
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Any

import pytest
from server import Server

pytestmark = pytest.mark.e2e
ServeFactory = Callable[..., AbstractContextManager[Server]]
ROOT = Path(__file__).resolve().parents[2]
CHAOS = "outside.chaos_speculator"
PERFECT = f"""
[speculation]
methods = ["{CHAOS}"]
policy = "fixed"
max_draft_tokens = 6
[speculation."{CHAOS}"]
right = 1.0
"""
"""What was asked before is known: the second time, drafts are right, and whatever ends a text ends it inside a run."""


@pytest.fixture(scope="module")
def outside() -> Iterator[None]:
    """Servers find modules of the tests."""
    patch = pytest.MonkeyPatch()
    patch.setenv("PYTHONPATH", os.pathsep.join([str(ROOT / "tests" / "support"), os.environ.get("PYTHONPATH", "")]))
    yield
    patch.undo()


@pytest.fixture(scope="module")
def plain(serve: ServeFactory) -> Iterator[Server]:
    with serve() as server:
        yield server


@pytest.fixture(scope="module")
def drafting(serve: ServeFactory, outside: None, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    path = tmp_path_factory.mktemp("config") / "chaos.toml"
    path.write_text(PERFECT)
    with serve("--config", str(path)) as server:
        yield server


def complete(server: Server, **fields: Any) -> dict[str, Any]:
    body = {"model": "x", "prompt": "one two three one two", "max_tokens": 40, "temperature": 0, "seed": 1} | fields
    body["model"] = json.loads(get(server, "/v1/models"))["data"][0]["id"]
    return json.loads(get(server, "/v1/completions", body))


def get(server: Server, path: str, body: dict[str, Any] | None = None) -> str:
    data = None if body is None else json.dumps(body).encode()
    request = urllib.request.Request(server.url + path, data, {"Content-Type": "application/json"})
    with urllib.request.urlopen(request, timeout=60) as answer:
        return answer.read().decode()


def told(answer: dict[str, Any]) -> tuple[Any, int]:
    return answer["choices"], answer["usage"]["completion_tokens"]


def accepted(answer: dict[str, Any]) -> int:
    return answer["metrics"]["speculative_decoding"]["num_accepted_draft_tokens"]


FIELDS: dict[str, dict[str, Any]] = {
    "greedy": {},
    "sampled": {"temperature": 1.0, "seed": 7},
    "filters": {"temperature": 1.3, "top_k": 20, "top_p": 0.9, "min_p": 0.01},
    "penalties": {"presence_penalty": 1.0, "frequency_penalty": 0.5, "repetition_penalty": 1.2},
    "bias": {"logit_bias": {"300": 5, "301": -100}},
    "bad words": {"bad_words": ["e", " the"]},
    "logprobs": {"logprobs": 3, "temperature": 0.9},
    "end": {"min_tokens": 5, "stop_token_ids": list(range(260, 300))},
    "short": {"max_tokens": 3},
    "prompts": {"prompt": ["one two", "three four five"], "temperature": 0.8},
    "choices": {"n": 3, "temperature": 1.0},
    "ids": {"prompt": [40, 7, 99, 300, 12], "return_token_ids": True},
}


@pytest.mark.parametrize("name", FIELDS)
def test_answers_are_equal(plain: Server, drafting: Server, name: str) -> None:
    right = told(complete(plain, **FIELDS[name]))
    first, second = complete(drafting, **FIELDS[name]), complete(drafting, **FIELDS[name])
    assert told(first) == told(second) == right
    if name not in ("prompts", "choices", "short"):
        assert accepted(second) > 0


@pytest.mark.parametrize("at", [4, 9, 15, 22, 30])
def test_a_stop_string_inside_an_accepted_run(plain: Server, drafting: Server, at: int) -> None:
    """Text and usage end at the string, though the step that held it had accepted more."""
    whole = complete(plain)["choices"][0]["text"]
    assert complete(drafting)["choices"][0]["text"] == whole
    stop = whole[at : at + 2]
    for extra in ({}, {"include_stop_str_in_output": True}):
        right = complete(plain, stop=stop, **extra)
        cut = complete(drafting, stop=stop, **extra)
        assert told(cut) == told(right)
        end = whole.index(stop) + (len(stop) if extra else 0)
        assert cut["choices"][0]["text"] == whole[:end] and cut["choices"][0]["finish_reason"] == "stop"
        assert cut["usage"]["completion_tokens"] < 40


def test_streams_are_the_answers(plain: Server, drafting: Server) -> None:
    fields = {"stop": complete(plain)["choices"][0]["text"][20:22], "stream_options": {"include_usage": True}}
    right = complete(plain, stop=fields["stop"])
    for server in (plain, drafting):
        model = right["model"]
        body = {"model": model, "prompt": "one two three one two", "max_tokens": 40, "temperature": 0, "stream": True}
        lines = get(server, "/v1/completions", body | fields).splitlines()
        events = [json.loads(line[6:]) for line in lines if line.startswith("data: {")]
        text = "".join(choice["text"] for event in events for choice in event["choices"])
        assert text == right["choices"][0]["text"]
        assert events[-1]["usage"]["completion_tokens"] == right["usage"]["completion_tokens"]


def test_the_documented_speculator_in_a_server(
    plain: Server, serve: ServeFactory, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    text = (ROOT / "docs" / "speculation.md").read_text()
    source = text.split("```python\n")[1].split("```")[0]
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "__init__.py").touch()
    (tmp_path / "mine" / "follow.py").write_text(source)
    monkeypatch.setenv("PYTHONPATH", str(tmp_path), prepend=os.pathsep)
    repeating: dict[str, Any] = {"logit_bias": {"65": 60, "66": 60}}
    with serve("-s", 'speculation.methods=["mine.follow", "suffix"]', "-s", "speculation.policy=fixed") as server:
        answer = complete(server, **repeating)
        assert told(answer) == told(complete(plain, **repeating))
        assert answer["metrics"]["speculation"]["by_method"]["mine.follow"]["accepted"] > 0


def test_the_lossless_benchmark(tiny_folder: Path, tmp_path: Path) -> None:
    out = tmp_path / "verdicts.json"
    few = ["--prompts", "6", "--max-chars", "40", "--max-tokens", "24", "--concurrency", "1,4"]
    small = ["--option", "cache.num_blocks=256", "--option", "target.num_threads=1", "--methods", "adversary"]
    command = [sys.executable, "-P", str(ROOT / "benchmarks" / "lossless.py"), "--model", str(tiny_folder)]
    done = subprocess.run([*command, *few, *small, "--out", str(out)], capture_output=True, text=True, timeout=150)
    assert done.returncode == 0, done.stdout + done.stderr
    verdicts = json.loads(out.read_text())["result"]["verdicts"]
    assert {v["method"] for v in verdicts} == {"off", "adversary", "adversary, dying"}
    assert sum(v["equal"] for v in verdicts) == 3 * (3 + 12)
    assert all(not v["different"] and not v["failed"] for v in verdicts)
    assert sum(v["drafts"] for v in verdicts if v["method"] == "adversary") > 0
