"""What is wrong with a request is a 4xx with the error object, names the parameter, and never reaches the engine."""

import json
import re
from typing import Any

import msgspec
import pytest
from fake_engine import LOGITS_WIDTH, MAX_MODEL_LEN, VOCAB_SIZE, FakeEngine, state
from http_app import in_process
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from paceline.actors.http.openai_fields import ChatBody, CompletionBody
from paceline.engine.errors import ActorError, DeadlineError, InvalidRequestError, UnavailableError

pytestmark = pytest.mark.anyio

CHAT = "/v1/chat/completions"
COMPLETIONS = "/v1/completions"
USER = {"role": "user", "content": "hello"}
JSON = {"content-type": "application/json"}


@pytest.fixture
def anyio_backend() -> str:
    return "asyncio"


def check_error(answer: Any, status: int, code: str | None = None, param: str | None = None) -> str:
    """The message of an error reply that has the right shape, size and cleanliness."""
    assert answer.status_code == status, answer.text
    assert answer.headers["content-type"] == "application/json" and answer.headers["x-request-id"]
    assert len(answer.content) < 10_000
    error = answer.json()["error"]
    assert list(error) == ["message", "type", "param", "code"] and list(answer.json()) == ["error"]
    assert (error["code"], error["param"]) == (code, param), error
    assert error["message"] and error["message"].isprintable() and "Traceback" not in error["message"]
    assert (status == 503) == ("retry-after" in answer.headers)
    return error["message"]


NESTED = 100_000
BROKEN: dict[str, bytes] = {
    "empty": b"",
    "cut": b'{"prompt": "x"',
    "not json": b"prompt=x",
    "nan": b'{"prompt": "x", "temperature": NaN}',
    "infinity": b'{"prompt": "x", "temperature": -Infinity}',
    "trailing": b'{"prompt": "x"} {}',
    "bom": b'\xef\xbb\xbf{"prompt": "x"}',
    "utf-16": '{"prompt": "x"}'.encode("utf-16"),
    "bad utf-8": b'{"prompt": "\xff\xfe"}',
    "bad utf-8 in an ignored field": b'{"prompt": "x", "shiny": "\xff"}',
    "bad utf-8 in an unknown name": b'{"prompt": "x", "\xff": 1}',
    "lone surrogate": b'{"prompt": "\\ud800"}',
    "lone surrogate in an ignored field": b'{"prompt": "x", "shiny": "\\udfff"}',
    "nested": b'{"prompt": ' + b"[" * NESTED + b"]" * NESTED + b"}",
    "nested in an ignored field": b'{"prompt": "x", "shiny": ' + b'{"a":' * NESTED + b"1" + b"}" * NESTED + b"}",
    "nested and open": b"[" * NESTED,
    "control character": b'{"prompt": "a\nb"}',
    "single quotes": b"{'prompt': 'x'}",
}


@pytest.mark.parametrize("body", BROKEN.values(), ids=BROKEN.keys())
async def test_broken_json(body: bytes) -> None:
    engine = FakeEngine()
    async with in_process(engine) as client:
        for path in (CHAT, COMPLETIONS):
            answer = await client.post(path, content=body, headers=JSON)
            if body.startswith(b"[") or answer.json()["error"]["code"] is None:
                assert answer.status_code == 400 and len(answer.content) < 10_000
            else:
                check_error(answer, 400, "invalid_json")
    assert not engine.calls


@pytest.mark.parametrize("body", [b"[]", b'"x"', b"1", b"null", b"1" * 4301, b"-1e999"])
async def test_a_body_that_is_no_object(body: bytes) -> None:
    async with in_process() as client:
        answer = await client.post(COMPLETIONS, content=body, headers=JSON)
        assert answer.status_code == 400 and "body" in answer.json()["error"]["message"], answer.text


BIG = "1" * 4301
WRONG_COMPLETIONS: list[tuple[str, str, str | None]] = [
    # JSON of the fields, param, code
    ("{}", "prompt", None),
    ('{"prompt": null}', "prompt", None),
    ('{"prompt": ""}', "prompt", None),
    ('{"prompt": []}', "prompt", None),
    ('{"prompt": 7}', "prompt", None),
    ('{"prompt": {"a": 1}}', "prompt", None),
    ('{"prompt": true}', "prompt", None),
    ('{"prompt": ["a", ""]}', "prompt.1", None),
    ('{"prompt": ["a", 7]}', "prompt.1", None),
    ('{"prompt": [[1], []]}', "prompt.1", None),
    ('{"prompt": [1, "a"]}', "prompt.1", None),
    ('{"prompt": [1, 2.5]}', "prompt.1", None),
    ('{"prompt": [[1, true]]}', "prompt.0.1", None),
    ('{"prompt": [1, -1]}', "prompt.1", None),
    (f'{{"prompt": [1, {VOCAB_SIZE}]}}', "prompt.1", None),
    ('{"prompt": [9223372036854775808]}', "prompt.0", None),
    (f'{{"prompt": [{"9" * 4000}]}}', "prompt.0", None),
    (f'{{"prompt": {[1] * (MAX_MODEL_LEN + 1)}}}', "prompt", "context_length_exceeded"),
    (msgspec.json.encode({"prompt": ["x"] * 1025}).decode(), "prompt", None),
    ('{"prompt": ["a", "b", "c", "d", "e", "f", "g", "h", "i"], "n": 120}', "n", None),
    ('{"prompt": "x", "n": 0}', "n", None),
    ('{"prompt": "x", "n": 129}', "n", None),
    ('{"prompt": "x", "n": 1.5}', "n", None),
    ('{"prompt": "x", "n": "1"}', "n", None),
    ('{"prompt": "x", "n": true}', "n", None),
    ('{"prompt": "x", "n": 99999999999999999999999999}', "n", None),
    ('{"prompt": "x", "max_tokens": 0}', "max_tokens", None),
    ('{"prompt": "x", "max_tokens": -1}', "max_tokens", None),
    (f'{{"prompt": "x", "max_tokens": {MAX_MODEL_LEN + 1}}}', "max_tokens", None),
    ('{"prompt": "x", "max_tokens": 3, "min_tokens": 4}', "min_tokens", None),
    ('{"prompt": "x", "temperature": -0.1}', "temperature", None),
    ('{"prompt": "x", "temperature": 2.1}', "temperature", None),
    ('{"prompt": "x", "temperature": "hot"}', "temperature", None),
    ('{"prompt": "x", "temperature": 1e999}', "temperature", None),
    (f'{{"prompt": "x", "temperature": {BIG}}}', "temperature", None),
    ('{"prompt": "x", "top_p": 0}', "top_p", None),
    ('{"prompt": "x", "top_p": 1.01}', "top_p", None),
    ('{"prompt": "x", "top_k": -2}', "top_k", None),
    ('{"prompt": "x", "min_p": 1.5}', "min_p", None),
    ('{"prompt": "x", "presence_penalty": 2.5}', "presence_penalty", None),
    ('{"prompt": "x", "frequency_penalty": -2.5}', "frequency_penalty", None),
    ('{"prompt": "x", "repetition_penalty": 0}', "repetition_penalty", None),
    ('{"prompt": "x", "repetition_penalty": 1e300}', "repetition_penalty", None),
    ('{"prompt": "x", "seed": 9223372036854775808}', "seed", None),
    ('{"prompt": "x", "seed": 1.5}', "seed", None),
    (f'{{"prompt": "x", "seed": {BIG}}}', "seed", None),
    ('{"prompt": "x", "stop": ["a", "b", "c", "d", "e"]}', "stop", None),
    ('{"prompt": "x", "stop": ""}', "stop.0", None),
    ('{"prompt": "x", "stop": ["a", ""]}', "stop.1", None),
    ('{"prompt": "x", "stop": 5}', "stop", None),
    ('{"prompt": "x", "stop": [5]}', "stop.0", None),
    (f'{{"prompt": "x", "stop_token_ids": [{LOGITS_WIDTH}]}}', "stop_token_ids.0", None),
    (f'{{"prompt": "x", "stop_token_ids": {[1] * 129}}}', "stop_token_ids", None),
    (f'{{"prompt": "x", "logit_bias": {{"{LOGITS_WIDTH}": 1}}}}', "logit_bias", None),
    ('{"prompt": "x", "logit_bias": {"-1": 1}}', "logit_bias", None),
    ('{"prompt": "x", "logit_bias": {"1.5": 1}}', "logit_bias", None),
    ('{"prompt": "x", "logit_bias": {"\\u0661": 1}}', "logit_bias", None),
    (f'{{"prompt": "x", "logit_bias": {{"{BIG}": 1}}}}', "logit_bias", None),
    ('{"prompt": "x", "logit_bias": {"1": "much"}}', "logit_bias", None),
    ('{"prompt": "x", "logit_bias": [1]}', "logit_bias", None),
    ('{"prompt": "x", "allowed_token_ids": []}', "allowed_token_ids", None),
    ('{"prompt": "x", "allowed_token_ids": [-1]}', "allowed_token_ids.0", None),
    ('{"prompt": "x", "bad_words": [""]}', "bad_words.0", None),
    ('{"prompt": "x", "logprobs": 21}', "logprobs", None),
    ('{"prompt": "x", "logprobs": -1}', "logprobs", None),
    ('{"prompt": "x", "logprobs": true}', "logprobs", None),
    ('{"prompt": "x", "logprob_token_ids": [1]}', "logprob_token_ids", None),
    ('{"prompt": "x", "logprobs": 1, "logprob_token_ids": [100000]}', "logprob_token_ids.0", None),
    ('{"prompt": "x", "prompt_logprobs": 99}', "prompt_logprobs", None),
    ('{"prompt": "x", "prompt_logprobs": 1, "stream": true}', "prompt_logprobs", None),
    ('{"prompt": "x", "stream": "yes"}', "stream", None),
    ('{"prompt": "x", "stream_options": {"include_usage": true}}', "stream_options", None),
    ('{"prompt": "x", "stream": true, "stream_options": {"include_usage": 1}}', "stream_options.include_usage", None),
    ('{"prompt": "x", "stream_interval": 0}', "stream_interval", None),
    ('{"prompt": "x", "truncate_prompt_tokens": -2}', "truncate_prompt_tokens", None),
    ('{"prompt": "x", "truncation_side": "middle"}', "truncation_side", None),
    ('{"prompt": "x", "priority": 1}', "priority", None),
    ('{"prompt": "x", "request_id": "a\\nb"}', "request_id", None),
    ('{"prompt": "x", "cache_salt": ""}', "cache_salt", None),
    ('{"prompt": "x", "cache_salt": "a@b"}', "cache_salt", None),
    ('{"prompt": "x", "user": 5}', "user", None),
    ('{"prompt": "x", "response_format": {"type": "structural_tag"}}', "response_format.type", None),
    ('{"prompt": "x", "response_format": {}}', "response_format.type", None),
    ('{"prompt": "x", "speculation": {"methods": ["suffix"]}}', "speculation", "unsupported_parameter"),
    ('{"prompt": "x", "speculation": 1}', "speculation", None),
    ('{"prompt": "x", "structured_outputs": {}}', "structured_outputs", None),
    ('{"prompt": "x", "guided_json": 5}', "guided_json", None),
    ('{"prompt": "x", "use_beam_search": true}', "use_beam_search", "unsupported_parameter"),
    ('{"prompt": "x", "prompt_embeds": "AAAA"}', "prompt_embeds", "unsupported_parameter"),
    ('{"prompt": "x", "suffix": "y"}', "suffix", "unsupported_parameter"),
    ('{"prompt": "x", "kv_transfer_params": {}}', "kv_transfer_params", "unsupported_parameter"),
    ('{"prompt": "x", "model": 5}', "model", None),
]


@pytest.mark.parametrize(("body", "param", "code"), WRONG_COMPLETIONS, ids=lambda v: str(v)[:60])
async def test_wrong_completion_field(body: str, param: str, code: str | None) -> None:
    engine = FakeEngine()
    async with in_process(engine) as client:
        message = check_error(await client.post(COMPLETIONS, content=body, headers=JSON), 400, code, param)
    assert re.split(r"[. ]", param)[0] in message
    assert not engine.calls


CALL = {"id": "c", "type": "function", "function": {"name": "f", "arguments": "{}"}}
TOOL = {"type": "function", "function": {"name": "f"}}
DEEP: Any = []
for _ in range(70):
    DEEP = [DEEP]
WRONG_CHATS: list[tuple[dict[str, Any], str, str | None]] = [
    ({}, "messages", None),
    ({"messages": None}, "messages", None),
    ({"messages": []}, "messages", None),
    ({"messages": "hello"}, "messages", None),
    ({"messages": ["hello"]}, "messages.0", None),
    ({"messages": [USER, None]}, "messages.1", None),
    ({"messages": [USER, {"content": "x"}]}, "messages.1.role", None),
    ({"messages": [{"role": 5, "content": "x"}]}, "messages.0.role", None),
    ({"messages": [{"role": "", "content": "x"}]}, "messages.0.role", None),
    ({"messages": [{"role": "martian", "content": "x"}]}, "messages.0.role", None),
    ({"messages": [USER, {"role": "user"}]}, "messages.1.content", None),
    ({"messages": [{"role": "user", "content": 5}]}, "messages.0.content", None),
    ({"messages": [{"role": "user", "content": {"a": 1}}]}, "messages.0.content", None),
    ({"messages": [{"role": "user", "content": ["x"]}]}, "messages.0.content.0", None),
    ({"messages": [{"role": "user", "content": [{"type": "text"}]}]}, "messages.0.content.0.text", None),
    ({"messages": [{"role": "user", "content": [{"type": "image_url", "image_url": {}}]}]},
     "messages.0.content.0.type", None),
    ({"messages": [{"role": "user", "content": "x", "name": 5}]}, "messages.0.name", None),
    ({"messages": [{"role": "assistant", "tool_calls": "f"}]}, "messages.0.tool_calls", None),
    ({"messages": [{"role": "assistant", "tool_calls": [{"function": {}}]}]}, "messages.0.tool_calls.0", None),
    ({"messages": [{"role": "assistant", "tool_calls": [CALL, CALL | {"function": {"name": "f", "arguments": 5}}]}]},
     "messages.0.tool_calls.1.function.arguments", None),
    ({"messages": [USER | {"odd": DEEP}]}, "messages", None),
    ({"messages": [USER], "chat_template_kwargs": {"a": DEEP}}, "chat_template_kwargs", None),
    ({"messages": [USER], "chat_template_kwargs": {"messages": []}}, "chat_template_kwargs.messages", None),
    ({"messages": [USER], "chat_template": "{{ 7*7 }}"}, "chat_template", "unsupported_parameter"),
    ({"messages": [USER], "documents": [5]}, "documents.0", None),
    ({"messages": [USER], "max_tokens": 0}, "max_tokens", None),
    ({"messages": [USER], "max_completion_tokens": 0}, "max_completion_tokens", None),
    ({"messages": [USER], "max_completion_tokens": 10**6}, "max_completion_tokens", None),
    ({"messages": [USER], "logprobs": 1}, "logprobs", None),
    ({"messages": [USER], "top_logprobs": 1}, "top_logprobs", None),
    ({"messages": [USER], "logprobs": True, "top_logprobs": 21}, "top_logprobs", None),
    ({"messages": [USER], "add_generation_prompt": True, "continue_final_message": True},
     "continue_final_message", None),
    ({"messages": [USER], "reasoning_effort": "huge"}, "reasoning_effort", None),
    ({"messages": [USER], "tools": []}, "tools", None),
    ({"messages": [USER], "tools": ["f"]}, "tools.0", None),
    ({"messages": [USER], "tool_choice": "auto"}, "tool_choice", None),
    ({"messages": [USER], "tools": [TOOL] * 129}, "tools", None),
    ({"messages": [USER], "tools": [TOOL, TOOL]}, "tools.1.function.name", None),
    ({"messages": [USER], "tools": [{"type": "custom", "function": {"name": "f"}}]}, "tools.0", None),
    ({"messages": [USER], "tools": [{"function": {"name": 'a"b'}}]}, "tools.0.function.name", None),
    ({"messages": [USER], "tools": [{"function": {"name": "f", "parameters": []}}]}, "tools.0.function.parameters",
     None),
    ({"messages": [USER], "tools": [{"function": {"name": "f", "strict": "yes"}}]}, "tools.0.function.strict", None),
    ({"messages": [USER], "tools": [TOOL], "tool_choice": "any"}, "tool_choice", None),
    ({"messages": [USER], "tools": [TOOL], "tool_choice": {"type": "function"}}, "tool_choice", None),
    ({"messages": [USER], "tools": [TOOL], "tool_choice": {"type": "function", "function": {"name": "g"}}},
     "tool_choice", None),
    ({"messages": [USER], "tools": [TOOL], "tool_choice": {"type": "allowed_tools"}}, "tool_choice",
     "unsupported_parameter"),
    ({"messages": [USER], "tools": [TOOL], "tool_choice": "required", "guided_regex": "a"}, "guided_regex", None),
    ({"messages": [USER], "tools": [TOOL], "tool_choice": {"type": "function", "function": {"name": "f"}},
      "structured_outputs": {"json": {}}}, "structured_outputs.json", None),
    ({"messages": [USER], "tools": [TOOL], "guided_grammar": 'start: "a"'}, "guided_grammar", None),
    ({"messages": [USER], "tools": [{"function": {"name": "f", "parameters": {"type": "strin"}}}],
      "tool_choice": "required"}, "tools", None),
    ({"messages": [USER], "response_format": {"type": "json_schema"}}, "response_format.json_schema", None),
    ({"messages": [USER], "thinking_token_budget": 5}, "thinking_token_budget", "unsupported_parameter"),
    ({"messages": [USER], "n": 129}, "n", None),
]  # fmt: skip


@pytest.mark.parametrize(("body", "param", "code"), WRONG_CHATS, ids=lambda v: str(v)[:60])
async def test_wrong_chat_field(body: dict[str, Any], param: str, code: str | None) -> None:
    engine = FakeEngine()
    async with in_process(engine) as client:
        check_error(await client.post(CHAT, json=body), 400, code, param)
    assert not engine.calls


async def test_integers_beyond_64_bits_in_free_form_parts() -> None:
    engine = FakeEngine()
    async with in_process(engine) as client:
        for body in (
            {"messages": [USER | {"odd": 2**64}]},
            {"messages": [USER], "chat_template_kwargs": {"a": -(2**70)}},
        ):
            answer = await client.post(CHAT, content=msgspec.json.encode(body), headers=JSON)
            assert answer.status_code == 400 and "64 bits" in answer.text
    assert not engine.calls


async def test_content_type() -> None:
    async with in_process() as client:
        for headers in ({"content-type": "text/plain"}, {"content-type": "application/jsonx"}, {}):
            answer = await client.post(COMPLETIONS, content=b'{"prompt":"x"}', headers=headers)
            check_error(answer, 400, "unsupported_media_type")
        answer = await client.post(COMPLETIONS, content=b'{"prompt":"x"}',
                                   headers={"content-type": "Application/JSON; charset=utf-8"})  # fmt: skip
        assert answer.status_code == 200


async def test_unknown_model_is_404_and_names_the_served_one() -> None:
    async with in_process() as client:
        for path, extra in ((COMPLETIONS, {"prompt": "x"}), (CHAT, {"messages": [USER]})):
            answer = await client.post(path, json=extra | {"model": "gpt/5"})
            assert '"tiny"' in check_error(answer, 404, "model_not_found", "model")
        check_error(await client.get("/v1/models/gpt/5"), 404, "model_not_found", "model")


async def test_unknown_routes_and_methods() -> None:
    async with in_process() as client:
        assert "did you mean /v1/chat/completions?" in check_error(
            await client.post("/v1/chat/completion", json={}), 404, "route_not_found"
        )
        check_error(await client.get("/nothing/%C3%A9%0A/here"), 404, "route_not_found")
        for method in ("GET", "TRACE", "DELETE", "OPTIONS", "BREW"):
            answer = await client.request(method, COMPLETIONS)
            check_error(answer, 405, "method_not_allowed")
            assert answer.headers["allow"] == "POST"


@pytest.mark.parametrize(
    ("error", "status", "code"),
    [
        (InvalidRequestError("prompt has 9 tokens", param="prompt", code="context_length_exceeded"), 400,
         "context_length_exceeded"),
        (UnavailableError("the queue is full", code="queue_full", retry_after_s=0.2), 503, "queue_full"),
        (DeadlineError("too late"), 504, "deadline_exceeded"),
        (ActorError("target died"), 500, "internal_error"),
        (ActorError("ZeroDivisionError: division by zero"), 500, "internal_error"),
        (RuntimeError("secret /root/x.py at 0x7f0011223344"), 500, "internal_error"),
    ],
)  # fmt: skip
@pytest.mark.parametrize("stream", [False, True])
async def test_errors_of_the_engine_before_admission_are_statuses(
    error: Any, status: int, code: str, stream: bool
) -> None:
    engine = FakeEngine()
    engine.refuse_with = error
    async with in_process(engine) as client:
        answer = await client.post(COMPLETIONS, json={"prompt": "x", "stream": stream})
        message = check_error(answer, status, code, getattr(error, "param", None))
    assert "secret" not in message and "ZeroDivision" not in message
    if status == 503:
        assert answer.headers["retry-after"] == "1" and answer.headers["retry-after-ms"] == "1000"
    assert (answer.headers.get("x-should-retry") == "false") == (status == 504)


@pytest.mark.parametrize(
    ("word", "hello", "code"),
    [("starting", False, "starting"), ("draining", True, "draining"), ("failed", True, "engine_unavailable")],
)
async def test_no_calls_while_the_engine_is_away(word: str, hello: bool, code: str) -> None:
    engine = FakeEngine()
    engine.state = state(word, hello=hello, error="out of luck" if word == "failed" else None)
    async with in_process(engine) as client:
        message = check_error(await client.post(COMPLETIONS, json={"prompt": "x"}), 503, code)
        assert word != "failed" or "out of luck" in message
        engine.state = None
        check_error(await client.post(COMPLETIONS, json={"prompt": "x"}), 503, "starting")
        engine.state = state("recovering")
        assert (await client.post(COMPLETIONS, json={"prompt": "x"})).status_code == 200


# --- fuzz -------------------------------------------------------------------------------------------------------------

FIELDS = sorted({*CompletionBody.__struct_fields__, *ChatBody.__struct_fields__, "guided_json", "suffix", "shiny"})
SCALARS = (
    st.none() | st.booleans() | st.integers() | st.integers(-5, 300) | st.floats(allow_nan=False, allow_infinity=False)
    | st.text(max_size=8).filter(lambda t: t.isascii() or t.encode("utf-8", "ignore").decode() == t)
    | st.sampled_from(["user", "text", "auto", "none", 2**63, 10**40, ""])
)  # fmt: skip
VALUES = st.recursive(
    SCALARS,
    lambda inner: (
        st.lists(inner, max_size=4)
        | st.dictionaries(
            st.sampled_from(["role", "content", "type", "text", "function", "name", "1"]), inner, max_size=4
        )
    ),
    max_leaves=8,
)


@settings(max_examples=300, deadline=None, suppress_health_check=[HealthCheck.too_slow, HealthCheck.data_too_large])
@given(
    fields=st.dictionaries(st.sampled_from(FIELDS), VALUES, max_size=5),
    base=st.sampled_from([{"prompt": "x"}, {"messages": [USER]}, {}]),
    path=st.sampled_from([COMPLETIONS, CHAT]),
)
async def test_no_body_is_our_fault(fields: dict[str, Any], base: dict[str, Any], path: str) -> None:
    async with in_process() as client:
        body = json.dumps({"max_tokens": 2} | base | fields).encode()
        answer = await client.post(path, content=body, headers=JSON)
        assert answer.status_code in (200, 400, 404), (body, answer.text)
        if answer.status_code != 200:
            assert set(answer.json()["error"]) == {"message", "type", "param", "code"}


@settings(max_examples=200, deadline=None, suppress_health_check=[HealthCheck.too_slow, HealthCheck.data_too_large])
@given(body=st.binary(max_size=40) | st.text(alphabet='{}[]",:0e-tu\\ \x00\x80', max_size=40).map(str.encode))
async def test_no_bytes_are_our_fault(body: bytes) -> None:
    async with in_process() as client:
        answer = await client.post(CHAT, content=body, headers=JSON)
        assert answer.status_code == 400 and len(answer.content) < 10_000
