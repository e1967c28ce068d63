"""/v1/responses: whole, streamed, continued, stored."""

import json
from typing import Any

import httpx
import openai
import pytest
from fake_engine import FakeEngine
from http_app import in_process, on_socket

from paceline.actors.http.responses_store import ResponseStore
from paceline.engine.errors import ActorError, InvalidRequestError

pytestmark = pytest.mark.anyio

PATH = "/v1/responses"
BODY: dict[str, Any] = {"model": "tiny", "input": "hello", "max_output_tokens": 3}
REQUIRED = {
    "id", "object", "created_at", "status", "error", "incomplete_details", "instructions", "metadata", "model",
    "output", "parallel_tool_calls", "temperature", "top_p", "tool_choice", "tools", "usage",
}  # fmt: skip
TOOL = {"type": "function", "name": "f", "parameters": {"type": "object"}, "strict": True}


@pytest.fixture
def anyio_backend() -> str:
    return "asyncio"


def events(answer: httpx.Response) -> list[dict[str, Any]]:
    found = []
    for block in answer.text.strip().split("\n\n"):
        name, data = block.split("\n")
        found.append(json.loads(data.removeprefix("data: ")))
        assert name == f"event: {found[-1]['type']}"
    assert [e["sequence_number"] for e in found] == list(range(len(found)))
    return found


async def test_a_whole_response() -> None:
    async with in_process() as client:
        answer = (await client.post(PATH, json=BODY, headers={"x-request-id": "r1"})).json()
    assert set(answer) > REQUIRED and answer["id"] == "resp_r1" and answer["object"] == "response"
    assert answer["status"] == "incomplete" and answer["incomplete_details"] == {"reason": "max_output_tokens"}
    assert answer["output"] == [{
        "type": "message", "id": "msg_r1", "role": "assistant", "status": "incomplete",
        "content": [{"type": "output_text", "text": "tok0 tok1 tok2 ", "annotations": [], "logprobs": []}],
    }]  # fmt: skip
    assert answer["usage"] == {
        "input_tokens": 5, "input_tokens_details": {"cached_tokens": 2, "cache_write_tokens": 0}, "output_tokens": 3,
        "output_tokens_details": {"reasoning_tokens": 0}, "total_tokens": 8,
    }  # fmt: skip


async def test_what_the_schema_does_not_let_be_null_is_left_out() -> None:
    async with in_process() as client:
        assert "user" not in (await client.post(PATH, json=BODY)).json()
        assert (await client.post(PATH, json=BODY | {"user": "ada"})).json()["user"] == "ada"


async def test_only_what_counted_is_told_again() -> None:
    wild = {"tool_choice": {"type": "odd"}, "text": {"verbosity": 5, "a": 1}, "reasoning": {"summary": [], "b": 2}}
    async with in_process() as client:
        told = (await client.post(PATH, json=BODY | wild)).json()
        assert told["tool_choice"] == "auto" and told["text"] == {"format": {"type": "text"}}
        assert told["reasoning"] == {"effort": None, "summary": None}
        sound = {"tool_choice": "none", "text": {"verbosity": "low"}, "reasoning": {"effort": "low", "summary": "auto"}}
        told = (await client.post(PATH, json=BODY | sound)).json()
    assert told["tool_choice"] == "none" and told["reasoning"] == sound["reasoning"]
    assert told["text"] == {"format": {"type": "text"}, "verbosity": "low"}


async def test_events_of_a_stream() -> None:
    engine = FakeEngine()
    engine.stop_at = 1
    async with in_process(engine) as client:
        found = events(await client.post(PATH, json=BODY | {"stream": True}))
        stored = (await client.get(f"{PATH}/{found[0]['response']['id']}")).json()
    assert [e["type"].removeprefix("response.") for e in found] == [
        "created", "in_progress", "output_item.added", "content_part.added", "output_text.delta", "output_text.delta",
        "output_text.done", "content_part.done", "output_item.done", "completed",
    ]  # fmt: skip
    assert found[0]["response"]["status"] == "in_progress" and found[0]["response"]["usage"] is None
    assert "".join(e["delta"] for e in found if "delta" in e) == found[6]["text"] == "tok0 tok1 "
    assert found[-1]["response"] == stored and stored["status"] == "completed" and stored["usage"]["output_tokens"] == 2


async def test_a_failure_in_the_stream_is_an_error_event_and_nothing_is_stored() -> None:
    engine = FakeEngine()
    engine.fail_with = ActorError("boom")
    async with in_process(engine) as client:
        found = events(await client.post(PATH, json=BODY | {"stream": True}))
        assert found[-1]["type"] == "error" and set(found[-1]) >= {"code", "message", "param"}
        assert (await client.get(f"{PATH}/{found[0]['response']['id']}")).status_code == 404


async def test_items_and_fields_reach_the_template() -> None:
    engine = FakeEngine()
    items: list[Any] = [
        {"role": "user", "content": [{"type": "input_text", "text": "a"}, {"type": "input_text", "text": "b"}]},
        {"type": "reasoning", "summary": [{"type": "summary_text", "text": "hm"}]},
        {"type": "function_call", "call_id": "c1", "name": "f", "arguments": "{}"},
        {"type": "function_call_output", "call_id": "c1", "output": "42"},
    ]
    async with in_process(engine) as client:
        body = BODY | {
            "input": items, "instructions": "be brief", "tools": [TOOL], "tool_choice": "none", "temperature": 0.5,
            "top_p": 0.5, "top_k": 4, "seed": 3, "reasoning": {"effort": "low"}, "top_logprobs": 1, "shiny": 1,
        }  # fmt: skip
        answer = await client.post(PATH, json=body)
    assert answer.status_code == 200 and answer.headers["x-paceline-ignored"] == "shiny", answer.text
    assert len(answer.json()["output"][0]["content"][0]["logprobs"]) == 3
    [call] = engine.calls
    assert call.chat is not None and call.chat.messages == [
        {"role": "system", "content": "be brief"},
        {"role": "user", "content": "ab"},
        {"role": "assistant", "content": "", "reasoning_content": "hm", "tool_calls": [
            {"id": "c1", "type": "function", "function": {"name": "f", "arguments": "{}"}}]},
        {"role": "tool", "content": "42", "tool_call_id": "c1"},
    ]  # fmt: skip
    assert call.chat.tools is not None and call.chat.tools[0]["function"]["name"] == "f"
    assert call.chat.template_kwargs == {"reasoning_effort": "low"}
    s = call.sampling
    assert (s.max_tokens, s.temperature, s.top_p, s.top_k, s.seed, s.logprobs) == (3, 0.5, 0.5, 4, 3, 1)


async def test_a_response_is_continued() -> None:
    engine = FakeEngine()
    async with in_process(engine) as client:
        first = (await client.post(PATH, json=BODY | {"instructions": "once"})).json()
        second = (await client.post(PATH, json=BODY | {"input": "more", "previous_response_id": first["id"]})).json()
        assert second["previous_response_id"] == first["id"]
        items = (await client.get(f"{PATH}/{second['id']}/input_items")).json()["data"]
    assert engine.calls[1].chat is not None
    assert [(m["role"], m["content"]) for m in engine.calls[1].chat.messages] == [
        ("user", "hello"), ("assistant", "tok0 tok1 tok2 "), ("user", "more"),
    ]  # fmt: skip
    assert [item["role"] for item in items] == ["user", "assistant", "user"]


async def test_what_is_stored_is_its_makers() -> None:
    async with in_process(api_keys=["a", "b"]) as client:
        mine, other = {"x-api-key": "a"}, {"x-api-key": "b"}
        made = (await client.post(PATH, json=BODY, headers=mine)).json()
        path = f"{PATH}/{made['id']}"
        assert (await client.get(path, headers=mine)).json() == made
        refused = await client.get(path, headers=other)
        assert refused.status_code == 404 and refused.json()["error"]["code"] == "response_not_found"
        body = BODY | {"previous_response_id": made["id"]}
        assert (await client.post(PATH, json=body, headers=other)).json()["error"]["param"] == "previous_response_id"
        assert (await client.post(f"{path}/cancel", headers=mine)).status_code == 400
        assert (await client.put(path, headers=mine)).headers["allow"] == "DELETE, GET, HEAD"
        assert (await client.delete(path, headers=other)).status_code == 404
        assert (await client.delete(path, headers=mine)).json()["deleted"] is True
        assert (await client.get(path, headers=mine)).status_code == 404
        unkept = (await client.post(PATH, json=BODY | {"store": False}, headers=mine)).json()
        assert unkept["store"] is False
        assert (await client.get(f"{PATH}/{unkept['id']}", headers=mine)).status_code == 404


def test_the_store_is_bounded() -> None:
    store = ResponseStore(max_responses=2, max_bytes=200)
    for name in ("a", "b", "c"):
        store.keep("me", {"id": name, "output": []}, [])
    with pytest.raises(InvalidRequestError):
        store.find("me", "a")
    assert store.find("me", "c").conversation == []
    store.keep("me", {"id": "d", "output": []}, ["x" * 150])
    with pytest.raises(InvalidRequestError):
        store.find("me", "b")
    store.keep("me", {"id": "e", "output": []}, ["x" * 300])
    with pytest.raises(InvalidRequestError):
        store.find("me", "e")
    assert store.find("me", "d").items


@pytest.mark.parametrize(
    ("fields", "param"),
    [
        ({"input": None}, "input"),
        ({"input": []}, "input"),
        ({"input": [7]}, "input.0"),
        ({"input": [{"type": "item_reference", "id": "x"}]}, "input.0"),
        ({"input": [{"role": "wizard", "content": "x"}]}, "input.0.role"),
        ({"input": [{"role": "user", "content": [{"type": "input_image"}]}]}, "input.0.content.0"),
        ({"input": [{"type": "reasoning", "content": 7}]}, "input.0.content"),
        ({"input": [{"type": "reasoning", "summary": {"a": 1}}]}, "input.0.summary"),
        ({"max_output_tokens": 0}, "max_output_tokens"),
        ({"n": 2}, "n"),
        ({"truncation": "x"}, "truncation"),
        ({"background": True}, "background"),
        ({"conversation": "x"}, "conversation"),
        ({"tools": [{"type": "web_search"}]}, "tools.0"),
        ({"text": {"format": {"type": "json_schema", "schema": {"type": 5}}}}, "text.format"),
        ({"text": {"format": {"type": "xml"}}}, "text.format.type"),
        ({"reasoning": {"effort": "huge"}}, "reasoning.effort"),
        ({"previous_response_id": "resp_x"}, "previous_response_id"),
        ({"temperature": 3}, "temperature"),
    ],
)
async def test_refusals(fields: dict[str, Any], param: str) -> None:
    engine = FakeEngine()
    async with in_process(engine) as client:
        answer = await client.post(PATH, json=BODY | fields)
    assert answer.status_code in (400, 404) and answer.json()["error"]["param"] == param, answer.text
    assert not engine.calls


async def test_the_official_client() -> None:
    engine = FakeEngine()
    engine.stop_at = 2
    async with (
        on_socket(engine) as (url, _),
        openai.AsyncOpenAI(base_url=f"{url}/v1", api_key="unused", max_retries=0) as client,
    ):
        made = await client.responses.create(**BODY)
        assert made.output_text == "tok0 tok1 tok2 " and made.status == "completed"
        assert (await client.responses.retrieve(made.id)).output_text == made.output_text
        async with client.responses.stream(model="tiny", input="x", previous_response_id=made.id) as stream:
            kinds = {event.type async for event in stream}
            final = await stream.get_final_response()
        assert "response.output_text.delta" in kinds and final.output_text.startswith("tok0")
        await client.responses.delete(made.id)
        with pytest.raises(openai.NotFoundError):
            await client.responses.retrieve(made.id)
