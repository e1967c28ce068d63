"""Vectors from a real server: by the official clients, the same bits alone and under load, aborted without a trace."""

import os
import signal
import struct
from base64 import b64decode
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import httpx
import pytest
from server import Server
from wire_client import completion, eventually, metrics, ready

pytestmark = pytest.mark.e2e

TEXTS = ["The capital of France is Paris.", "one, two, three", "x", "Once upon a time " * 12]


@pytest.fixture(scope="module")
def server(serve: Any) -> Any:
    """A server of this file's own: routes that change it are open."""
    with serve("--enable-admin", "-s", "scheduler.max_num_batched_tokens=64") as running:
        yield running


def vectors(server: Server, given: Any, **fields: Any) -> list[bytes]:
    body = {"input": given, "encoding_format": "base64"} | fields
    answer = httpx.post(f"{server.url}/v1/embeddings", json=body, timeout=60)
    assert answer.status_code == 200, answer.text
    return [b64decode(row["embedding"]) for row in answer.json()["data"]]


def test_the_official_client(server: Server, tiny_folder: Path) -> None:
    from openai import OpenAI

    with OpenAI(base_url=f"{server.url}/v1", api_key="unused") as client:
        told = client.embeddings.create(model=str(tiny_folder), input=TEXTS)  # asks for base64 by itself
    assert [row.index for row in told.data] == [0, 1, 2, 3] and told.usage.prompt_tokens == told.usage.total_tokens > 30
    for row in told.data:
        assert len(row.embedding) == 64 and sum(v * v for v in row.embedding) == pytest.approx(1, abs=1e-5)
    assert [struct.pack("<64f", *row.embedding) for row in told.data] == vectors(server, TEXTS)


def test_ollamas_routes_give_the_same_vectors(server: Server, tiny_folder: Path) -> None:
    want = [list(struct.unpack("<64f", v)) for v in vectors(server, TEXTS)]
    told = httpx.post(f"{server.url}/api/embed", json={"model": str(tiny_folder), "input": TEXTS}, timeout=60).json()
    assert told["embeddings"] == want and told["prompt_eval_count"] > 30 and told["total_duration"] > 0
    one = httpx.post(f"{server.url}/api/embeddings", json={"model": str(tiny_folder), "prompt": TEXTS[0]}).json()
    assert one == {"embedding": want[0]}


def test_a_vector_has_the_same_bits_alone_and_under_load(server: Server) -> None:
    prompts = [[(7 * i + 3 * j) % 500 for j in range(5 + 11 * i)] for i in range(16)]
    alone = [vectors(server, prompt, cache_salt=f"alone{i}")[0] for i, prompt in enumerate(prompts)]
    with ThreadPoolExecutor(12) as pool:
        streams = [
            pool.submit(completion, server.url, prompts[i], max_tokens=60, temperature=0, ignore_eos=True)
            for i in range(8)
        ]
        crowd = list(pool.map(lambda p: vectors(server, p)[0], prompts))
        together = vectors(server, prompts)
        assert all(len(s.result()["token_ids"]) == 60 for s in streams)
    assert crowd == together == alone


def test_thousands_of_inputs_pass_through_a_short_queue(serve: Any) -> None:
    with serve("-s", "scheduler.max_queued_requests=4", "-s", "scheduler.max_num_seqs=32") as small:
        told = vectors(small, [[i % 500, 5, 6] for i in range(2048)])
        assert len(told) == 2048 and told[3] == told[503] == vectors(small, [3, 5, 6])[0]
        eventually(lambda: ready(small.url)["free_blocks"] == 512)


def test_a_client_that_leaves_frees_everything(server: Server) -> None:
    with pytest.raises(httpx.ReadTimeout):
        httpx.post(f"{server.url}/v1/embeddings", json={"input": [[5] * 500] * 600}, timeout=0.5)
    eventually(lambda: metrics(server.url)["vllm:num_requests_running"] == 0)
    eventually(lambda: ready(server.url)["running"] == ready(server.url)["waiting"] == 0)
    assert vectors(server, "still there")


def test_a_target_that_dies_in_the_middle_costs_only_time(serve: Any) -> None:
    prompts = [[(i * j) % 500 for j in range(400)] for i in range(1, 50)]
    with serve("-s", "scheduler.max_num_batched_tokens=16") as mortal, ThreadPoolExecutor(1) as pool:
        target = ready(mortal.url)["actors"]["target"]["pid"]
        asked = pool.submit(vectors, mortal, prompts)
        eventually(lambda: metrics(mortal.url).get("vllm:prompt_tokens_total", 0) > 0)
        os.kill(target, signal.SIGKILL)
        told = asked.result(timeout=60)
        eventually(lambda: metrics(mortal.url).get("paceline_requests_replayed_total", 0) > 0)
        assert told[:5] + told[-5:] == vectors(mortal, prompts[:5] + prompts[-5:])


def test_the_prefix_cache_is_read_and_can_be_reset(server: Server) -> None:
    def cached() -> float:
        return metrics(server.url).get("vllm:prompt_tokens_cached_total", 0)

    prompt = list(range(100, 180))
    first = vectors(server, prompt)
    before = cached()
    assert vectors(server, prompt) == first
    eventually(lambda: cached() >= before + 64)
    assert httpx.post(f"{server.url}/reset_prefix_cache").json()["num_blocks"] > 0
    before = cached()
    assert vectors(server, prompt) == first
    assert httpx.post(f"{server.url}/reset_prefix_cache").json()["num_blocks"] == 5
    assert cached() == before


@pytest.mark.parametrize(
    ("body", "param", "code"),
    [
        ({"input": "x", "dimensions": 8}, "dimensions", "unsupported_parameter"),
        ({"input": ["x", "long " * 600]}, "input.1", "context_length_exceeded"),
    ],
)
def test_what_only_the_engine_knows_is_refused_in_the_words_of_the_body(
    server: Server, body: Any, param: str, code: str
) -> None:
    answer = httpx.post(f"{server.url}/v1/embeddings", json=body)
    error = answer.json()["error"]
    assert (answer.status_code, error["param"], error["code"]) == (400, param, code), error


def test_an_over_long_input_is_cut_where_that_is_asked_for(server: Server) -> None:
    ids = [(3 * i) % 500 for i in range(600)]
    assert vectors(server, ids, truncate_prompt_tokens=10) == vectors(server, ids[-10:])
    assert vectors(server, ids, truncate_prompt_tokens=10, truncation_side="right") == vectors(server, ids[:10])
    assert vectors(server, [7] * 600, truncate_prompt_tokens=-1) == vectors(server, [7] * 512)


def test_means_where_the_config_says_so(serve: Any, server: Server) -> None:
    with serve("-s", "target.pooling=mean") as means:
        prompt = list(range(60))
        first = vectors(means, prompt)
        assert first == vectors(means, prompt) and first != vectors(server, prompt)
        assert vectors(means, [5]) == vectors(server, [5])
