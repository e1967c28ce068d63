"""Anthropic's dialect: messages whole and streamed, blocks, counting; and its own client where it is installed."""

import json
from typing import Any

import httpx
import pytest
from fake_engine import FakeEngine, state
from http_app import in_process, on_socket

from paceline.actors.messages import Generate
from paceline.engine.errors import ActorError

pytestmark = pytest.mark.anyio

MESSAGES = "/v1/messages"
USER = {"role": "user", "content": "hello"}
BODY: dict[str, Any] = {"model": "tiny", "max_tokens": 3, "messages": [USER]}
TOOL = {"name": "f", "description": "d", "input_schema": {"type": "object"}}


@pytest.fixture
def anyio_backend() -> str:
    return "asyncio"


def events(answer: httpx.Response) -> list[tuple[str, dict[str, Any]]]:
    assert answer.headers["content-type"].startswith("text/event-stream")
    found = []
    for block in answer.text.strip().split("\n\n"):
        name, data = block.split("\n")
        found.append((name.removeprefix("event: "), json.loads(data.removeprefix("data: "))))
        assert found[-1][0] == found[-1][1]["type"]
    return found


async def one_call(**fields: Any) -> Generate:
    engine = FakeEngine()
    async with in_process(engine) as client:
        answer = await client.post(MESSAGES, json=BODY | fields)
        assert answer.status_code == 200, answer.text
    [call] = engine.calls
    return call


async def test_a_whole_message() -> None:
    async with in_process() as client:
        answer = await client.post(MESSAGES, json=BODY | {"shiny": 1}, headers={"x-request-id": "r1"})
    assert answer.json() == {
        "id": "msg_r1", "type": "message", "role": "assistant", "model": "tiny",
        "content": [{"type": "text", "text": "tok0 tok1 tok2 "}], "stop_reason": "max_tokens", "stop_sequence": None,
        "usage": {
            "input_tokens": 3, "cache_creation_input_tokens": 0, "cache_read_input_tokens": 2, "output_tokens": 3,
        },
    }  # fmt: skip
    assert answer.headers["request-id"] == answer.headers["x-request-id"] == "r1"
    assert answer.headers["x-paceline-ignored"] == "shiny"


async def test_events_of_a_stream() -> None:
    engine = FakeEngine()
    engine.stop_at = 1
    async with in_process(engine) as client:
        found = events(await client.post(MESSAGES, json=BODY | {"stream": True, "stop_sequences": ["halt"]}))
    assert [name for name, _ in found] == [
        "message_start", "ping", "content_block_start", "content_block_delta", "content_block_delta",
        "content_block_stop", "message_delta", "message_stop",
    ]  # fmt: skip
    start = found[0][1]["message"]
    assert start["content"] == [] and start["stop_reason"] is None and start["usage"]["input_tokens"] == 5
    assert "".join(e["delta"]["text"] for name, e in found if name == "content_block_delta") == "tok0 tok1 "
    end = found[-2][1]
    assert end["delta"] == {"stop_reason": "stop_sequence", "stop_sequence": "halt"}
    assert end["usage"]["output_tokens"] == 2 and end["usage"]["cache_read_input_tokens"] == 2


async def test_a_failure_in_the_stream_is_an_error_event() -> None:
    engine = FakeEngine()
    engine.fail_with = ActorError("boom")
    async with in_process(engine) as client:
        name, data = events(await client.post(MESSAGES, json=BODY | {"stream": True}))[-1]
    assert name == "error" and data["error"]["type"] == "api_error" and data["error"]["message"]


async def test_fields_and_blocks_reach_the_template() -> None:
    call = await one_call(
        system=[{"type": "text", "text": "be"}, {"type": "text", "text": "brief"}],
        temperature=0.5, top_p=0.5, top_k=4, stop_sequences=["x"], thinking={"type": "enabled", "budget_tokens": 9},
        tools=[TOOL], tool_choice={"type": "none"},
        messages=[
            {"role": "user", "content": [{"type": "text", "text": "a"}, {"type": "text", "text": "b"}]},
            {"role": "assistant", "content": [
                {"type": "thinking", "thinking": "hm", "signature": "s"}, {"type": "redacted_thinking", "data": "x"},
                {"type": "tool_use", "id": "t1", "name": "f", "input": {"q": "é"}}]},
            {"role": "user", "content": [
                {"type": "tool_result", "tool_use_id": "t1", "content": [{"type": "text", "text": "42"}]},
                {"type": "text", "text": "so?"}]},
        ],
    )  # fmt: skip
    assert call.chat is not None
    assert call.chat.messages == [
        {"role": "system", "content": "be\nbrief"},
        {"role": "user", "content": "ab"},
        {"role": "assistant", "content": "", "reasoning_content": "hm", "tool_calls": [
            {"id": "t1", "type": "function", "function": {"name": "f", "arguments": '{"q": "é"}'}}]},
        {"role": "tool", "content": "42", "tool_call_id": "t1"},
        {"role": "user", "content": "so?"},
    ]  # fmt: skip
    assert call.chat.tools == [
        {"type": "function", "function": {"name": "f", "description": "d", "parameters": {"type": "object"}}}
    ]
    assert call.chat.template_kwargs == {"enable_thinking": True}
    s = call.sampling
    assert (s.max_tokens, s.temperature, s.top_p, s.top_k, s.stop) == (3, 0.5, 0.5, 4, ["x"])


async def test_a_begun_answer_is_continued() -> None:
    call = await one_call(messages=[USER, {"role": "assistant", "content": "He"}])
    assert call.chat is not None and call.chat.continue_final_message and not call.chat.add_generation_prompt
    assert not (await one_call()).chat.continue_final_message  # pyright: ignore[reportOptionalMemberAccess]


@pytest.mark.parametrize(
    ("fields", "status", "kind", "words"),
    [
        ({"max_tokens": None}, 400, "invalid_request_error", "max_tokens is missing"),
        ({"max_tokens": 0}, 400, "invalid_request_error", "max_tokens is 0"),
        ({"messages": []}, 400, "invalid_request_error", "messages is missing"),
        ({"messages": [{"role": "system", "content": "x"}]}, 400, "invalid_request_error", "messages.0.role"),
        ({"messages": [7]}, 400, "invalid_request_error", "messages.0.role"),
        ({"messages": [{"role": "user", "content": 7}]}, 400, "invalid_request_error", "messages.0.content"),
        ({"messages": [{"role": "user", "content": [{"type": "image"}]}]}, 400, "invalid_request_error", "content.0"),
        ({"messages": [{"role": "user", "content": [{"type": "tool_result", "tool_use_id": "t", "content": 7}]}]},
         400, "invalid_request_error", "messages.0.content.0.content is 7"),
        ({"system": [{"type": "image"}]}, 400, "invalid_request_error", "system.0"),
        ({"tools": [{"name": "f"}]}, 400, "invalid_request_error", "tools.0"),
        ({"tools": [TOOL, TOOL]}, 400, "invalid_request_error", "tools.1"),
        ({"tools": [TOOL], "tool_choice": {"type": "tool"}}, 400, "invalid_request_error", "tool_choice"),
        ({"temperature": "hot"}, 400, "invalid_request_error", "temperature must be a number"),
        ({"model": "other"}, 404, "not_found_error", "other"),
    ],
)  # fmt: skip
async def test_refusals(fields: dict[str, Any], status: int, kind: str, words: str) -> None:
    engine = FakeEngine()
    async with in_process(engine) as client:
        answer = await client.post(MESSAGES, json=BODY | fields)
    told = answer.json()
    assert answer.status_code == status and set(told) == {"type", "error", "request_id"} and told["type"] == "error"
    assert told["error"]["type"] == kind and words in told["error"]["message"], told
    assert not engine.calls


async def test_an_engine_that_is_not_there_and_a_wrong_key() -> None:
    engine = FakeEngine()
    engine.state = state("failed")
    async with in_process(engine, api_keys=["k"]) as client:
        assert (await client.post(MESSAGES, json=BODY)).json()["error"]["type"] == "authentication_error"
        answer = await client.post(MESSAGES, json=BODY, headers={"x-api-key": "k"})
        assert answer.status_code == 503 and answer.json()["error"]["type"] == "overloaded_error"


async def test_counting() -> None:
    engine = FakeEngine()
    async with in_process(engine) as client:
        body = {"model": "tiny", "messages": [USER], "system": "be brief", "tools": [TOOL]}
        assert (await client.post(f"{MESSAGES}/count_tokens", json=body)).json() == {"input_tokens": 7}
        refused = await client.post(f"{MESSAGES}/count_tokens", json={"messages": []})
        assert refused.status_code == 400 and refused.json()["type"] == "error"
    assert engine.tokenized[0].chat is not None and engine.tokenized[0].chat.tools and not engine.calls


async def test_the_official_client() -> None:
    anthropic = pytest.importorskip("anthropic")
    async with (
        on_socket(api_keys=["k"]) as (url, _),
        anthropic.AsyncAnthropic(base_url=url, api_key="k", max_retries=0) as client,
    ):
        message = await client.messages.create(**BODY)
        assert message.content[0].text == "tok0 tok1 tok2 " and message.stop_reason == "max_tokens"
        async with client.messages.stream(**BODY) as stream:
            assert "".join([text async for text in stream.text_stream]) == "tok0 tok1 tok2 "
            final = await stream.get_final_message()
        assert final.usage.output_tokens == 3 and final.usage.cache_read_input_tokens == 2
        assert (await client.messages.count_tokens(model="tiny", messages=[USER])).input_tokens == 3
        with pytest.raises(anthropic.NotFoundError) as caught:
            await client.messages.create(**BODY | {"model": "other"})
        assert caught.value.request_id and caught.value.body["error"]["type"] == "not_found_error"
