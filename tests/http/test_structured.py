"""response_format, structured_outputs and their aliases: what reaches the engine and what does not."""

import time
from typing import Any

import msgspec
import pytest
from fake_engine import FakeEngine
from http_app import in_process
from llguidance import LLMatcher

from paceline.actors.http.grammar_check import GrammarCheck
from paceline.actors.http.grammar_values import GrammarWish
from paceline.actors.http.grammar_worker import judge
from paceline.engine.errors import InvalidRequestError

pytestmark = pytest.mark.anyio

SCHEMA: dict[str, Any] = {"type": "object", "properties": {"a": {"type": "integer"}}, "required": ["a"]}
WRAPPED = {"type": "json_schema", "json_schema": {"name": "x", "strict": True, "schema": SCHEMA}}
CHAT = {"messages": [{"role": "user", "content": "hello"}], "max_tokens": 2}
DEEP: dict[str, Any] = {}
for _ in range(70):
    DEEP = {"items": DEEP}


@pytest.fixture
def anyio_backend() -> str:
    return "asyncio"


async def grammars_of(path: str, *bodies: dict[str, Any]) -> list[str]:
    engine = FakeEngine()
    async with in_process(engine) as client:
        for body in bodies:
            answer = await client.post(path, json=body)
            assert answer.status_code == 200, answer.text
    return [call.sampling.grammar for call in engine.calls]


async def test_all_ways_to_ask_for_a_schema_are_one_grammar() -> None:
    ways: list[dict[str, Any]] = [
        {"response_format": WRAPPED},
        {"structured_outputs": {"json": SCHEMA}},
        {"structured_outputs": {"json": '{"type":"object","properties":{"a":{"type":"integer"}},"required":["a"]}'}},
        {"guided_json": SCHEMA},
    ]
    found = await grammars_of("/v1/chat/completions", *(CHAT | way for way in ways))
    found += await grammars_of("/v1/completions", *({"prompt": "x"} | way for way in ways))
    found += await grammars_of("/api/chat", CHAT | {"format": SCHEMA, "stream": False})
    found += await grammars_of("/api/generate", {"prompt": "x", "format": SCHEMA, "stream": False})
    form = {"type": "json_schema", "name": "x", "schema": SCHEMA}
    found += await grammars_of("/v1/responses", {"input": "x", "text": {"format": form}})
    assert len(found) == 11 and len(set(found)) == 1
    assert '"integer"' in found[0] and not LLMatcher.validate_grammar(found[0])


async def test_every_kind_reaches_the_engine_compiled() -> None:
    ways: list[dict[str, Any]] = [
        {"response_format": {"type": "json_object"}},
        {"structured_outputs": {"json_object": True}},
        {"structured_outputs": {"regex": "[a-z]+"}},
        {"structured_outputs": {"choice": ['say "yes"', "no", "Größe\n"]}},
        {"structured_outputs": {"grammar": 'start: "a" | "b"'}},
        {"guided_grammar": 'root ::= "a" | "b" root'},
        {"structured_outputs": {"json": SCHEMA, "disable_any_whitespace": True}},
        {"structured_outputs": {"json": SCHEMA, "whitespace_pattern": " ?"}},
        {"structured_outputs": {"json": {}, "regex": None, "json_object": False}},
        {"response_format": {"type": "text"}},
        {},
    ]
    found = await grammars_of("/v1/chat/completions", *(CHAT | way for way in ways))
    assert found[0] == found[1] and found[-2:] == ["", ""]
    assert len(set(found[:-2])) == len(ways) - 3
    assert not any(LLMatcher.validate_grammar(grammar) for grammar in found[:8])
    ollama = await grammars_of("/api/chat", CHAT | {"format": "json", "stream": False})
    assert ollama == found[:1]


@pytest.mark.parametrize(
    ("fields", "param", "words"),
    [
        ({"response_format": {"type": "xml"}}, "response_format.type", "json_schema"),
        ({"response_format": {"type": "json_schema", "json_schema": {"name": "x"}}}, "response_format.json_schema", ""),
        ({"response_format": WRAPPED | {"json_schema": {"schema": 5}}}, "response_format.json_schema.schema", "is 5"),
        ({"response_format": WRAPPED | {"json_schema": {"schema": {"type": "strin"}}}},
         "response_format.json_schema.schema", "strin"),
        ({"response_format": WRAPPED | {"json_schema": {"schema": DEEP}}},
         "response_format.json_schema.schema", "deep"),
        ({"response_format": WRAPPED, "guided_regex": "a"}, "guided_regex", "one shape"),
        ({"structured_outputs": {}}, "structured_outputs", "exactly one"),
        ({"structured_outputs": {"regex": "a", "choice": ["b"]}}, "structured_outputs", "exactly one"),
        ({"structured_outputs": {"regexp": "a"}}, "structured_outputs", "regexp"),
        ({"structured_outputs": {"structural_tag": "a"}}, "structured_outputs", "structural_tag"),
        ({"structured_outputs": {"regex": "(a"}}, "structured_outputs.regex", "unclosed"),
        ({"structured_outputs": {"regex": "a" * 20_000}}, "structured_outputs.regex", "16384"),
        ({"structured_outputs": {"json": "{"}}, "structured_outputs.json", "not valid JSON"),
        ({"structured_outputs": {"json": {"not": {}, "x": "y" * 300_000}}}, "structured_outputs.json", "262144"),
        ({"structured_outputs": {"json": {"uniqueItems": True, "type": "array"}}},
         "structured_outputs.json", "uniqueItems"),
        ({"structured_outputs": {"json": {"$ref": "http://example.org/x"}}}, "structured_outputs.json", "example"),
        ({"structured_outputs": {"choice": []}}, "structured_outputs.choice", "at least 1"),
        ({"structured_outputs": {"choice": ["a"] * 1025}}, "structured_outputs.choice", "1024"),
        ({"structured_outputs": {"grammar": "start: foo"}}, "structured_outputs.grammar", "foo"),
        ({"guided_grammar": "root ::= ((("}, "guided_grammar", ""),
        ({"structured_outputs": {"json": SCHEMA, "whitespace_pattern": "("}}, "structured_outputs.json", ""),
        ({"structured_outputs": {"json": SCHEMA, "whitespace_pattern": " ", "disable_any_whitespace": True}},
         "structured_outputs", "leave one out"),
    ],
    ids=lambda v: str(v)[:60],
)  # fmt: skip
async def test_refusals_name_the_field(fields: dict[str, Any], param: str, words: str) -> None:
    engine = FakeEngine()
    async with in_process(engine) as client:
        answer = await client.post("/v1/chat/completions", json=CHAT | fields)
    assert answer.status_code == 400, answer.text
    error = answer.json()["error"]
    assert error["param"] == param and words in error["message"] and "\n" not in error["message"]
    assert not engine.calls


def wish(text: str, kind: Any = "regex") -> GrammarWish:
    return GrammarWish(kind=kind, text=text, param="p")


async def test_one_that_takes_too_long_is_stopped_and_the_next_is_served() -> None:
    check = GrammarCheck(limit_s=0.001)
    began_s = time.monotonic()
    with pytest.raises(InvalidRequestError, match=r"p takes more than 0\.001 s"):
        await check.grammar(wish("a"))
    assert time.monotonic() - began_s < 3
    assert not check._idle and not check._busy
    check._limit_s = 10.0
    good = await check.grammar(wish("a"))
    (worker,) = check._idle
    check._limit_s = 0.0
    assert await check.grammar(wish("a")) == good, "what was sound once is not compiled again"
    check._limit_s = 10.0
    worker._process.kill()
    await worker._process.wait()
    with pytest.raises(InvalidRequestError, match="too much memory"):
        await check.grammar(wish("b"))
    assert await check.grammar(wish("b"))
    await check.close()


async def test_hostile_ones_are_refused_within_their_time() -> None:
    check = GrammarCheck()
    nested = "(" * 3000 + "a" + ")" * 3000
    bomb = "((((a{1,900}){1,900}){1,900}){1,900}){1,900}"
    for text in (nested, bomb):
        began_s = time.monotonic()
        try:
            await check.grammar(wish(text))
        except InvalidRequestError as e:
            assert "p " in str(e)
        assert time.monotonic() - began_s < 8
    assert await check.grammar(wish("abc"))
    await check.close()


def test_one_that_would_hold_up_the_target_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    large = msgspec.json.encode({"enum": [f"value number {i}" for i in range(3000)]}).decode()
    assert judge(wish(large, "json")).grammar
    monkeypatch.setattr("paceline.actors.http.grammar_worker.MAX_CPU_S", 1e-9)
    verdict = judge(wish(large, "json"))
    assert not verdict.grammar and "s at most" in verdict.error


async def test_sound_ones_are_kept_within_bounds(monkeypatch: pytest.MonkeyPatch) -> None:
    check = GrammarCheck()
    monkeypatch.setattr("paceline.actors.http.grammar_check.MAX_KEPT", 2)
    for text in ("a", "b", "a", "c"):
        await check.grammar(wish(text))
    assert [text for _, text, _ in check._kept] == ["a", "c"]
    assert check._num_chars == sum(len(k[1]) + len(v) for k, v in check._kept.items())
    await check.close()
