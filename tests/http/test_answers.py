"""Shapes of whole answers and of streams, over the ASGI application and a fake engine."""

import asyncio
from typing import Any

import pytest
from fake_engine import FakeEngine
from http_app import events, in_process

pytestmark = pytest.mark.anyio

CHAT = "/v1/chat/completions"
COMPLETIONS = "/v1/completions"
HELLO = [{"role": "user", "content": "hello"}]


@pytest.fixture
def anyio_backend() -> str:
    return "asyncio"


async def post(path: str, body: dict[str, Any], engine: FakeEngine | None = None) -> Any:
    async with in_process(engine) as client:
        answer = await client.post(path, json=body)
        assert answer.status_code == 200, answer.text
        return events(answer.content) if body.get("stream") else answer.json()


async def test_completion_has_exactly_the_keys_of_the_page() -> None:
    answer = await post(COMPLETIONS, {"prompt": "one two three", "max_tokens": 2})
    assert answer.pop("id").startswith("cmpl-") and isinstance(answer.pop("created"), int)
    assert answer == {
        "object": "text_completion",
        "model": "tiny",
        "system_fingerprint": "paceline-0.1.0-cpu-float32-abcdef012345",
        "service_tier": None,
        "choices": [
            {
                "index": 0,
                "text": "tok0 tok1 ",
                "logprobs": None,
                "finish_reason": "length",
                "stop_reason": None,
                "token_ids": None,
                "prompt_token_ids": None,
                "prompt_logprobs": None,
            }
        ],
        "usage": {
            "prompt_tokens": 3,
            "completion_tokens": 2,
            "total_tokens": 5,
            "prompt_tokens_details": {"cached_tokens": 2},
            "completion_tokens_details": {"reasoning_tokens": 0},
        },
    }


async def test_chat_has_exactly_the_keys_of_the_page() -> None:
    answer = await post(CHAT, {"messages": HELLO, "max_tokens": 2})
    assert answer["id"].startswith("chatcmpl-") and answer["object"] == "chat.completion"
    assert set(answer) == {
        "id", "object", "created", "model", "system_fingerprint", "service_tier", "choices", "usage", "prompt_logprobs",
        "prompt_token_ids",
    }  # fmt: skip
    message = {"role": "assistant", "content": "tok0 tok1 ", "refusal": None, "annotations": [], "reasoning": None}
    assert answer["choices"] == [
        {
            "index": 0,
            "message": message,
            "logprobs": None,
            "finish_reason": "length",
            "stop_reason": None,
            "token_ids": None,
        }
    ]


async def test_choices_are_prompts_times_n_and_each_prompt_counts_once() -> None:
    answer = await post(COMPLETIONS, {"prompt": ["a b", "c d e"], "n": 2, "max_tokens": 3})
    assert [c["index"] for c in answer["choices"]] == [0, 1, 2, 3]
    assert answer["usage"]["prompt_tokens"] == 5 and answer["usage"]["completion_tokens"] == 12
    assert answer["usage"]["prompt_tokens_details"]["cached_tokens"] == 4


async def test_chat_stream_is_role_content_finish_usage_done() -> None:
    body = {"messages": HELLO, "max_tokens": 2, "stream": True, "stream_options": {"include_usage": True}}
    role, first, second, finish, last, done = await post(CHAT, body)
    assert set(role) == {"id", "object", "created", "model", "choices"} and role["object"] == "chat.completion.chunk"
    shape = {"index": 0, "logprobs": None, "finish_reason": None}
    assert role["choices"] == [shape | {"delta": {"role": "assistant", "content": ""}}]
    assert first["choices"] == [shape | {"delta": {"content": "tok0 "}}]
    assert second["choices"] == [shape | {"delta": {"content": "tok1 "}}]
    assert finish["choices"] == [shape | {"delta": {}, "finish_reason": "length", "stop_reason": None}]
    assert last["choices"] == [] and last["usage"]["completion_tokens"] == 2
    assert done == "[DONE]"


async def test_completion_stream() -> None:
    chunks = await post(COMPLETIONS, {"prompt": [1, 2], "n": 2, "max_tokens": 2, "stream": True})
    assert chunks.pop() == "[DONE]"
    rows = [c["choices"][0] for c in chunks]
    plain = {"logprobs": None, "finish_reason": None, "stop_reason": None}
    assert rows[0] == {"index": 0, "text": "tok0 "} | plain
    assert [r["index"] for r in rows if r["finish_reason"]] == [0, 1]
    assert all("usage" not in c for c in chunks)


async def test_continuous_usage_is_on_every_chunk() -> None:
    options = {"include_usage": True, "continuous_usage_stats": True}
    chunks = await post(CHAT, {"messages": HELLO, "max_tokens": 3, "stream": True, "stream_options": options})
    assert [c["usage"]["completion_tokens"] for c in chunks[:-1]] == [1, 1, 2, 3, 3, 3]


@pytest.mark.parametrize("path", [CHAT, COMPLETIONS])
@pytest.mark.parametrize("interval", [1, 3])
async def test_streamed_equals_not_streamed(path: str, interval: int) -> None:
    prompt: dict[str, Any] = {"messages": HELLO} if path == CHAT else {"prompt": ["a b", [1, 2, 3]]}
    logprobs = {"logprobs": True, "top_logprobs": 2} if path == CHAT else {"logprobs": 2}
    body = prompt | logprobs | {"max_tokens": 7, "n": 2, "return_token_ids": True}
    engine = FakeEngine()
    engine.stop_at = 4
    whole = await post(path, body, engine)
    streaming = {"stream": True, "stream_interval": interval, "stream_options": {"include_usage": True}}
    chunks = await post(path, body | streaming, engine)
    assert chunks[-2]["usage"] == whole["usage"]
    for choice in whole["choices"]:
        rows = [r for c in chunks[:-1] for r in c["choices"] if r["index"] == choice["index"]]
        if path == CHAT:
            text = "".join(r["delta"].get("content", "") for r in rows)
            assert text == choice["message"]["content"]
            content = [t for r in rows if r["logprobs"] for t in r["logprobs"]["content"]]
            assert content == choice["logprobs"]["content"]
        else:
            assert "".join(r["text"] for r in rows) == choice["text"]
            for key, values in choice["logprobs"].items():
                assert [v for r in rows if r["logprobs"] for v in r["logprobs"][key]] == values
        assert [i for r in rows for i in r.get("token_ids", [])] == choice["token_ids"] == [100, 101, 102, 103, 104]
        ends = [(r["finish_reason"], r["stop_reason"]) for r in rows if r["finish_reason"]]
        assert ends == [("stop", "halt")] == [(choice["finish_reason"], choice["stop_reason"])]


async def test_prompt_ids_come_once() -> None:
    body = {"prompt": [7, 8], "max_tokens": 2, "return_token_ids": True}
    whole = await post(COMPLETIONS, body)
    assert whole["choices"][0]["prompt_token_ids"] == [7, 8]
    chunks = await post(COMPLETIONS, body | {"stream": True})
    assert [c["choices"][0].get("prompt_token_ids") for c in chunks[:-1]] == [[7, 8], None]
    chunks = await post(CHAT, {"messages": HELLO, "max_tokens": 2, "return_token_ids": True, "stream": True})
    assert [c.get("prompt_token_ids") for c in chunks[:-1]] == [[1, 2, 3, 4, 5], None, None, None]


async def test_echo_with_logprobs_as_lm_eval_reads_them() -> None:
    body = {"prompt": [[11, 12, 13]], "temperature": 0, "max_tokens": 1, "logprobs": 1, "seed": 1234, "echo": True}
    choice = (await post(COMPLETIONS, body))["choices"][0]
    assert choice["text"] == "<11><12><13>tok0 "
    logprobs = choice["logprobs"]
    assert logprobs["tokens"] == ["<11>", "<12>", "<13>", "tok0 "]
    assert logprobs["token_logprobs"] == [None, -1.5, -1.5, -1.5]
    assert logprobs["top_logprobs"] == [None] + [{"alt0": -0.5, t: -1.5} for t in ("<12>", "<13>", "tok0 ")]
    assert logprobs["text_offset"] == [0, 4, 8, 12]
    assert choice["prompt_logprobs"] is None


async def test_echo_shows_as_many_alternatives_as_logprobs_asks_for() -> None:
    engine = FakeEngine()
    body = {"prompt": [11, 12], "max_tokens": 1, "logprobs": 2, "prompt_logprobs": 0, "echo": True}
    await post(COMPLETIONS, body, engine)
    assert engine.calls[0].sampling.prompt_logprobs == 2


async def test_echo_of_the_prompt_alone() -> None:
    body = {"prompt": [11, 12], "max_tokens": 0, "logprobs": 0, "echo": True}
    answer = await post(COMPLETIONS, body)
    assert answer["choices"][0]["text"] == "<11><12>" and answer["usage"]["completion_tokens"] == 0
    assert answer["choices"][0]["logprobs"]["token_logprobs"] == [None, -1.5]


async def test_echo_streams_the_prompt_first() -> None:
    chunks = await post(
        COMPLETIONS, {"prompt": "one two", "max_tokens": 2, "echo": True, "logprobs": 0, "stream": True}
    )
    first = chunks[0]["choices"][0]
    assert first["text"] == "one twotok0 " and first["logprobs"]["text_offset"] == [0, 3, 6]
    assert chunks[1]["choices"][0]["logprobs"]["text_offset"] == [11]


async def test_chat_echo_continues_the_assistant() -> None:
    messages = [*HELLO, {"role": "assistant", "content": "Well, "}]
    body = {"messages": messages, "continue_final_message": True, "add_generation_prompt": False, "echo": True}
    answer = await post(CHAT, body | {"max_tokens": 1})
    assert answer["choices"][0]["message"]["content"] == "Well, tok0 "


async def test_chat_logprobs_have_bytes_and_the_sampled_token() -> None:
    answer = await post(CHAT, {"messages": HELLO, "max_tokens": 1, "logprobs": True, "top_logprobs": 2})
    logprobs = answer["choices"][0]["logprobs"]
    sampled = {"token": "tok0 ", "logprob": -1.5, "bytes": list(b"tok0 ")}
    assert logprobs["refusal"] is None
    assert logprobs["content"][0]["top_logprobs"][-1] == sampled
    assert {k: logprobs["content"][0][k] for k in sampled} == sampled
    assert len(logprobs["content"][0]["top_logprobs"]) == 3


async def test_tokens_as_ids() -> None:
    body = {"prompt": "x", "max_tokens": 1, "logprobs": 1, "return_tokens_as_token_ids": True}
    logprobs = (await post(COMPLETIONS, body))["choices"][0]["logprobs"]
    assert logprobs["tokens"] == ["token_id:100"]
    assert logprobs["top_logprobs"] == [{"token_id:500": -0.5, "token_id:100": -1.5}]


async def test_prompt_logprobs() -> None:
    body = {"messages": HELLO, "max_tokens": 1, "prompt_logprobs": 0}
    told = (await post(CHAT, body))["prompt_logprobs"]
    assert told[0] is None and told[1] == {"2": {"logprob": -1.5, "rank": 2, "decoded_token": "<2>"}} and len(told) == 5
    told = (await post(COMPLETIONS, {"prompt": [1, 2], "max_tokens": 1, "prompt_logprobs": 0}))["choices"][0]
    assert len(told["prompt_logprobs"]) == 2


async def test_request_id_of_header_wins_and_is_echoed() -> None:
    async with in_process() as client:
        body = {"prompt": "x", "request_id": "from-body"}
        answer = await client.post(COMPLETIONS, json=body, headers={"X-Request-Id": "from-header"})
        assert answer.json()["id"] == "cmpl-from-header" and answer.headers["x-request-id"] == "from-header"
        answer = await client.post(COMPLETIONS, json=body)
        assert answer.json()["id"] == "cmpl-from-body" and answer.headers["x-request-id"] == "from-body"


async def test_two_calls_with_one_request_id_are_two_calls_of_the_engine() -> None:
    engine = FakeEngine()
    async with in_process(engine) as client:
        body = {"prompt": "x", "request_id": "same"}
        await asyncio.gather(*(client.post(COMPLETIONS, json=body) for _ in range(2)))
    assert engine.calls[0].call_id != engine.calls[1].call_id


async def test_fields_reach_the_engine() -> None:
    engine = FakeEngine()
    body = {
        "prompt": [5, 6], "max_tokens": 9, "min_tokens": 2, "temperature": 0.001, "top_p": 0.9, "top_k": -1,
        "min_p": 0.1, "presence_penalty": 1, "frequency_penalty": -1, "repetition_penalty": 1.1, "seed": -5,
        "stop": "X", "stop_token_ids": [3], "ignore_eos": True, "logit_bias": {"7": 400}, "allowed_token_ids": [8],
        "bad_words": ["no"], "cache_salt": "s", "truncate_prompt_tokens": 4, "truncation_side": "left", "user": None,
    }  # fmt: skip
    await post(COMPLETIONS, body, engine)
    call = engine.calls[0]
    sampling = call.sampling
    assert (sampling.max_tokens, sampling.min_tokens, sampling.temperature, sampling.top_k) == (9, 2, 0.01, 0)
    assert (sampling.seed, sampling.stop, sampling.stop_token_ids, sampling.ignore_eos) == (-5, ["X"], [3], True)
    assert sampling.logit_bias == {7: 100.0} and sampling.allowed_token_ids == [8] and sampling.bad_words == ["no"]
    assert (call.cache_salt, call.truncate_prompt_tokens, call.truncation_side) == ("s", 4, "left")
    assert call.prompts == [[5, 6]] and call.add_special_tokens


async def test_an_integer_may_be_written_with_a_point() -> None:
    engine = FakeEngine()
    fields = {"max_tokens": 4.0, "n": 1e0, "top_p": 1.0, "logit_bias": {"7": 2.0}, "stop_token_ids": [3.0]}
    async with in_process(engine) as client:
        answer = await client.post("/v1/completions", json={"model": "tiny", "prompt": "x", **fields})
        assert answer.status_code == 200, answer.text
        for wrong in (4.5, 2.0**60):
            refused = await client.post("/v1/completions", json={"model": "tiny", "prompt": "x", "max_tokens": wrong})
            assert refused.status_code == 400 and refused.json()["error"]["param"] == "max_tokens"
    sampling = engine.calls[0].sampling
    assert (sampling.max_tokens, sampling.top_p, sampling.logit_bias) == (4, 1.0, {7: 2.0})
    assert sampling.stop_token_ids == [3] and len(engine.calls) == 1


async def test_a_call_without_a_seed_gets_its_own() -> None:
    engine = FakeEngine()
    for seed in (None, -1):
        await post(COMPLETIONS, {"prompt": "x", "seed": seed}, engine)
    first, second = (c.sampling.seed for c in engine.calls)
    assert first != second and min(first, second) >= 0


async def test_max_completion_tokens_wins_and_the_default_is_the_models() -> None:
    engine = FakeEngine()
    await post(CHAT, {"messages": HELLO, "max_tokens": 5, "max_completion_tokens": 3}, engine)
    await post(CHAT, {"messages": HELLO}, engine)
    assert [c.sampling.max_tokens for c in engine.calls] == [3, None]
    assert not engine.calls[0].add_special_tokens


async def test_conversation_reaches_the_engine() -> None:
    engine = FakeEngine()
    calls = [{"id": "c", "type": "function", "function": {"name": "f", "arguments": "{}"}}]
    messages = [
        {"role": "developer", "content": [{"type": "text", "text": "be kind"}], "name": "d", "odd": 1},
        {"role": "assistant", "content": None, "tool_calls": calls, "reasoning": "hm"},
        {"role": "observer", "content": "known to the template"},
    ]
    body = {"messages": messages, "chat_template_kwargs": {"x": 1}, "reasoning_effort": "low"}
    await post(CHAT, body, engine)
    chat = engine.calls[0].chat
    assert chat is not None and chat.add_generation_prompt
    assert chat.messages[0] == {"role": "developer", "content": [{"type": "text", "text": "be kind"}], "name": "d"}
    assert chat.messages[1] == {"role": "assistant", "tool_calls": calls, "reasoning_content": "hm"}
    assert chat.template_kwargs == {"x": 1, "reasoning_effort": "low"}


async def test_tools_that_may_not_be_called_are_only_described() -> None:
    engine = FakeEngine()
    tools = [{"type": "function", "function": {"name": "f", "parameters": {}}}]
    await post(CHAT, {"messages": HELLO, "tools": tools, "tool_choice": "none"}, engine)
    assert engine.calls[0].chat is not None and engine.calls[0].chat.tools == tools


async def test_null_is_absent_and_unknown_fields_are_named() -> None:
    async with in_process() as client:
        body = {
            "prompt": "x",
            "n": None,
            "seed": None,
            "stop": None,
            "model": None,
            "best_of": 1,
            "shiny": {},
            "nil": None,
        }
        answer = await client.post(COMPLETIONS, json=body | {"bad name\r\n": 1, "speculation": False})
        assert answer.status_code == 200 and answer.headers["x-paceline-ignored"] == "best_of, shiny"


async def test_text_of_other_scripts_is_not_escaped_away() -> None:
    engine = FakeEngine()
    engine.text = '\u00e9\u4f60\U0001f600"\n'
    answer = await post(CHAT, {"messages": HELLO, "max_tokens": 2, "stream": True}, engine)
    assert "".join(c["choices"][0]["delta"].get("content", "") for c in answer[:-1]) == engine.text * 2
