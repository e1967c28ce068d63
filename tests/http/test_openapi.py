"""/openapi.json describes every route, is sound OpenAPI, and what the routes really answer is what it says."""

import copy
import json
from typing import Any

import msgspec
import pytest
from fake_engine import FakeEngine
from http_app import in_process, service
from jsonschema import Draft202012Validator

from paceline.actors.http import openapi
from paceline.actors.http.app import build_app
from paceline.engine.types import SpeculationStats

pytestmark = pytest.mark.anyio
DOCUMENT: dict[str, Any] = json.loads(msgspec.json.encode(openapi.description()))


def closed(node: Any) -> Any:
    """A schema in which objects have no keys but those described."""
    if isinstance(node, list):
        return [closed(n) for n in node]
    if not isinstance(node, dict):
        return node
    found = {key: closed(value) for key, value in node.items()}
    if "properties" in found and found.get("type") == "object":
        found.setdefault("additionalProperties", False)
    return found


def check(value: Any, name: str, *, closed_: bool = True) -> None:
    """Hold ``value`` against a component."""
    schemas = copy.deepcopy(DOCUMENT["components"]["schemas"])
    whole = {"components": {"schemas": closed(schemas) if closed_ else schemas}, "$ref": f"#/components/schemas/{name}"}
    faults = list(Draft202012Validator(whole).iter_errors(value))
    assert not faults, (name, [f"{f.json_path}: {f.message}"[:300] for f in faults])


def test_every_route_is_described_and_nothing_else() -> None:
    app: Any = build_app(service(FakeEngine()))
    served = {
        (route.path_format, method.lower())
        for route in app._router.routes
        for method in route.methods - {"HEAD"}
    }
    assert served == {(o.path, o.method) for o in openapi.OPERATIONS}
    assert len(openapi.OPERATIONS) == len(served)


def test_the_document_is_sound() -> None:
    from openapi_spec_validator import validate

    validate(DOCUMENT)
    ids = [o["operationId"] for path in DOCUMENT["paths"].values() for o in path.values()]
    assert len(set(ids)) == len(ids)


def test_every_reference_leads_somewhere_and_every_component_is_used() -> None:
    text = json.dumps(DOCUMENT)
    for kind in ("schemas", "responses"):
        names = set(DOCUMENT["components"][kind])
        used = {name.split('"')[0] for name in text.split(f"#/components/{kind}/")[1:]}
        assert used == names, used ^ names


@pytest.mark.parametrize("struct", openapi.BODIES, ids=lambda s: s.__name__)
def test_every_field_of_a_body_is_described(struct: type[msgspec.Struct]) -> None:
    told = DOCUMENT["components"]["schemas"][struct.__name__]
    assert set(told["properties"]) == set(struct.__struct_encode_fields__)
    assert set(told["required"]) <= set(told["properties"])


def test_what_is_added_to_fields_is_about_fields() -> None:
    fields = {f for struct in openapi.BODIES for f in struct.__struct_fields__}
    names = {f"{s.__name__}.{f}" for s in openapi.BODIES for f in s.__struct_fields__}
    assert not {name for name in openapi.FIELDS if name not in (names if "." in name else fields)}


STATS = SpeculationStats(4, [1, 2, 0, 0, 1], 12, {"suffix": 12}, {"suffix": 6})
BODIES: list[tuple[str, dict[str, Any], str, str]] = [
    ("/v1/completions", {"prompt": ["a", "b"], "max_tokens": 2}, "CompletionBody", "Completion"),
    ("/v1/completions", {"prompt": "a b", "logprobs": 2, "echo": True, "return_token_ids": True, "prompt_logprobs": 1,
                         "max_tokens": 2, "temperature": 0.5, "stop": "x"}, "CompletionBody", "Completion"),
    ("/v1/chat/completions", {"messages": [{"role": "user", "content": "hi"}], "logprobs": True, "top_logprobs": 2,
                              "max_tokens": 2}, "ChatBody", "ChatCompletion"),
    ("/v1/embeddings", {"input": [[1, 2], [3]]}, "EmbeddingsBody", "Embeddings"),
    ("/v1/embeddings", {"input": "x", "encoding_format": "base64"}, "EmbeddingsBody", "Embeddings"),
    ("/v1/responses", {"input": "hi", "max_output_tokens": 3}, "ResponsesBody", "Response"),
    ("/v1/messages", {"messages": [{"role": "user", "content": "hi"}], "max_tokens": 2}, "MessagesBody", "Message"),
    ("/v1/messages/count_tokens", {"messages": [{"role": "user", "content": "hi"}]}, "CountBody", "TokenCount"),
    ("/tokenize", {"prompt": "a b", "return_token_strs": True}, "TokenizeBody", "Tokenized"),
    ("/detokenize", {"tokens": [1]}, "DetokenizeBody", "Detokenized"),
    ("/api/generate", {"prompt": "a", "stream": False, "options": {"num_predict": 2}}, "GenerateBody",
     "OllamaGenerated"),
    ("/api/generate", {"model": "tiny"}, "GenerateBody", "OllamaGenerated"),
    ("/api/chat", {"messages": [{"role": "user", "content": "hi"}], "stream": False, "logprobs": True},
     "OllamaChatBody", "OllamaChatted"),
    ("/api/embed", {"input": ["a", "b"]}, "EmbedBody", "OllamaEmbedded"),
    ("/api/embed", {}, "EmbedBody", "OllamaEmbedded"),
    ("/api/embeddings", {"prompt": "a"}, "OldEmbedBody", "OllamaEmbedding"),
    ("/api/show", {"model": "tiny"}, "ModelBody", "OllamaShown"),
]  # fmt: skip


@pytest.mark.parametrize("speculates", [False, True])
@pytest.mark.parametrize(("path", "body", "asked", "told"), BODIES)
async def test_bodies_and_answers_are_as_described(
    path: str, body: dict[str, Any], asked: str, told: str, speculates: bool
) -> None:
    engine = FakeEngine()
    engine.speculation = STATS if speculates else None
    check(body, asked, closed_=False)
    async with in_process(engine) as client:
        answer = await client.post(path, json=body)
    assert answer.status_code == 200, answer.text
    check(answer.json(), told)


async def test_streams_of_ollama_are_as_described() -> None:
    async with in_process() as client:
        for path, body, told in (
            ("/api/generate", {"prompt": "a"}, "OllamaGenerated"),
            ("/api/chat", {"messages": [{"role": "user", "content": "hi"}]}, "OllamaChatted"),
        ):
            for line in (await client.post(path, json=body)).text.splitlines():
                check(json.loads(line), told)


@pytest.mark.parametrize(
    ("path", "told"),
    [(o.path, o.answer) for o in openapi.OPERATIONS if o.method == "get" and o.answer and "{" not in o.path],
)
async def test_what_is_read_is_as_described(path: str, told: str) -> None:
    async with in_process() as client:
        answer = await client.get(path)
    assert answer.status_code == 200 and answer.headers["content-type"] == "application/json"
    check(answer.json(), told)


async def test_kept_responses_are_as_described() -> None:
    async with in_process() as client:
        made = (await client.post("/v1/responses", json={"input": "hi"})).json()["id"]
        check((await client.get(f"/v1/responses/{made}")).json(), "Response")
        check((await client.get(f"/v1/responses/{made}/input_items")).json(), "InputItems")
        check((await client.get("/v1/models/tiny")).json(), "Model")
        check((await client.delete(f"/v1/responses/{made}")).json(), "DeletedResponse")


@pytest.mark.parametrize("operation", [o for o in openapi.OPERATIONS if o.body], ids=lambda o: o.path)
async def test_errors_are_as_described(operation: openapi.Operation) -> None:
    async with in_process() as client:
        answer = await client.request(
            operation.method, operation.path, content=b"[]", headers={"content-type": "application/json"}
        )
    assert answer.status_code >= 400
    ref = DOCUMENT["paths"][operation.path][operation.method]["responses"]["default"]["$ref"]
    check(answer.json(), ref.rsplit("/", 1)[1])


async def test_resetting_the_prefix_cache_is_as_described() -> None:
    async with in_process(admin=True) as client:
        check((await client.post("/reset_prefix_cache")).json(), "PrefixCacheReset")


async def test_the_route_needs_a_key_where_there_are_keys() -> None:
    async with in_process(api_keys=["k"]) as client:
        assert (await client.get("/openapi.json")).status_code == 401
        told = await client.get("/openapi.json", headers={"x-api-key": "k"})
    assert told.json()["openapi"].startswith("3.1")


@pytest.mark.parametrize(
    ("name", "body"),
    [
        ("CompletionBody", {"prompt": "x", "temperature": 3}),
        ("CompletionBody", {}),
        ("EmbeddingsBody", {"input": [[1], "x", None]}),
        ("EmbeddingsBody", {"input": "x", "dimensions": 0}),
        ("ChatBody", {"messages": []}),
    ],
)
def test_the_description_refuses_what_the_server_refuses(name: str, body: Any) -> None:
    with pytest.raises(AssertionError):
        check(body, name, closed_=False)
