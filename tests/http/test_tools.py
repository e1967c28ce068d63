"""Tools and reasoning at the boundary: what reaches the engine, and what each dialect makes of an answer's parts."""

import json
import re
from collections.abc import AsyncGenerator
from typing import Any

import httpx
import msgspec
import openai
import pytest
from anthropic import AsyncAnthropic
from fake_engine import FakeEngine, card, config
from http_app import LOCATED, events, in_process, on_socket
from llguidance import LLMatcher

from paceline.actors.http.app import build_app
from paceline.actors.http.service import Service
from paceline.actors.messages import Admitted, Generate, Part, PromptInfo, TextDelta
from paceline.actors.stats import MetricsRegistry
from paceline.engine.store.located import ModelCard

pytestmark = pytest.mark.anyio

CHAT = "/v1/chat/completions"
ASK = {"messages": [{"role": "user", "content": "hello"}]}
SCHEMA = {"type": "object", "properties": {"city": {"type": "string"}}, "required": ["city"]}
TOOL = {"type": "function", "function": {"name": "get_weather", "parameters": SCHEMA, "strict": True}}
OTHER = {"type": "function", "function": {"name": "get_time"}}
NAMED = {"type": "function", "function": {"name": "get_weather"}}
THINKS = "{# tools: <tool_call> with arguments, behind <think> </think> #}"
PLAIN = "{# a chat without any #}"
DELTAS = [
    [Part("reasoning", "Let me ")], [Part("reasoning", "see.")], [Part("content", "So:")],
    [Part("call", "get_weather", 0), Part("arguments", '{"city"', 0)], [Part("arguments", ': "Paris"}', 0)],
    [Part("call", "get_time", 1), Part("arguments", "{}", 1)],
]  # fmt: skip


@pytest.fixture
def anyio_backend() -> str:
    return "asyncio"


class PartsEngine(FakeEngine):
    """Answers with parts."""

    def __init__(self, deltas: list[list[Part]] = DELTAS, finish_reason: Any = "stop") -> None:
        super().__init__()
        self.deltas = deltas
        self.finish_reason = finish_reason

    async def generate(self, call: Generate) -> AsyncGenerator[Admitted | TextDelta, None]:
        self.calls.append(call)
        yield Admitted(call.call_id, [PromptInfo(5)])
        offset = 0
        for i, parts in enumerate(self.deltas, 1):
            told = [] if all(p.kind == "content" for p in parts) else parts
            text = "".join(p.text for p in parts if p.kind == "content")
            delta = TextDelta(call.call_id, 0, offset, text, i, parts=told, num_reasoning=min(i, 2))
            offset += delta.num_chars
            yield delta
        yield TextDelta(call.call_id, 0, offset, "", len(self.deltas) + 1, finish_reason=self.finish_reason,
                        num_reasoning=2)  # fmt: skip


async def post(path: str, body: dict[str, Any], engine: FakeEngine) -> Any:
    async with in_process(engine) as client:
        answer = await client.post(path, json=body)
    assert answer.status_code == 200, answer.text
    return answer.json()


async def asked(body: dict[str, Any], model: str | ModelCard | None = None) -> Generate:
    """What the engine is asked for a chat; ``model`` is a card or a chat template."""
    engine = FakeEngine()
    if model is None:
        await post(CHAT, ASK | body, engine)
    else:
        known = card(model) if isinstance(model, str) else model
        service = Service(config(), known, engine, MetricsRegistry("tiny"), LOCATED)
        app: Any = build_app(service)
        async with httpx.AsyncClient(transport=httpx.ASGITransport(app), base_url="http://localhost:8000") as client:
            answer = await client.post(CHAT, json=ASK | body)
        await service.grammars.close()
        assert answer.status_code == 200, answer.text
    return engine.calls[0]


# --- what is asked of the engine -------------------------------------------------------------------------------------


async def test_auto_reads_calls_and_binds_nothing() -> None:
    call = await asked({"tools": [TOOL, OTHER]})
    assert call.reading is not None and call.reading.tools == [TOOL, OTHER] and call.reading.max_calls == 0
    assert call.sampling.grammar == "" and call.chat is not None and call.chat.tools == [TOOL, OTHER]
    single = await asked({"tools": [TOOL], "tool_choice": "auto", "parallel_tool_calls": False})
    assert single.reading is not None and single.reading.max_calls == 1


MARKED = card(THINKS)
MARKED = msgspec.structs.replace(MARKED, marker_ids={"<tool_call>": 7, "<think>": 8, "</think>": 9})


async def test_a_strict_tool_binds_the_calls_that_the_model_makes() -> None:
    body = {"tools": [TOOL, OTHER]}
    call = await asked(body, MARKED)
    assert "<[^7,8]>" in call.sampling.grammar and '"city"' in call.sampling.grammar
    assert call.reading is not None and not call.reading.is_plain_json
    for grammar in (call.sampling.grammar, call.reading.grammar_in_thought):
        assert grammar and not LLMatcher.validate_grammar(grammar)
    for unbound in ({"tools": [OTHER]}, body | {"tool_choice": "none"}, body | {"ignore_eos": True}):
        assert (await asked(unbound, MARKED)).sampling.grammar == ""


async def test_strict_reaches_the_engine_from_other_dialects() -> None:
    engine = FakeEngine()
    await post("/v1/responses", {"input": "hi", "tools": [FLAT[0] | {"strict": True}]}, engine)
    await post("/v1/messages", ANTHROPIC | {"tools": [ANTHROPIC["tools"][0] | {"strict": True}]}, engine)
    for call in engine.calls:
        assert call.reading is not None and call.reading.tools[0]["function"]["strict"] is True


async def test_none_describes_tools_and_reads_no_call() -> None:
    call = await asked({"tools": [TOOL], "tool_choice": "none"})
    assert call.reading is None and call.chat is not None and call.chat.tools == [TOOL]


async def test_a_chat_without_tools_and_reasoning_is_not_read() -> None:
    assert (await asked({})).reading is None
    thinks = (await asked({}, THINKS)).reading
    assert thinks is not None and thinks.tools == [] and not thinks.hides_reasoning
    hides = (await asked({"include_reasoning": False}, THINKS)).reading
    assert hides is not None and hides.hides_reasoning


@pytest.mark.parametrize("template", [None, THINKS, PLAIN])
async def test_a_required_call_is_a_grammar_that_compiles(template: str | None) -> None:
    call = await asked({"tools": [TOOL, OTHER], "tool_choice": "required"}, template)
    grammar = call.sampling.grammar
    assert not LLMatcher.validate_grammar(grammar) and "get_weather" in grammar and "get_time" in grammar
    assert ("<tool_call>" in grammar) == (template != PLAIN) and ("think" in grammar) == (template == THINKS)
    assert call.reading is not None and bool(call.reading.grammar_in_thought) == (template == THINKS)


async def test_a_named_call_leaves_the_others_out_of_the_grammar() -> None:
    call = await asked({"tools": [TOOL, OTHER], "tool_choice": NAMED})
    assert "get_weather" in call.sampling.grammar and "get_time" not in call.sampling.grammar
    assert call.reading is not None and call.reading.max_calls == 1 and call.reading.tools == [TOOL]


async def test_a_template_that_knows_no_tools_is_given_them_as_text() -> None:
    calls = [{"id": "c1", "type": "function", "function": {"name": "get_time", "arguments": "{}"}}]
    messages = [
        {"role": "system", "content": "Be brief."},
        {"role": "assistant", "content": None, "tool_calls": calls},
        {"role": "tool", "tool_call_id": "c1", "content": "noon"},
    ]
    chat = (await asked({"messages": messages, "tools": [TOOL]}, PLAIN)).chat
    assert chat is not None and chat.tools is None
    system, called, result = chat.messages
    assert system["content"].startswith("Be brief.\n\n") and '"get_weather"' in system["content"]
    assert called == {"role": "assistant", "content": '{"name": "get_time", "arguments": {}}'}
    assert result == {"role": "user", "content": "Result of get_time: noon"}


@pytest.mark.parametrize(
    "shape",
    [
        {"response_format": {"type": "json_object"}},
        {"guided_regex": "a/[b]\\/c"},
        {"structured_outputs": {"choice": ['say "yes"', "no"]}},
    ],
)
async def test_a_shape_leaves_the_way_to_calls_and_reasoning_open(shape: dict[str, Any]) -> None:
    call = await asked({"tools": [TOOL], **shape}, THINKS)
    assert "calls | answer" in call.sampling.grammar and not LLMatcher.validate_grammar(call.sampling.grammar)
    thinking = await asked(shape, THINKS)
    assert "thought" in thinking.sampling.grammar and "calls" not in thinking.sampling.grammar
    assert thinking.reading is not None and not LLMatcher.validate_grammar(thinking.reading.grammar_in_thought)


@pytest.mark.parametrize("dialect", ["openai", "stream", "ollama", "anthropic", "responses"])
async def test_ids_are_of_the_length_that_the_template_takes_back(dialect: str) -> None:
    template = THINKS + "{% if call.id | length != 9 %}{{ raise_exception('9 of a-z, 0-9') }}{% endif %}"
    service = Service(config(), card(template), PartsEngine(), MetricsRegistry("tiny"), LOCATED)
    path, body = {
        "openai": (CHAT, ASK | {"tools": [TOOL, OTHER]}),
        "stream": (CHAT, ASK | {"tools": [TOOL, OTHER], "stream": True}),
        "ollama": ("/api/chat", ASK | {"tools": [TOOL, OTHER], "stream": False}),
        "anthropic": ("/v1/messages", ANTHROPIC),
        "responses": ("/v1/responses", {"input": "hi", "tools": FLAT}),
    }[dialect]
    app: Any = build_app(service)
    async with httpx.AsyncClient(transport=httpx.ASGITransport(app), base_url="http://localhost:8000") as client:
        text = (await client.post(path, json=body)).text
    found = set(re.findall(r'"(?:id|call_id)": ?"([a-z0-9]{9})"', text))
    assert len(found) == 2, text


async def test_efforts_reach_the_template() -> None:
    chat = (await asked({"reasoning_effort": "none"})).chat
    assert chat is not None and chat.template_kwargs == {"reasoning_effort": "none", "enable_thinking": False}


# --- answers in each dialect -----------------------------------------------------------------------------------------


async def test_openai_whole() -> None:
    engine = PartsEngine()
    answer = await post(CHAT, ASK | {"tools": [TOOL, OTHER], "request_id": "r"}, engine)
    (choice,) = answer["choices"]
    assert choice["finish_reason"] == "tool_calls"
    first = {"name": "get_weather", "arguments": '{"city": "Paris"}'}
    assert choice["message"] == {
        "role": "assistant", "content": "So:", "refusal": None, "annotations": [], "reasoning": "Let me see.",
        "tool_calls": [
            {"id": "call_r-0-0", "type": "function", "function": first},
            {"id": "call_r-0-1", "type": "function", "function": {"name": "get_time", "arguments": "{}"}},
        ],
    }  # fmt: skip
    assert answer["usage"]["completion_tokens_details"] == {"reasoning_tokens": 2}


async def test_openai_finish_reasons_and_null_content() -> None:
    calls = DELTAS[3:]
    named = await post(CHAT, ASK | {"tools": [TOOL], "tool_choice": NAMED}, PartsEngine(calls))
    assert named["choices"][0]["finish_reason"] == "stop" and named["choices"][0]["message"]["content"] is None
    cut = await post(CHAT, ASK | {"tools": [TOOL]}, PartsEngine(calls, "length"))
    assert cut["choices"][0]["finish_reason"] == "length"
    plain = await post(CHAT, ASK | {"tools": [TOOL]}, PartsEngine([[Part("content", "Hi")]]))
    assert plain["choices"][0]["finish_reason"] == "stop" and "tool_calls" not in plain["choices"][0]["message"]


async def test_openai_stream() -> None:
    body = ASK | {"tools": [TOOL, OTHER], "stream": True, "stream_options": {"include_usage": True}, "request_id": "r"}
    async with in_process(PartsEngine()) as client:
        *chunks, done = events((await client.post(CHAT, json=body)).content)
    assert done == "[DONE]" and chunks[-1]["usage"]["completion_tokens_details"] == {"reasoning_tokens": 2}
    deltas = [chunk["choices"][0]["delta"] for chunk in chunks[:-1]]
    call = {"id": "call_r-0-0", "type": "function", "function": {"name": "get_weather", "arguments": ""}}
    assert deltas == [
        {"role": "assistant", "content": ""}, {"reasoning": "Let me "}, {"reasoning": "see."}, {"content": "So:"},
        {"tool_calls": [{"index": 0, **call}]},
        {"tool_calls": [{"index": 0, "function": {"arguments": '{"city"'}}]},
        {"tool_calls": [{"index": 0, "function": {"arguments": ': "Paris"}'}}]},
        {"tool_calls": [{"index": 1, "id": "call_r-0-1", "type": "function",
                         "function": {"name": "get_time", "arguments": ""}}]},
        {"tool_calls": [{"index": 1, "function": {"arguments": "{}"}}]},
        {},
    ]  # fmt: skip
    assert chunks[-2]["choices"][0]["finish_reason"] == "tool_calls"


async def test_slow_streams_join_what_is_of_one_kind() -> None:
    body = ASK | {"tools": [TOOL], "stream": True, "stream_interval": 100}
    async with in_process(PartsEngine()) as client:
        chunks = events((await client.post(CHAT, json=body)).content)[:-1]
    arguments = [
        c["function"]["arguments"] for chunk in chunks for c in chunk["choices"][0]["delta"].get("tool_calls", [])
    ]
    assert arguments == ["", '{"city": "Paris"}', "", "{}"]


async def test_the_official_openai_client_reads_calls() -> None:
    async with on_socket(PartsEngine()) as (url, _):
        client = openai.AsyncOpenAI(base_url=f"{url}/v1", api_key="unused")
        messages: Any = ASK["messages"]
        tools: Any = [TOOL]
        async with client.chat.completions.stream(model="tiny", messages=messages, tools=tools) as stream:
            kinds = [event.type async for event in stream]
            final = await stream.get_final_completion()
        await client.close()
    assert "tool_calls.function.arguments.delta" in kinds
    calls = final.choices[0].message.tool_calls or []
    assert [json.loads(c.function.arguments) for c in calls] == [{"city": "Paris"}, {}]


async def test_ollama() -> None:
    body = ASK | {"tools": [TOOL], "stream": False}
    message = (await post("/api/chat", body, PartsEngine()))["message"]
    assert message["content"] == "So:" and message["thinking"] == "Let me see."
    assert [c["function"]["arguments"] for c in message["tool_calls"]] == [{"city": "Paris"}, {}]
    async with in_process(PartsEngine()) as client:
        text = (await client.post("/api/chat", json=ASK | {"tools": [TOOL]})).text
    lines = [json.loads(line) for line in text.splitlines()]
    assert "".join(line["message"].get("thinking", "") for line in lines) == "Let me see."
    told = [c["function"] for line in lines for c in line["message"].get("tool_calls", [])]
    assert [(c["name"], c["arguments"]) for c in told] == [("get_weather", {"city": "Paris"}), ("get_time", {})]
    assert lines[-1]["done"] and "tool_calls" not in lines[-1]["message"]


async def test_broken_arguments_are_an_empty_object_where_an_object_is_due() -> None:
    cut = PartsEngine([[Part("call", "get_weather"), Part("arguments", '{"ci')]], "length")
    message = (await post("/api/chat", ASK | {"tools": [TOOL], "stream": False}, cut))["message"]
    assert message["tool_calls"][0]["function"]["arguments"] == {}


ANTHROPIC: dict[str, Any] = ASK | {
    "max_tokens": 50,
    "model": "tiny",
    "tools": [{"name": "get_weather", "input_schema": SCHEMA}, {"name": "get_time", "input_schema": {}}],
}


async def test_anthropic_whole() -> None:
    answer = await post("/v1/messages", ANTHROPIC, PartsEngine())
    assert answer["stop_reason"] == "tool_use"
    thinking, text, first, second = answer["content"]
    assert thinking == {"type": "thinking", "thinking": "Let me see.", "signature": ""}
    assert text == {"type": "text", "text": "So:"}
    assert first["type"] == "tool_use" and first["input"] == {"city": "Paris"} and second["input"] == {}
    assert first["id"] != second["id"]


async def test_the_official_anthropic_client_reads_a_stream() -> None:
    async with on_socket(PartsEngine()) as (url, _):
        client = AsyncAnthropic(base_url=url, api_key="unused")
        async with client.messages.stream(**ANTHROPIC) as stream:
            kinds = [event.type async for event in stream]
            final = await stream.get_final_message()
        await client.close()
    assert "input_json" in kinds and "thinking" in kinds
    assert [block.type for block in final.content] == ["thinking", "text", "tool_use", "tool_use"]
    assert final.stop_reason == "tool_use"
    assert [b.input for b in final.content if b.type == "tool_use"] == [{"city": "Paris"}, {}]


FLAT = [{"type": "function", "name": "get_weather", "parameters": SCHEMA}, {"type": "function", "name": "get_time"}]


async def test_responses_whole() -> None:
    answer = await post("/v1/responses", {"input": "hi", "tools": FLAT}, PartsEngine())
    reasoning, message, first, second = answer["output"]
    assert reasoning["type"] == "reasoning"
    assert reasoning["content"] == [{"type": "reasoning_text", "text": "Let me see."}]
    assert message["content"][0]["text"] == "So:"
    assert (first["type"], first["name"], first["arguments"]) == ("function_call", "get_weather", '{"city": "Paris"}')
    assert len({item["id"] for item in answer["output"]}) == 4 and first["call_id"] != second["call_id"]
    assert answer["usage"]["output_tokens_details"] == {"reasoning_tokens": 2} and answer["status"] == "completed"


async def test_the_official_client_reads_a_stream_of_responses() -> None:
    async with on_socket(PartsEngine()) as (url, _):
        client = openai.AsyncOpenAI(base_url=f"{url}/v1", api_key="unused")
        tools: Any = FLAT
        async with client.responses.stream(model="tiny", input="hi", tools=tools) as stream:
            found = [event async for event in stream]
            final = await stream.get_final_response()
        await client.close()
    kinds = [event.type for event in found]
    assert [e.sequence_number for e in found if hasattr(e, "sequence_number")] == list(range(len(found)))
    for kind in ("response.reasoning_text.delta", "response.function_call_arguments.done", "response.output_text.done"):
        assert kind in kinds
    assert kinds.count("response.output_item.added") == kinds.count("response.output_item.done") == 4
    assert [item.type for item in final.output] == ["reasoning", "message", "function_call", "function_call"]
