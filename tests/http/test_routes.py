"""The routes around the calls: models, health, metrics; who may call; what is counted."""

import asyncio
import re
from typing import Any

import httpx
import msgspec
import pytest
from fake_engine import FakeEngine, state
from http_app import in_process, on_socket

from paceline.actors.logs import TextFormat
from paceline.actors.messages import Stats

pytestmark = pytest.mark.anyio

COMPLETIONS = "/v1/completions"


@pytest.fixture
def anyio_backend() -> str:
    return "asyncio"


async def test_models() -> None:
    async with in_process() as client:
        listed = (await client.get("/v1/models")).json()
        model = listed["data"][0]
        assert listed == {"object": "list", "data": [model]} and isinstance(model.pop("created"), int)
        assert model == {
            "id": "tiny", "object": "model", "owned_by": "paceline", "root": "tiny-original", "parent": None,
            "max_model_len": 256, "permission": [],
        }  # fmt: skip
        assert (await client.get("/v1/models/tiny")).json()["id"] == "tiny"


async def test_a_served_name_may_hold_slashes_and_replaces_the_models_own() -> None:
    async with in_process(served_model_name="org/name") as client:
        assert (await client.get("/v1/models/org/name")).json()["id"] == "org/name"
        answer = await client.post(COMPLETIONS, json={"prompt": "x", "model": "org/name"})
        assert answer.json()["model"] == "org/name"
        assert (await client.post(COMPLETIONS, json={"prompt": "x", "model": "tiny"})).status_code == 404


async def test_plain_routes() -> None:
    async with in_process() as client:
        assert (await client.get("/version")).json() == {"version": "0.1.0"}
        assert (await client.get("/load")).json() == {"server_load": 0}
        assert (await client.get("/live")).status_code == 200
        assert (await client.get("/")).text == "Ollama is running" and (await client.head("/")).status_code == 200
        assert (await client.post("/ping")).status_code == 200
        assert (await client.head("/health")).status_code == 200


@pytest.mark.parametrize(
    ("word", "health", "ready"),
    [
        ("starting", 503, 503), ("ok", 200, 200), ("degraded", 200, 200), ("recovering", 503, 503),
        ("draining", 200, 503), ("failed", 503, 503),
    ],
)  # fmt: skip
async def test_health_tells_the_truth(word: str, health: int, ready: int) -> None:
    engine = FakeEngine()
    engine.state = state(word, error="target: out of memory" if word == "failed" else None)
    async with in_process(engine) as client:
        answer = await client.get("/health")
        assert answer.status_code == health and (health == 503 or answer.content == b"")
        if health == 503:
            assert answer.json()["error"]["code"] and int(answer.headers["retry-after"]) >= 1
        answer = await client.get("/ready")
        assert answer.status_code == ready and answer.json()["status"] == word
        assert (ready == 503) == ("retry-after" in answer.headers)
        assert word != "failed" or "out of memory" in answer.text
        assert (await client.get("/live")).status_code == 200
    assert not engine.calls


async def test_ready_reports_actors_and_blocks() -> None:
    engine = FakeEngine()
    async with in_process(engine) as client:
        before = (await client.get("/ready")).json()
        assert (before["free_blocks"], before["total_blocks"], before["running"], before["waiting"]) == (32, 32, 0, 0)
        values: dict[str, float] = {
            "num_requests_running": 3,
            "num_requests_waiting": 2,
            "kv_blocks_free": 20,
            "kv_blocks_total": 32,
        }
        engine.stats["scheduler"] = Stats("scheduler", 0, values)
        report = (await client.get("/ready")).json()
        assert (report["free_blocks"], report["total_blocks"], report["running"], report["waiting"]) == (20, 32, 3, 2)
        assert set(report["actors"]["target"]) == {"state", "pid", "restarts", "idle_s", "error"}
        assert report["actors"]["target"]["pid"] == 7 and report["actors"]["target"]["restarts"] == 1
        assert engine.state is not None
        dead = [msgspec.structs.replace(a, pid=0) for a in engine.state.actors]
        engine.state = msgspec.structs.replace(engine.state, actors=dead)
        assert (await client.get("/ready")).json()["actors"]["target"]["pid"] is None
        engine.state = None
        assert (await client.get("/ready")).json()["status"] == "starting"


async def test_load_counts_requests_in_the_engine() -> None:
    engine = FakeEngine()
    engine.gate = asyncio.Event()
    async with on_socket(engine) as (url, served), httpx.AsyncClient(base_url=url) as client:
        call = asyncio.create_task(client.post(COMPLETIONS, json={"prompt": ["a", "b"], "n": 3, "max_tokens": 2}))
        while served.calls.num_requests == 0:
            await asyncio.sleep(0.005)
        assert (await client.get("/load")).json() == {"server_load": 6}
        engine.gate.set()
        assert (await call).status_code == 200
        assert (await client.get("/load")).json() == {"server_load": 0}


# --- who may call -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "headers",
    [
        {}, {"authorization": "Bearer wrong"}, {"authorization": "Bearer "}, {"authorization": "key-b"},
        {"authorization": "Basic key-b"}, {"x-api-key": "key"}, {"authorization": "Bearer key-b "[:-2]},
        {"authorization": "Bearer bad", "x-api-key": "key-b"},
    ],
)  # fmt: skip
async def test_keys_are_needed_everywhere_but_for_health(headers: dict[str, str]) -> None:
    engine = FakeEngine()
    async with in_process(engine, api_keys=["key-a", "key-b"]) as client:
        for method, path in (
            ("POST", COMPLETIONS), ("GET", "/v1/models"), ("GET", "/version"), ("GET", "/"), ("GET", "/nothing"),
            ("POST", "/ping"), ("GET", "/health/"), ("GET", "//health"), ("OPTIONS", COMPLETIONS),
        ):  # fmt: skip
            answer = await client.request(method, f"http://localhost{path}", headers=headers)
            assert answer.status_code == 401, path
            assert (
                answer.json()["error"]["code"] == "invalid_api_key" and answer.headers["www-authenticate"] == "Bearer"
            )
        for path in ("/health", "/ready", "/live", "/ping", "/metrics"):
            assert (await client.get(path, headers=headers)).status_code == 200
        assert (await client.get("/ready", headers=headers)).json() == {"status": "ok"}
    assert not engine.calls


@pytest.mark.parametrize("headers", [{"authorization": "bearer key-b"}, {"x-api-key": "key-a"}])
async def test_a_key_lets_in(headers: dict[str, str]) -> None:
    async with in_process(api_keys=["key-a", "key-b"]) as client:
        assert (await client.post(COMPLETIONS, json={"prompt": "x"}, headers=headers)).status_code == 200
        assert "actors" in (await client.get("/ready", headers=headers)).json()


async def test_a_poisoned_host_opens_nothing() -> None:
    async with in_process(api_keys=["key"]) as client:
        for host in ("a/health?x=", "localhost/health#", "health"):
            assert (await client.get("/v1/models", headers={"host": host})).status_code == 401


@pytest.mark.parametrize(
    ("origin", "status"),
    [
        ("https://evil.example", 403), ("null", 403), ("http://localhost.evil.example", 403), ("http://[", 403),
        ("http://localhost:3000", 200), ("http://127.0.0.1", 200), ("http://[::1]:5", 200), ("https://ok.example", 200),
    ],
)  # fmt: skip
async def test_foreign_pages_may_not_call_a_local_server(origin: str, status: int) -> None:
    async with in_process(allowed_origins=["https://ok.example"]) as client:
        answer = await client.post(COMPLETIONS, json={"prompt": "x"}, headers={"origin": origin})
        assert answer.status_code == status
        assert status != 403 or answer.json()["error"]["code"] == "origin_refused"
        allowed = "https://ok.example" if "ok" in origin else None
        assert answer.headers.get("access-control-allow-origin") == allowed


async def test_on_other_addresses_origins_are_the_keys_business() -> None:
    async with in_process(host="0.0.0.0") as client:
        answer = await client.get("/v1/models", headers={"origin": "https://evil.example"})
        assert answer.status_code == 200 and "access-control-allow-origin" not in answer.headers


async def test_preflight() -> None:
    ask = {"access-control-request-method": "POST", "access-control-request-headers": "authorization"}
    async with in_process(allowed_origins=["https://ok.example"], api_keys=["key"]) as client:
        answer = await client.options(COMPLETIONS, headers=ask | {"origin": "https://ok.example"})
        assert answer.status_code == 204 and answer.headers["access-control-allow-origin"] == "https://ok.example"
        assert answer.headers["access-control-allow-headers"] == "authorization"
        assert (await client.options(COMPLETIONS, headers=ask | {"origin": "https://evil.example"})).status_code == 403
        refused = await client.post(COMPLETIONS, json={}, headers={"origin": "https://ok.example"})
        assert refused.status_code == 401 and refused.headers["access-control-allow-origin"] == "https://ok.example"


# --- what is counted --------------------------------------------------------------------------------------------------


def sample(text: str, name: str, **labels: str) -> float:
    """The sum of a metric's samples with these labels."""
    total = 0.0
    for line in text.splitlines():
        if line.startswith((name + "{", name + " ")) and all(f'{k}="{v}"' in line for k, v in labels.items()):
            total += float(line.rsplit(" ", 1)[1])
    return total


async def test_metrics() -> None:
    async with in_process() as client:
        body: dict[str, Any] = {"prompt": ["a b c", "d"], "n": 2, "max_tokens": 3}
        await client.post(COMPLETIONS, json=body)
        await client.post(COMPLETIONS, json=body | {"stream": True})
        await client.post(COMPLETIONS, json={})
        await client.get("/secret/" + "x" * 50)
        await client.request("BREW", "/live")
        answer = await client.get("/metrics")
    assert answer.headers["content-type"].startswith("text/plain; version=0.0.4")
    text = answer.text
    assert 'model_name="tiny"' in text
    for name, count in {
        "vllm:time_to_first_token_seconds_count": 8, "vllm:e2e_request_latency_seconds_count": 8,
        "vllm:inter_token_latency_seconds_count": 16, "vllm:request_time_per_output_token_seconds_count": 8,
        "vllm:request_queue_time_seconds_count": 8, "vllm:request_prompt_tokens_count": 4,
        "vllm:request_prompt_tokens_sum": 8, "vllm:request_generation_tokens_sum": 24,
        "vllm:request_params_n_sum": 4, "vllm:request_params_max_tokens_sum": 6,
        "vllm:request_queue_time_seconds_sum": 2,
    }.items():  # fmt: skip
        assert sample(text, name) == count, name
    assert sample(text, "http_requests_total", handler=COMPLETIONS, method="POST", status="2xx") == 2
    assert sample(text, "http_requests_total", handler=COMPLETIONS, status="4xx") == 1
    assert sample(text, "http_requests_total", handler="none", method="GET", status="4xx") == 1
    assert sample(text, "http_requests_total", handler="/live", method="other", status="4xx") == 1
    assert "secret" not in text and "BREW" not in text
    assert sample(text, "http_request_duration_seconds_count", handler=COMPLETIONS) == 3


async def test_one_log_line_a_request_without_what_the_client_wrote(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level("INFO")
    async with in_process() as client:
        await client.post(COMPLETIONS, json={"prompt": "private words"}, headers={"x-request-id": "abc"})
        await client.get("/private-path")
    lines = [TextFormat("gateway").format(r) for r in caplog.records if r.name.startswith("paceline")]
    assert len(lines) == 2 and "/v1/completions 200" in lines[0] and " request_id=abc " in lines[0]
    assert re.search(r" prompt_tokens=\d+ cached_tokens=\d+ output_tokens=\d+ .* finish=\w+$", lines[0]), lines[0]
    assert not any("private" in line for line in lines)
