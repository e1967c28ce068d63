"""Structured output of the real model: always valid, the same with and without speculation, alone and in a crowd."""

import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import jsonschema
import pytest
from server import Server
from wire_client import eventually, get, metrics, post, ready, together

from paceline.engine.errors import PacelineError
from paceline.engine.store.resolve import locate

pytestmark = [pytest.mark.e2e, pytest.mark.model]

COLOUR = {"enum": ["red", "green", "blue"]}
PERSON = {
    "type": "object",
    "properties": {
        "name": {"type": "string", "maxLength": 12},
        "age": {"type": "integer", "minimum": 0, "maximum": 120},
        "colours": {"type": "array", "items": COLOUR, "minItems": 1, "maxItems": 3},
    },
    "required": ["name", "age", "colours"],
    "additionalProperties": False,
}
NESTED = {
    "type": "object",
    "properties": {
        "owner": {"$ref": "#/$defs/person"},
        "note": {"anyOf": [{"type": "null"}, {"const": "none"}]},
        "date": {"type": "string", "format": "date"},
        "ok": {"type": "boolean"},
    },
    "required": ["owner", "note", "date", "ok"],
    "additionalProperties": False,
    "$defs": {"person": PERSON},
}
ROWS = {"type": "array", "items": {"type": "array", "items": {"type": "integer", "maximum": 9, "minimum": 0},
                                   "minItems": 2, "maxItems": 2}, "minItems": 3, "maxItems": 3}  # fmt: skip
BASE = ["-s", "target.max_model_len=1024", "-s", "cache.num_blocks=512"]
OWN_SCHEMAS = Path(__file__).resolve().parents[2] / "benchmarks" / "data" / "schemas.json"


@pytest.fixture(scope="module")
def plain(serve: Any) -> Iterator[Server]:
    try:
        locate("smollm2:135m", download=False)
    except PacelineError as e:
        pytest.skip(f"make fetch first: {e}")
    with serve("-s", "speculation.forced_tokens=false", model="smollm2:135m", base=BASE) as server:
        yield server


@pytest.fixture(scope="module")
def speculating(plain: Server, serve: Any) -> Iterator[Server]:
    more = ["-s", 'speculation.methods=["suffix"]', "-s", "speculation.max_draft_tokens=6",
            "-s", 'speculation.policy="fixed"']  # fmt: skip
    with serve(*more, model="smollm2:135m", base=BASE) as server:
        yield server


def is_person(value: Any) -> bool:
    return (
        set(value) == {"name", "age", "colours"}
        and isinstance(value["name"], str)
        and len(value["name"]) <= 12
        and type(value["age"]) is int
        and 0 <= value["age"] <= 120
        and 1 <= len(value["colours"]) <= 3
        and set(value["colours"]) <= set(COLOUR["enum"])
    )


def is_nested(value: Any) -> bool:
    return (
        set(value) == {"owner", "note", "date", "ok"}
        and is_person(value["owner"])
        and value["note"] in (None, "none")
        and re.fullmatch(r"\d{4}-\d\d-\d\d", value["date"]) is not None
        and type(value["ok"]) is bool
    )


def is_rows(value: Any) -> bool:
    return len(value) == 3 and all(len(row) == 2 and all(0 <= n <= 9 for n in row) for row in value)


def schema(value: dict[str, Any]) -> dict[str, Any]:
    return {"response_format": {"type": "json_schema", "json_schema": {"name": "answer", "schema": value}}}


def work() -> list[tuple[dict[str, Any], Any]]:
    """Bodies, and who judges the text."""
    judges: list[tuple[dict[str, Any], Any]] = [
        (schema(PERSON), lambda text: is_person(json.loads(text))),
        (schema(NESTED), lambda text: is_nested(json.loads(text))),
        (schema(ROWS), lambda text: is_rows(json.loads(text))),
        ({"structured_outputs": {"choice": ["yes, please", "no"]}}, lambda text: text in ("yes, please", "no")),
        ({"structured_outputs": {"regex": "[A-Z][a-z]{2,8}: [0-9]{3}"}},
         lambda text: re.fullmatch("[A-Z][a-z]{2,8}: [0-9]{3}", text)),
        ({"structured_outputs": {"grammar": 'root ::= "x" ("-" "x")* "."'}},
         lambda text: re.fullmatch(r"x(-x)*\.", text) or "." not in text),
    ]  # fmt: skip
    found: list[tuple[dict[str, Any], Any]] = []
    for i, (fields, judge) in enumerate(judges * 2):
        say = {"role": "user", "content": f"Tell me about the person, number {i}. Then do the same again."}
        warm = {"temperature": 0.0} if i < len(judges) else {"temperature": 0.9, "seed": i, "top_p": 0.95}
        found.append(({"messages": [say], "max_tokens": 160} | warm | fields, judge))
    return found


def texts(server: Server, bodies: list[dict[str, Any]]) -> list[dict[str, Any]]:
    def one(body: dict[str, Any]) -> dict[str, Any]:
        code, answer = post(f"{server.url}/v1/chat/completions", body)
        assert code == 200, answer
        return answer["choices"][0]

    return together([lambda body=body: one(body) for body in bodies])


def test_valid_always_and_the_same_with_speculation(plain: Server, speculating: Server) -> None:
    asked = work()
    bodies = [body for body, _ in asked]
    free = {"messages": [{"role": "user", "content": "hello"}], "max_tokens": 20, "temperature": 0}
    crowd = texts(plain, [*bodies, free])
    for (body, judge), choice in zip(asked, crowd, strict=False):
        assert choice["finish_reason"] == "stop" or "grammar" in body.get("structured_outputs", {}), choice
        assert judge(choice["message"]["content"]), choice
    assert texts(plain, [bodies[0]])[0] == crowd[0], "alone as in a crowd"
    drafted = texts(speculating, [*bodies, free])
    again = texts(speculating, [*bodies, free])  # now the drafter knows the text
    told = [choice["message"]["content"] for choice in crowd]
    assert [c["message"]["content"] for c in drafted] == told == [c["message"]["content"] for c in again]
    # What a metrics page shows may be a moment old.
    eventually(lambda: metrics(speculating.url)["vllm:spec_decode_num_accepted_tokens_total"] > 20)
    eventually(lambda: ready(speculating.url)["free_blocks"] == 512)


def forced_tokens(server: Server) -> tuple[float, float]:
    """Drafted and accepted so far."""
    text = get(f"{server.url}/metrics")[1].decode()
    found = [re.search(rf'^paceline_spec_{what}_total{{.*method="grammar".*}} (.+)$', text, re.MULTILINE)
             for what in ("draft_tokens", "accepted_tokens")]  # fmt: skip
    drafted, accepted = (float(match[1]) if match else 0.0 for match in found)
    return drafted, accepted


@pytest.mark.parametrize("name", ["flat", "pattern", "one-of", "unicode"])
def test_schemas_of_the_benchmark_are_obeyed_and_tokens_without_a_choice_are_jumped_over(
    plain: Server, speculating: Server, name: str
) -> None:
    entry = next(entry for entry in json.loads(OWN_SCHEMAS.read_text()) if entry["name"] == name)
    say = {"messages": [{"role": "user", "content": entry["prompt"]}], "max_tokens": 200}
    shape = {"structured_outputs": {"json": entry["schema"], "disable_any_whitespace": True}}
    bodies = [say | shape | {"temperature": 0.8 if seed else 0.0, "seed": seed} for seed in range(3)]
    drafted, accepted = forced_tokens(speculating)
    told = [choice["message"]["content"] for choice in texts(plain, bodies)]
    assert [choice["message"]["content"] for choice in texts(speculating, bodies)] == told
    for text in told:
        jsonschema.validate(json.loads(text), entry["schema"], jsonschema.Draft202012Validator)
    assert forced_tokens(plain) == (0, 0)
    eventually(lambda: forced_tokens(speculating)[1] > accepted + 5)
    now_drafted, now_accepted = forced_tokens(speculating)
    assert now_accepted - accepted == now_drafted - drafted, "a forced token is what the masks allow"


def test_logprobs_and_several_choices(plain: Server, speculating: Server) -> None:
    body = work()[0][0] | {"n": 3, "temperature": 1.0, "seed": 5, "logprobs": True, "top_logprobs": 2}
    code, answer = post(f"{speculating.url}/v1/chat/completions", body)
    assert code == 200
    assert post(f"{plain.url}/v1/chat/completions", body)[1]["choices"] == answer["choices"]
    assert all(is_person(json.loads(c["message"]["content"])) for c in answer["choices"])
    assert len({c["message"]["content"] for c in answer["choices"]}) > 1
    for choice in answer["choices"]:
        told = "".join(entry["token"] for entry in choice["logprobs"]["content"])
        assert choice["message"]["content"] in told


def test_ollama_and_a_bad_schema(plain: Server) -> None:
    body = {"messages": [{"role": "user", "content": "hello"}], "format": PERSON, "stream": False}
    code, answer = post(f"{plain.url}/api/chat", body)
    assert code == 200 and is_person(json.loads(answer["message"]["content"]))
    code, answer = post(f"{plain.url}/api/chat", body | {"format": {"type": "person"}})
    assert code == 400 and "format is not usable" in answer["error"]


def test_small_pool_preempts_and_the_text_stays(plain: Server, serve: Any) -> None:
    bodies = [body for body, _ in work()[:3]] * 4
    expected = [choice["message"]["content"] for choice in texts(plain, bodies)]
    small = ["-s", "target.max_model_len=256", "-s", "cache.num_blocks=22", "-s", "cache.block_size=16"]
    with serve(model="smollm2:135m", base=small) as server:
        assert [choice["message"]["content"] for choice in texts(server, bodies)] == expected
        eventually(lambda: metrics(server.url)["vllm:num_preemptions_total"] > 0)
