"""Scheduler and tokenizer processes die, or stand still, under streams: callers see a pause and nothing else.

The judge is the same calls on the same server before: bytes of every choice, ids, log-probabilities, usage.
"""

import json
import os
import signal
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import httpx
import pytest
from server import Server
from wire_client import eventually, get, metrics, ready

pytestmark = pytest.mark.e2e

POOL = ["-s", "cache.num_blocks=400", "-s", "target.max_model_len=512", "-s", "target.num_threads=1"]
POOL += ["-s", "scheduler.max_num_seqs=8"]  # most wait in the queue, so that a death meets all kinds of requests
KINDS: list[dict[str, Any]] = [
    {"temperature": 0},
    {"temperature": 1.0, "seed": 11},
    {"temperature": 1.0, "seed": 12, "n": 3},
    {"temperature": 1.2, "seed": 13, "logprobs": 2},
    {"temperature": 1.0, "seed": 14, "stop": ["a", "the"], "min_tokens": 150},
    {"temperature": 0.9, "seed": 15, "frequency_penalty": 0.8, "repetition_penalty": 1.3, "logit_bias": {"300": 3}},
    {"temperature": 1.0, "seed": 16, "structured_outputs": {"regex": "[a-z ]{350}"}, "ignore_eos": False},
    {"temperature": 0, "echo": True, "logprobs": 1},
]
CALLS = [
    {"prompt": [7 + i, *range(20, 20 + 3 * i)], "max_tokens": 400 - 7 * i, "ignore_eos": True, "return_token_ids": True}
    | KINDS[i % len(KINDS)]
    for i in range(24)
]


@pytest.fixture(scope="module")
def server(serve: Any) -> Iterator[Server]:
    with serve(base=POOL) as running:
        yield running


def play(url: str, body: dict[str, Any]) -> dict[Any, Any]:
    """Everything that a stream tells, put together by choice."""
    told: dict[Any, Any] = {}
    body = body | {"stream": True, "stream_options": {"include_usage": True}}
    with httpx.stream("POST", f"{url}/v1/completions", json=body, timeout=60) as answer:
        assert answer.status_code == 200, answer.read()
        lines = [x.removeprefix("data: ") for x in answer.iter_lines() if x]
    assert lines[-1] == "[DONE]", lines[-1]
    for event in map(json.loads, lines[:-1]):
        assert "error" not in event, event
        for choice in event["choices"]:
            one = told.setdefault(choice["index"], {"text": "", "ids": [], "logprobs": [], "end": []})
            assert not one["end"], "something came behind the end"
            one["text"] += choice["text"]
            one["ids"] += choice.get("token_ids") or []
            one["logprobs"] += (choice.get("logprobs") or {}).get("token_logprobs", [])
            if choice["finish_reason"] is not None:
                one["end"] = [choice["finish_reason"], choice.get("stop_reason")]
        if usage := event.get("usage"):
            told["usage"] = usage["prompt_tokens"], usage["completion_tokens"], usage["total_tokens"]
    assert all(told[i]["end"] for i in range(body.get("n", 1)))
    return told


@pytest.fixture(scope="module")
def undisturbed(server: Server) -> list[dict[Any, Any]]:
    with ThreadPoolExecutor(len(CALLS)) as pool:
        told = list(pool.map(lambda body: play(server.url, body), CALLS))
    assert told[4][0]["end"] in (["stop", "a"], ["stop", "the"])
    assert sum(t["usage"][1] for t in told) > 5000
    return told


class Watch:
    """What /health and /ready say, all the time."""

    def __init__(self, url: str) -> None:
        self.seen: set[tuple[int, str]] = set()
        self._url = url
        self._is_over = threading.Event()
        self._thread = threading.Thread(target=self._run)

    def __enter__(self) -> "Watch":
        self._thread.start()
        return self

    def __exit__(self, *exc: object) -> None:
        self._is_over.set()
        self._thread.join()

    def _run(self) -> None:
        while not self._is_over.wait(0.02):
            self.seen.add((get(f"{self._url}/health")[0], ready(self._url)["status"]))


def run_with_deaths(server: Server, victim: str, signals: list[signal.Signals]) -> list[dict[Any, Any]]:
    """All calls at once; the victim gets one signal after the other, each while calls run and all is well again."""

    def restarts() -> int:
        return ready(server.url)["actors"][victim]["restarts"]

    with ThreadPoolExecutor(len(CALLS)) as pool:
        asked = [pool.submit(play, server.url, body) for body in CALLS]
        is_over = lambda: all(call.done() for call in asked)  # noqa: E731
        for number, sent in enumerate(signals):
            before = restarts()
            eventually(lambda: get(f"{server.url}/ready")[0] == 200, 20)
            eventually(lambda: metrics(server.url).get("vllm:num_requests_running", 0) > 0 or is_over(), 20)
            if is_over():
                assert number > 0, "too late to disturb anything"
                break  # a quick machine is through after the first death
            os.kill(ready(server.url)["actors"][victim]["pid"], sent)
            eventually(lambda before=before: restarts() == before + 1, 30)
        return [call.result(timeout=60) for call in asked]


@pytest.mark.parametrize("victim", ["scheduler", "tokenizer"])
def test_deaths_under_streams_change_no_byte(server: Server, undisturbed: Any, victim: str) -> None:
    before, total = ready(server.url), ready(server.url)["total_blocks"]
    replayed = metrics(server.url)["paceline_requests_replayed_total"]
    with Watch(server.url) as watch:
        told = run_with_deaths(server, victim, [signal.SIGKILL] * 2)
        eventually(lambda: get(f"{server.url}/ready")[0] == 200, 20)
    for body, got, wanted in zip(CALLS, told, undisturbed, strict=True):
        assert got == wanted, body
    assert watch.seen - {(503, "ok"), (200, "recovering")} == {(200, "ok"), (503, "recovering")}
    eventually(lambda: metrics(server.url)["paceline_requests_replayed_total"] >= replayed + 10, 5)
    eventually(lambda: ready(server.url)["running"] == ready(server.url)["waiting"] == 0, 20)
    eventually(lambda: ready(server.url)["free_blocks"] == total, 5)
    after = ready(server.url)["actors"]
    for name in {"gateway", "target", "scheduler", "tokenizer"} - {victim}:
        assert after[name]["pid"] == before["actors"][name]["pid"], name
    assert [play(server.url, CALLS[i]) for i in (0, 2)] == [undisturbed[0], undisturbed[2]]


@pytest.mark.parametrize("victim", ["scheduler"])  # each takes the supervisor's 10 s; test_processes.py has both
def test_one_that_stands_still_is_replaced_under_streams(server: Server, undisturbed: Any, victim: str) -> None:
    """Seen within 10 s and killed by the supervisor; the rest is as with any other death."""
    told = run_with_deaths(server, victim, [signal.SIGSTOP])
    for body, got, wanted in zip(CALLS, told, undisturbed, strict=True):
        assert got == wanted, body
    assert "no progress" in ready(server.url)["actors"][victim]["error"]


@pytest.mark.parametrize("victim", ["scheduler", "tokenizer"])
def test_a_call_that_comes_while_it_is_away_waits_for_it(server: Server, undisturbed: Any, victim: str) -> None:
    eventually(lambda: get(f"{server.url}/ready")[0] == 200, 20)
    os.kill(ready(server.url)["actors"][victim]["pid"], signal.SIGKILL)
    eventually(lambda: ready(server.url)["status"] == "recovering", 2)
    assert play(server.url, CALLS[1]) == undisturbed[1]
