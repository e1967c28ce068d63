"""Vectors over HTTP: /v1/embeddings, Ollama's two routes, /invocations. The engine is a fake."""

import asyncio
import struct
from base64 import b64decode
from typing import Any

import pytest
from fake_engine import MAX_MODEL_LEN, VOCAB_SIZE, FakeEngine, vector_of
from http_app import in_process

from paceline.engine.errors import InvalidRequestError

pytestmark = pytest.mark.anyio


def floats(vector: bytes) -> list[float]:
    return list(struct.unpack(f"<{len(vector) // 4}f", vector))


async def post(body: Any, path: str = "/v1/embeddings", engine: FakeEngine | None = None) -> Any:
    async with in_process(engine) as client:
        answer = await client.post(path, json=body)
    assert answer.status_code == 200, answer.text
    return answer


async def test_the_shape_is_openais() -> None:
    answer = await post({"model": "tiny", "input": ["one two", "three"], "user": "me", "shiny": 1})
    told = answer.json()
    assert told.pop("id").startswith("embd-") and isinstance(told.pop("created"), int)
    assert told == {
        "object": "list",
        "model": "tiny",
        "data": [
            {"index": 0, "object": "embedding", "embedding": floats(vector_of(0))},
            {"index": 1, "object": "embedding", "embedding": floats(vector_of(1))},
        ],
        "usage": {"prompt_tokens": 3, "total_tokens": 3},
    }
    assert answer.headers["x-paceline-ignored"] == "shiny"


async def test_base64_is_little_endian_float32() -> None:
    told = (await post({"input": "x", "encoding_format": "base64"})).json()
    assert b64decode(told["data"][0]["embedding"]) == vector_of(0)


@pytest.mark.parametrize(
    ("given", "prompts"),
    [("a b", ["a b"]), (["a", "b"], ["a", "b"]), ([1, 2], [[1, 2]]), ([[1], [2, 3]], [[1], [2, 3]])],
)
async def test_every_form_of_input(given: Any, prompts: Any) -> None:
    engine = FakeEngine()
    told = (await post({"input": given}, engine=engine)).json()
    assert [d["index"] for d in told["data"]] == list(range(len(prompts)))
    [call] = engine.calls
    assert call.prompts == prompts and call.embed is not None and call.sampling.max_tokens == 0 and call.n == 1


async def test_fields_reach_the_engine() -> None:
    engine = FakeEngine()
    body = {
        "input": "x", "dimensions": 2, "truncate_prompt_tokens": 5, "truncation_side": "left", "cache_salt": "s",
        "add_special_tokens": False, "request_id": "mine",
    }  # fmt: skip
    told = (await post(body, engine=engine)).json()
    assert told["id"] == "embd-mine" and len(told["data"][0]["embedding"]) == 2
    [call] = engine.calls
    assert call.embed is not None and call.embed.dimensions == 2
    assert (call.truncate_prompt_tokens, call.truncation_side, call.cache_salt) == (5, "left", "s")
    assert not call.add_special_tokens


async def test_2048_inputs_are_taken_and_one_more_is_not() -> None:
    assert len((await post({"input": ["x"] * 2048})).json()["data"]) == 2048
    async with in_process() as client:
        answer = await client.post("/v1/embeddings", json={"input": ["x"] * 2049})
    assert answer.status_code == 400 and "2049 inputs: at most 2048" in answer.json()["error"]["message"]


@pytest.mark.parametrize(
    ("body", "param"),
    [
        ({}, "input"),
        ({"input": None}, "input"),
        ({"input": ""}, "input"),
        ({"input": []}, "input"),
        ({"input": ["x", ""]}, "input.1"),
        ({"input": [[1], []]}, "input.1"),
        ({"input": ["x", 7]}, "input.1"),
        ({"input": [1, "x"]}, "input.1"),
        ({"input": [1, VOCAB_SIZE]}, "input.1"),
        ({"input": [[1], [-1]]}, "input.1.0"),
        ({"input": {"text": "x"}}, "input"),
        ({"input": [1] * (MAX_MODEL_LEN + 1)}, "input"),
        ({"input": "x", "encoding_format": "int8"}, "encoding_format"),
        ({"input": "x", "dimensions": 0}, "dimensions"),
        ({"input": "x", "dimensions": "2"}, "dimensions"),
        ({"input": "x", "truncate_prompt_tokens": -2}, "truncate_prompt_tokens"),
        ({"input": "x", "truncate_prompt_tokens": MAX_MODEL_LEN + 1}, "truncate_prompt_tokens"),
        ({"input": "x", "truncation_side": "middle"}, "truncation_side"),
        ({"input": "x", "cache_salt": ""}, "cache_salt"),
        ({"input": "x", "request_id": " "}, "request_id"),
        ({"input": "x", "model": "other"}, "model"),
    ],
)
async def test_what_is_wrong_is_named(body: Any, param: str) -> None:
    engine = FakeEngine()
    async with in_process(engine) as client:
        answer = await client.post("/v1/embeddings", json=body)
    assert answer.status_code == (404 if param == "model" else 400), answer.text
    assert answer.json()["error"]["param"] == param and not engine.calls


async def test_what_the_engine_refuses_is_refused() -> None:
    engine = FakeEngine()
    engine.refuse_with = InvalidRequestError("dimensions is 2: no", param="dimensions", code="unsupported_parameter")
    async with in_process(engine) as client:
        answer = await client.post("/v1/embeddings", json={"input": "x", "dimensions": 2})
    assert answer.status_code == 400 and answer.json()["error"]["code"] == "unsupported_parameter"


async def test_a_client_that_leaves_aborts() -> None:
    engine = FakeEngine()
    engine.gate = asyncio.Event()
    async with in_process(engine) as client:
        asked = asyncio.create_task(client.post("/v1/embeddings", json={"input": "x"}))
        while not engine.calls:
            await asyncio.sleep(0)
        asked.cancel()
        with pytest.raises(asyncio.CancelledError):
            await asked
    await asyncio.wait_for(engine.aborted_event.wait(), 5)


# --- Ollama -----------------------------------------------------------------------------------------------------------


async def test_api_embed() -> None:
    engine = FakeEngine()
    body = {"model": "tiny", "input": ["a b", "c"], "options": {"num_ctx": 9}, "keep_alive": "5m"}
    answer = await post(body, "/api/embed", engine)
    told = answer.json()
    assert told.pop("total_duration") > 0
    vectors = [floats(vector_of(0)), floats(vector_of(1))]
    assert told == {"model": "tiny", "embeddings": vectors, "load_duration": 0, "prompt_eval_count": 3}
    assert answer.headers["x-paceline-ignored"] == "options"
    [call] = engine.calls
    assert (call.truncate_prompt_tokens, call.truncation_side) == (MAX_MODEL_LEN, "right")


async def test_api_embed_cuts_only_where_it_may() -> None:
    engine = FakeEngine()
    await post({"input": "a", "truncate": False}, "/api/embed", engine)
    assert engine.calls[0].truncate_prompt_tokens is None


async def test_api_embed_without_input_only_loads() -> None:
    engine = FakeEngine()
    assert (await post({"model": "tiny"}, "/api/embed", engine)).json() == {"model": "tiny", "embeddings": []}
    assert (await post({"model": "tiny"}, "/api/embeddings", engine)).json() == {"embedding": []}
    assert not engine.calls


async def test_api_embeddings() -> None:
    assert (await post({"model": "tiny:latest", "prompt": "a b"}, "/api/embeddings")).json() == {
        "embedding": floats(vector_of(0))
    }


# --- SageMaker --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("body", "kind"),
    [
        ({"messages": [{"role": "user", "content": "hi"}]}, "chat.completion"),
        ({"prompt": "hi", "messages": None}, "text_completion"),
        ({"input": "hi"}, "list"),
    ],
)
async def test_invocations_answer_as_the_route_that_is_meant(body: Any, kind: str) -> None:
    assert (await post(body, "/invocations")).json()["object"] == kind


async def test_invocations_stream() -> None:
    answer = await post({"prompt": "hi", "stream": True, "max_tokens": 2}, "/invocations")
    assert answer.text.endswith("data: [DONE]\n\n")


@pytest.mark.parametrize(("body", "param"), [({}, None), ({"text": "x"}, None), ({"input": ""}, "input")])
async def test_invocations_refuse(body: Any, param: str | None) -> None:
    async with in_process() as client:
        answer = await client.post("/invocations", json=body)
    assert answer.status_code == 400 and answer.json()["error"]["param"] == param


# --- admin ------------------------------------------------------------------------------------------------------------

ADMIN = ["/reset_prefix_cache", "/v1/load_lora_adapter", "/v1/unload_lora_adapter", "/sleep", "/wake_up"]


@pytest.mark.parametrize("path", ADMIN)
async def test_admin_routes_are_closed_unless_opened(path: str) -> None:
    engine = FakeEngine()
    async with in_process(engine) as client:
        answer = await client.post(path)
    assert answer.status_code == 403 and answer.json()["error"]["code"] == "route_disabled"
    assert not engine.num_resets


@pytest.mark.parametrize("path", ADMIN[1:])
async def test_what_the_engine_lacks_is_refused_plainly(path: str) -> None:
    async with in_process(admin=True) as client:
        answer = await client.post(path)
    error = answer.json()["error"]
    assert answer.status_code == 400 and error["code"] == "route_unsupported" and "this version" in error["message"]


async def test_reset_prefix_cache() -> None:
    engine = FakeEngine()
    async with in_process(engine, admin=True) as client:
        answer = await client.post("/reset_prefix_cache")
    assert answer.json() == {"num_blocks": 3} and engine.num_resets == 1
