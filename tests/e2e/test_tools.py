"""Tool calls of real processes: required and named ones are always valid, on a model that was never taught any."""

import json
from collections.abc import Iterator
from typing import Any

import pytest
from openai import OpenAI
from server import Server
from wire_client import eventually, post, ready

from paceline.engine.errors import PacelineError
from paceline.engine.store.resolve import locate

pytestmark = [pytest.mark.e2e, pytest.mark.model]

MODEL = "smollm2:135m"
BASE = ["-s", "target.max_model_len=1024", "-s", "cache.num_blocks=256"]
CITY = {"type": "object", "properties": {"city": {"type": "string", "maxLength": 12}, "days": {"enum": [1, 2, 3]}},
        "required": ["city", "days"]}  # fmt: skip
WEATHER = {"type": "function", "function": {"name": "get_weather", "strict": True, "parameters": CITY}}
TIME = {"type": "function", "function": {"name": "get_time", "strict": True, "parameters": {"type": "object"}}}
ASK: list[Any] = [{"role": "user", "content": "What will the weather be in Oslo?"}]


@pytest.fixture(scope="module")
def served(serve: Any) -> Iterator[Server]:
    try:
        locate(MODEL, download=False)
    except PacelineError as e:
        pytest.skip(f"make fetch first: {e}")
    more = ["-s", 'speculation.methods=["suffix"]']
    with serve(*more, model=MODEL, base=BASE) as server:
        yield server


def check(name: str, arguments: str) -> None:
    found = json.loads(arguments)
    if name == "get_time":
        assert found == {}
    else:
        assert name == "get_weather" and set(found) == {"city", "days"}
        assert len(found["city"]) <= 12 and found["days"] in (1, 2, 3)


@pytest.mark.parametrize("temperature", [0, 1])
def test_required_calls_are_valid(served: Server, temperature: float) -> None:
    body = {"messages": ASK, "tools": [WEATHER, TIME], "tool_choice": "required", "parallel_tool_calls": False,
            "max_tokens": 100, "temperature": temperature, "n": 3, "seed": 7}  # fmt: skip
    status, answer = post(f"{served.url}/v1/chat/completions", body)
    assert status == 200, answer
    for choice in answer["choices"]:
        assert choice["finish_reason"] == "tool_calls" and choice["message"]["content"] is None
        (call,) = choice["message"]["tool_calls"]
        check(call["function"]["name"], call["function"]["arguments"])


def test_the_official_client_streams_what_the_whole_answer_says(served: Server) -> None:
    fields: Any = {"model": MODEL, "messages": ASK, "tools": [WEATHER, TIME], "max_tokens": 100, "temperature": 0,
                   "tool_choice": {"type": "function", "function": {"name": "get_weather"}}}  # fmt: skip
    with OpenAI(base_url=f"{served.url}/v1", api_key="unused") as client:
        with client.chat.completions.stream(**fields) as stream:
            deltas = [e.arguments_delta for e in stream if e.type == "tool_calls.function.arguments.delta"]
            streamed = stream.get_final_completion().choices[0]
        whole = client.chat.completions.create(**fields).choices[0]
    assert len(deltas) > 1 and streamed.finish_reason == whole.finish_reason == "stop"
    (first,), (second,) = streamed.message.tool_calls or [], whole.message.tool_calls or []
    assert isinstance(second.function.arguments, str) and "".join(deltas) == second.function.arguments  # pyright: ignore
    assert first.function.arguments == second.function.arguments  # pyright: ignore[reportAttributeAccessIssue]
    check("get_weather", "".join(deltas))


def test_the_other_dialects_require_calls_too(served: Server) -> None:
    status, message = post(f"{served.url}/v1/messages", {
        "model": MODEL, "max_tokens": 100, "messages": ASK, "tool_choice": {"type": "tool", "name": "get_weather"},
        "tools": [{"name": "get_weather", "input_schema": CITY}]})  # fmt: skip
    assert status == 200 and message["stop_reason"] == "tool_use"
    check("get_weather", json.dumps(message["content"][-1]["input"]))
    status, response = post(f"{served.url}/v1/responses", {
        "model": MODEL, "max_output_tokens": 100, "input": "The weather in Oslo?", "tool_choice": "required",
        "parallel_tool_calls": False,
        "tools": [{"type": "function", "name": "get_weather", "parameters": CITY}]})  # fmt: skip
    assert status == 200 and response["status"] == "completed"
    check("get_weather", response["output"][-1]["arguments"])


def test_results_go_back_and_nothing_stays_held(served: Server) -> None:
    call = {"id": "call_1", "type": "function", "function": {"name": "get_weather", "arguments": '{"city": "Oslo"}'}}
    messages = [*ASK, {"role": "assistant", "tool_calls": [call]},
                {"role": "tool", "tool_call_id": "call_1", "content": "It rains."}]  # fmt: skip
    body = {"messages": messages, "tools": [WEATHER], "tool_choice": "none", "max_tokens": 16}
    status, answer = post(f"{served.url}/v1/chat/completions", body)
    assert status == 200 and isinstance(answer["choices"][0]["message"]["content"], str)
    assert "tool_calls" not in answer["choices"][0]["message"]
    eventually(lambda: ready(served.url)["free_blocks"] == ready(served.url)["total_blocks"], 10)
