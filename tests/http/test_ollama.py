"""Ollama's dialect: shapes of lines and answers, defaults, models, pulls; and its own client where it is installed."""

import json
import threading
from typing import Any

import anyio
import httpx
import msgspec
import pytest
from fake_engine import FakeEngine, card, config
from http_app import LOCATED, in_process, on_socket, service

from paceline.actors.http.app import build_app
from paceline.actors.http.ollama_fields import duration_s
from paceline.actors.http.service import Service
from paceline.actors.messages import Generate
from paceline.actors.model_store import LocalModel, Wish, not_found
from paceline.actors.stats import MetricsRegistry
from paceline.engine.errors import ActorError, DownloadError, InvalidRequestError
from paceline.engine.store import modelfile
from paceline.engine.store.preset import Preset
from paceline.engine.store.progress import Progress, Report

pytestmark = pytest.mark.anyio

USER = {"role": "user", "content": "hello"}
DURATIONS = {"total_duration", "load_duration", "prompt_eval_duration", "eval_duration"}


@pytest.fixture
def anyio_backend() -> str:
    return "asyncio"


class FakeStore:
    """A store with one more model than is served."""

    def __init__(self) -> None:
        self.removed: list[str] = []
        self.made: dict[str, Wish] = {}
        self.error: Exception | None = None
        self.gate: threading.Event | None = None
        self.was_told_to_end = threading.Event()

    def models(self) -> list[LocalModel]:
        more = {"size_bytes": 7, "modified_s": 0.0, "digest": "", "format": "gguf"}
        return [LocalModel(name="other", card=card(), **more), LocalModel(name="broken", card=None, **more)]

    def pull(self, name: str, report: Report) -> None:
        report(Progress("fetch", "a.gguf", 3, 10))
        try:
            while self.gate is not None and not self.gate.wait(0.01):
                report(Progress("fetch", "a.gguf", 4, 10))
        except BaseException:
            self.was_told_to_end.set()
            raise
        if self.error is not None:
            raise self.error
        report(Progress("verify", "a.gguf", 10, 10))

    def remove(self, name: str) -> None:
        self.removed.append(name)

    def create(self, name: str, wish: Wish) -> list[str]:
        self.made[name] = wish
        return ["num_gpu"] if "num_gpu" in wish.parameters else []

    def copy(self, source: str, destination: str, is_served: bool = False) -> None:
        if source not in ("other", "tiny"):
            raise not_found(source, "source")
        self.made[destination] = Wish(base=source, is_served=is_served)


def lines(answer: httpx.Response) -> list[dict[str, Any]]:
    assert answer.headers["content-type"] == "application/x-ndjson"
    assert answer.content.endswith(b"\n")
    return [json.loads(line) for line in answer.text.splitlines()]


async def post(client: httpx.AsyncClient, path: str, body: Any) -> httpx.Response:
    """As ``curl -d`` does: under a content type that is not JSON's."""
    headers = {"content-type": "application/x-www-form-urlencoded"}
    return await client.post(path, content=json.dumps(body), headers=headers)


async def one_call(path: str, body: dict[str, Any], **card_fields: Any) -> Generate:
    engine = FakeEngine()
    async with in_process(engine) as client:
        answer = await post(client, path, body)
        assert answer.status_code == 200, answer.text
    [call] = engine.calls
    return call


# --- text ------------------------------------------------------------------------------------------------------------


async def test_chat_streams_lines_unless_told_not_to() -> None:
    body = {"model": "tiny", "messages": [USER], "options": {"num_predict": 3}}
    async with in_process() as client:
        found = lines(await post(client, "/api/chat", body))
        whole = (await post(client, "/api/chat", body | {"stream": False})).json()
    *texts, last = found
    assert [t["message"] for t in texts] == [{"role": "assistant", "content": f"tok{i} "} for i in range(3)]
    assert all(set(t) == {"model", "created_at", "message", "done"} and t["done"] is False for t in texts)
    assert last["message"] == {"role": "assistant", "content": ""} and last["done"] is True
    assert whole["message"] == {"role": "assistant", "content": "tok0 tok1 tok2 "}
    for end in (last, whole):
        assert (end["model"], end["done_reason"]) == ("tiny", "length")
        assert (end["prompt_eval_count"], end["eval_count"]) == (5, 3)
        assert all(isinstance(end[name], int) and end[name] >= 0 for name in DURATIONS)
        assert end["created_at"].endswith("Z") and end["total_duration"] > 0


async def test_generate_is_a_conversation_of_one_turn() -> None:
    async with in_process() as client:
        found = lines(await post(client, "/api/generate", {"model": "tiny:latest", "prompt": "hi"}))
    assert found[0]["response"] == "tok0 " and "message" not in found[0] and found[0]["model"] == "tiny:latest"
    assert found[-1]["response"] == "" and found[-1]["done"]
    call = await one_call("/api/generate", {"prompt": "hi", "system": "be brief"})
    assert call.chat is not None and call.chat.messages == [
        {"role": "system", "content": "be brief"}, {"role": "user", "content": "hi"},
    ]  # fmt: skip


async def test_a_raw_prompt_is_left_alone_and_may_fill_the_context() -> None:
    call = await one_call("/api/generate", {"prompt": "a b", "raw": True})
    assert call.prompts == ["a b"] and call.until_full and call.sampling.max_tokens is None
    assert (await one_call("/api/generate", {"prompt": "a", "raw": True, "logprobs": True})).sampling.logprobs == 0


async def test_options_are_the_sampling_fields_with_ollamas_defaults() -> None:
    call = await one_call("/api/chat", {"messages": [USER]})
    assert (call.sampling.temperature, call.sampling.top_k, call.sampling.top_p) == (0.8, 40, 0.9)
    assert call.sampling.max_tokens is None
    options = {
        "num_predict": 5, "temperature": 0, "top_k": 3, "top_p": 0.5, "min_p": 0.1, "repeat_penalty": 1.5, "seed": 7,
        "stop": ["x"], "presence_penalty": 1.0, "frequency_penalty": -1.0,
    }  # fmt: skip
    s = (await one_call("/api/chat", {"messages": [USER], "options": options})).sampling
    assert (s.max_tokens, s.temperature, s.top_k, s.top_p, s.min_p) == (5, 0, 3, 0.5, 0.1)
    assert (s.repetition_penalty, s.seed, s.stop) == (1.5, 7, ["x"])
    assert (s.presence_penalty, s.frequency_penalty) == (1.0, -1.0)
    endless = await one_call("/api/chat", {"messages": [USER], "options": {"num_predict": -2}})
    assert endless.sampling.max_tokens is None


async def test_options_without_a_meaning_are_named() -> None:
    async with in_process() as client:
        options = {"num_ctx": 9, "num_gpu": 1, "top_k": 1, "a b\n": 1}
        body = {
            "messages": [USER],
            "options": options,
            "shift": False,
            "truncate": True,
            "keep_alive": "5m",
            "wings": 2,
        }
        answer = await post(client, "/api/chat", body)
        assert answer.headers["x-paceline-ignored"] == "wings, keep_alive, truncate, num_ctx, num_gpu"
        quiet = {"messages": [USER], "truncate": False, "keep_alive": -1, "tools": []}
        assert "x-paceline-ignored" not in (await post(client, "/api/chat", quiet)).headers
        context = {"prompt": "x", "context": [1, 2]}
        assert (await post(client, "/api/generate", context)).headers["x-paceline-ignored"] == "context"


@pytest.mark.parametrize(
    ("given", "seconds"),
    [("5m", 300), ("1h30m", 5400), ("0", 0), ("0s", 0), ("-1", -1), ("-1m", -60), (0, 0), (-1, -1), (1.5, 1.5),
     ("1.5s", 1.5), ("500ms", 0.5), ("+2s", 2)],
)  # fmt: skip
def test_durations(given: str | float, seconds: float) -> None:
    assert duration_s(given, "keep_alive") == pytest.approx(seconds)


@pytest.mark.parametrize("given", ["", "m", "5x", "5m5", "--1", "1h 30m", "5" * 50, "\n5m\n."])
def test_what_is_no_duration(given: str) -> None:
    with pytest.raises(InvalidRequestError, match=r"keep_alive .*must be seconds, or a text such as 5m"):
        duration_s(given, "keep_alive")


async def test_the_models_own_defaults_go_before_ollamas() -> None:
    def served() -> Service:
        made = service(FakeEngine())
        made.card = msgspec.structs.replace(made.card, defaults={"temperature": 0.1, "max_tokens": 3, "seed": 5})
        return made

    async def ask(path: str, body: dict[str, Any]) -> Generate:
        made = served()
        app: Any = build_app(made)
        transport = httpx.ASGITransport(app=app, raise_app_exceptions=False)
        async with httpx.AsyncClient(transport=transport, base_url="http://localhost:8000") as client:
            assert (await post(client, path, body)).status_code == 200
        assert isinstance(made.engine, FakeEngine)
        return made.engine.calls[0]

    call = await ask("/api/chat", {"messages": [USER]})
    assert (call.sampling.temperature, call.sampling.top_k, call.sampling.seed) == (None, 40, 5)
    assert call.sampling.max_tokens is None and not call.until_full, "the tokenizer fills it in, where it fits"
    assert not (await ask("/api/generate", {"prompt": "x", "raw": True})).until_full
    for path, body in (("/api/chat", {"messages": [USER]}), ("/api/generate", {"prompt": "x", "raw": True})):
        call = await ask(path, body | {"options": {"num_predict": -1, "seed": 6}})
        assert call.until_full and call.sampling.seed == 6
    assert (await ask("/api/chat", {"messages": [USER], "options": {"seed": -1}})).sampling.seed != 5


async def test_logprobs_and_thinking_are_passed_on() -> None:
    body = {"messages": [USER], "logprobs": True, "top_logprobs": 2, "stream": False, "think": False}
    async with in_process() as client:
        told = (await post(client, "/api/chat", body)).json()["logprobs"]
    assert told[0]["token"] == "tok0 " and len(told[0]["top_logprobs"]) == 3
    call = await one_call("/api/chat", body)
    assert call.chat is not None and call.chat.template_kwargs == {"enable_thinking": False}
    assert (await one_call("/api/chat", body | {"think": "high"})).chat.template_kwargs == {"reasoning_effort": "high"}  # pyright: ignore[reportOptionalMemberAccess]


@pytest.mark.parametrize(
    ("path", "body", "ignored"),
    [
        ("/api/generate", {"model": "tiny"}, None),
        ("/api/generate", {"model": "tiny", "prompt": "", "keep_alive": 0}, "keep_alive"),
        ("/api/chat", {"model": "tiny", "messages": [], "keep_alive": "5m"}, "keep_alive"),
        ("/api/chat", {"model": "tiny", "messages": [], "keep_alive": -1}, None),
    ],
)
async def test_no_prompt_asks_to_load_and_nothing_is_unloaded(
    path: str, body: dict[str, Any], ignored: str | None
) -> None:
    engine = FakeEngine()
    async with in_process(engine) as client:
        answer = await post(client, path, body)
        assert (await client.get("/api/ps")).json()["models"][0]["name"] == "tiny", "it stays, and must be said to stay"
    told = answer.json()
    assert told["done"] is True and told["done_reason"] == "load" and not engine.calls
    assert answer.headers.get("x-paceline-ignored") == ignored


@pytest.mark.parametrize(
    ("path", "body", "status", "words"),
    [
        ("/api/chat", {"model": "nope", "messages": [USER]}, 404, "model 'nope' not found"),
        ("/api/generate", {"model": "nope", "prompt": "x"}, 404, "model 'nope' not found"),
        ("/api/chat", {"messages": [{"role": "user", "content": 7}]}, 400, "messages.0.content"),
        ("/api/chat", {"messages": [USER | {"images": ["aGk="]}]}, 400, "messages.0.images"),
        ("/api/chat", {"messages": [USER], "options": {"temperature": "hot"}}, 400, "options.temperature must be"),
        ("/api/chat", {"messages": [USER], "options": 5}, 400, "options"),
        ("/api/chat", {"messages": [USER], "options": {"temperature": 3}}, 400, "options.temperature is 3"),
        ("/api/chat", {"messages": [USER], "format": {"type": 5}}, 400, "format is not usable"),
        ("/api/chat", {"messages": [USER], "format": "xml"}, 400, "format"),
        ("/api/chat", {"messages": [USER], "tools": [{"type": "function", "function": {}}]}, 400, "tools"),
        ("/api/generate", {"prompt": "x", "template": "{{ . }}"}, 400, "template"),
        ("/api/generate", {"prompt": "x", "images": ["aGk="]}, 400, "images"),
        ("/api/generate", {"prompt": 7}, 400, "prompt must be a string"),
        ("/api/embed", {"input": ["x", ""]}, 400, "input.1 is empty"),
        ("/api/embed", {"input": "x", "model": "other"}, 404, "model 'other' not found"),
        ("/api/embeddings", {"prompt": 7}, 400, "prompt must be a string"),
        ("/api/generate", {"prompt": "x", "raw": True, "system": "s"}, 400, "raw goes without system"),
        ("/api/generate", {"prompt": "x", "raw": True, "context": [1]}, 400, "raw goes without context"),
        ("/api/generate", {"prompt": "x", "suffix": "y"}, 400, "suffix is not supported"),
        ("/api/chat", {"messages": [USER], "keep_alive": "soon"}, 400, "keep_alive is"),
        ("/api/chat", {"messages": [], "keep_alive": "soon"}, 400, "keep_alive is"),
        ("/api/create", {"model": "x", "from": "tiny"}, 403, "server.model_management"),
        ("/api/copy", {"source": "tiny", "destination": "y"}, 403, "server.model_management"),
        ("/api/push", {"model": "x"}, 404, "no route"),
        ("/api/pull", {"model": "x"}, 403, "server.model_management"),
        ("/api/show", {}, 400, "model is missing"),
        ("/api/show", {"model": "other"}, 404, "model 'other' not found"),
        ("/api/nothing", {}, 404, "no route"),
    ],
)
async def test_refusals_are_an_error_text(path: str, body: dict[str, Any], status: int, words: str) -> None:
    engine = FakeEngine()
    async with in_process(engine) as client:
        answer = await post(client, path, body)
    assert answer.status_code == status and list(answer.json()) == ["error"] and words in answer.json()["error"]
    assert not engine.calls


async def test_a_page_cannot_use_the_lenient_content_type() -> None:
    async with in_process() as client:
        headers = {"origin": "http://localhost:3000", "content-type": "text/plain"}
        answer = await client.post("/api/generate", content=b'{"prompt": "x"}', headers=headers)
        assert answer.status_code == 400 and "content-type" in answer.json()["error"]


async def test_a_failure_in_the_stream_is_its_last_line() -> None:
    engine = FakeEngine()
    engine.fail_with = ActorError("/root/secret is gone")
    async with in_process(engine) as client:
        found = lines(await post(client, "/api/chat", {"messages": [USER]}))
    assert len(found) == 2 and list(found[-1]) == ["error"] and "secret" not in found[-1]["error"]


# --- models ----------------------------------------------------------------------------------------------------------


async def test_models_of_the_server_and_of_the_machine() -> None:
    async with in_process(store=FakeStore()) as client:
        [model] = (await client.get("/api/tags")).json()["models"]
        [loaded] = (await client.get("/api/ps")).json()["models"]
        assert (await client.get("/api/version")).json() == {"version": "0.1.0"}
    assert (model["name"], model["model"], model["size"]) == ("tiny", "tiny", 5000)
    assert model["digest"] == "abcdef0123456789" * 4
    assert model["details"] == {
        "parent_model": "", "format": "gguf", "family": "llama", "families": ["llama"], "parameter_size": "16.47K",
        "quantization_level": "",
    }  # fmt: skip
    assert set(loaded) == {*model, "expires_at", "size_vram", "context_length"}
    assert loaded["context_length"] == 256 and loaded["size_vram"] == 0 and loaded["expires_at"] > "2100"
    async with in_process(store=FakeStore(), model_management=True) as client:
        models = (await client.get("/api/tags")).json()["models"]
        assert [m["name"] for m in models] == ["tiny", "other", "broken"]
        assert (await post(client, "/api/show", {"model": "other"})).status_code == 200
        assert (await post(client, "/api/show", {"model": "broken"})).status_code == 400


async def test_show() -> None:
    async with in_process() as client:
        told = (await post(client, "/api/show", {"name": "tiny:latest"})).json()
    assert told["capabilities"] == ["completion", "embedding", "tools"]
    assert told["template"] and told["details"]["family"] == "llama"
    assert told["model_info"]["llama.context_length"] == 256 and told["model_info"]["general.architecture"] == "llama"


@pytest.mark.parametrize(
    ("template", "parser", "more"),
    [
        ("{{ messages }}", "auto", []),
        ("{{ tools }} <tool_call> arguments </think>", "auto", ["tools", "thinking"]),
        ("{{ tools }} <tool_call> arguments </think>", "none", ["thinking"]),
    ],
)
async def test_show_tells_what_the_model_can(template: str, parser: str, more: list[str]) -> None:
    made = Service(config(tool_call_parser=parser), card(template), FakeEngine(), MetricsRegistry("tiny"), LOCATED)
    app: Any = build_app(made)
    async with httpx.AsyncClient(transport=httpx.ASGITransport(app), base_url="http://localhost:8000") as client:
        told = (await post(client, "/api/show", {"model": "tiny"})).json()
    assert told["capabilities"] == ["completion", "embedding", *more]


async def test_show_tells_what_the_model_comes_with() -> None:
    made = service(FakeEngine())
    talk = [{"role": "user", "content": "hi"}, {"role": "assistant", "content": "ho"}]
    defaults = {"temperature": 0.1, "repetition_penalty": 1.1, "stop": ["a", 'b"'], "max_tokens": 9}
    made.card = msgspec.structs.replace(made.card, system="Be brief.", messages=talk, defaults=defaults, license="MIT")
    preset = Preset(base="/secret/place/base.gguf", max_model_len=64, draft_model="/secret/place/draft.gguf")
    made.located = msgspec.structs.replace(LOCATED, preset=preset)
    app: Any = build_app(made)
    transport = httpx.ASGITransport(app=app, raise_app_exceptions=False)
    async with httpx.AsyncClient(transport=transport, base_url="http://localhost:8000") as client:
        answer = await post(client, "/api/show", {"model": "tiny"})
    told = answer.json()
    assert (told["system"], told["messages"], told["license"]) == ("Be brief.", talk, "MIT")
    assert [line.split(maxsplit=1) for line in told["parameters"].splitlines()] == [
        ["temperature", "0.1"], ["repeat_penalty", "1.1"], ["stop", '"a"'], ["stop", '"b\\""'], ["num_predict", "9"],
        ["num_ctx", "64"],
    ]  # fmt: skip
    assert told["details"]["parent_model"] == "base.gguf" and "secret" not in answer.text
    again = modelfile.parse(told["modelfile"], "again")
    assert (again.base, again.draft, again.preset.system, again.preset.messages) == (
        "tiny", "draft.gguf", "Be brief.", talk,
    )  # fmt: skip
    assert again.preset.sampling == defaults and again.preset.max_model_len == 64


@pytest.mark.parametrize("path", ["/", "/api/version", "/api/tags", "/api/ps"])
async def test_head(path: str) -> None:
    async with on_socket() as (url, _), httpx.AsyncClient(base_url=url) as client:
        head, whole = await client.head(path), await client.get(path)
    assert head.status_code == 200 and head.content == b"" and whole.content
    assert head.headers["content-length"] == whole.headers["content-length"]


async def test_names_that_are_one() -> None:
    for served, asked in (("tiny", "tiny:latest"), ("fox:latest", "fox"), ("ollama:m", "m"), ("ollama:m", "m:latest")):
        async with in_process(served_model_name=served) as client:
            body = {"model": asked, "messages": [USER], "stream": False}
            assert (await post(client, "/api/chat", body)).json()["model"] == asked
            assert (await post(client, "/api/show", {"model": asked})).status_code == 200
            assert (await post(client, "/api/chat", body | {"model": f"{asked}x"})).status_code == 404


async def test_create() -> None:
    store = FakeStore()
    async with in_process(store=store, model_management=True) as client:
        body = {
            "model": "fox", "from": "other", "system": "You are a fox.", "parameters": {"top_k": 3, "num_gpu": 1},
            "messages": [USER], "license": ["a", "b"], "renderer": "x",
        }  # fmt: skip
        answer = await post(client, "/api/create", body)
        assert [line["status"] for line in lines(answer)] == ["reading model metadata", "writing manifest", "success"]
        assert answer.headers["x-paceline-ignored"] == "num_gpu, renderer"
        assert store.made["fox"] == Wish(
            base="other",
            system="You are a fox.",
            parameters={"top_k": 3, "num_gpu": 1},
            messages=[USER],
            license="a\nb",
        )
        told = await post(client, "/api/create", {"name": "cub", "from": "tiny:latest", "stream": False})
        assert told.json() == {"status": "success"} and store.made["cub"] == Wish(base="tiny", is_served=True)
        for wrong, words in (
            ({"from": "other"}, "model is missing"),
            ({"model": "x"}, "from is missing"),
            ({"model": "x", "from": "other", "files": {"a": "b"}}, "files is not supported"),
            ({"model": "x", "from": "other", "quantize": "q4_0"}, "quantize is not supported"),
            ({"model": "x", "modelfile": "FROM y"}, "modelfile is not supported"),
            ({"model": "x", "from": "other", "template": "{{ .Prompt }}!"}, "Go's language"),
            ({"model": "x", "from": "other", "parameters": 5}, "parameters must be"),
        ):
            refused = await post(client, "/api/create", wrong)
            assert refused.status_code == 400 and words in refused.json()["error"], refused.text


async def test_copy() -> None:
    store = FakeStore()
    async with in_process(store=store, model_management=True) as client:
        assert (await post(client, "/api/copy", {"source": "other", "destination": "two"})).status_code == 200
        assert (await post(client, "/api/copy", {"source": "tiny", "destination": "three"})).status_code == 200
        assert store.made == {"two": Wish(base="other"), "three": Wish(base="tiny", is_served=True)}
        gone = await post(client, "/api/copy", {"source": "none", "destination": "x"})
        assert gone.status_code == 404 and gone.json() == {"error": "model 'none' not found"}
        for body, words in (({"source": "x"}, "destination is missing"), ({"destination": "x"}, "source is missing")):
            refused = await post(client, "/api/copy", body)
            assert refused.status_code == 400 and words in refused.json()["error"]


async def test_pull_tells_how_far_it_is() -> None:
    store = FakeStore()
    async with in_process(store=store, model_management=True) as client:
        found = lines(await post(client, "/api/pull", {"model": "x"}))
        assert (await post(client, "/api/pull", {"name": "x", "stream": False})).json() == {"status": "success"}
    assert found[0] == {"status": "pulling manifest"}
    assert [f["status"] for f in found[-3:]] == ["verifying sha256 digest", "writing manifest", "success"]
    store.gate = threading.Event()
    async with (
        on_socket(store=store, model_management=True) as (url, _),
        httpx.AsyncClient(base_url=url) as client,
        client.stream("POST", "/api/pull", json={"model": "x"}) as answer,
    ):
        async for line in answer.aiter_lines():
            step = json.loads(line)
            if step["status"] == "pulling a.gguf" and step["completed"] == 4:
                assert step["total"] == 10 and step["digest"] == "a.gguf"
                store.gate.set()
        assert step == {"status": "success"}  # pyright: ignore[reportPossiblyUnboundVariable]


async def test_a_pull_ends_with_its_client() -> None:
    store = FakeStore()
    store.gate = threading.Event()
    async with on_socket(store=store, model_management=True) as (url, _), httpx.AsyncClient(base_url=url) as client:
        async with client.stream("POST", "/api/pull", json={"model": "x"}) as answer:
            async for line in answer.aiter_lines():
                if "a.gguf" in line:  # the fetch has begun
                    break
        with anyio.fail_after(5):
            while not store.was_told_to_end.is_set():
                await anyio.sleep(0.01)


@pytest.mark.parametrize(
    ("error", "status", "words"),
    [
        (InvalidRequestError("no model named x", not_found=True), 404, "no model named x"),
        (DownloadError("x: no network"), 500, "no network"),
    ],
)
async def test_a_pull_that_fails(error: Exception, status: int, words: str) -> None:
    store = FakeStore()
    store.error = error
    async with in_process(store=store, model_management=True) as client:
        answer = await post(client, "/api/pull", {"model": "x", "stream": False})
        assert answer.status_code == status and words in answer.json()["error"]
        found = lines(await post(client, "/api/pull", {"model": "x"}))
        assert words in found[-1]["error"] and "success" not in str(found)


async def test_delete() -> None:
    store = FakeStore()
    async with in_process(store=store, model_management=True) as client:
        assert (await client.request("DELETE", "/api/delete", json={"model": "other"})).status_code == 200
        assert (await client.request("DELETE", "/api/delete", json={"model": "tiny:latest"})).status_code == 400
    async with in_process(store=store) as client:
        assert (await client.request("DELETE", "/api/delete", json={"model": "other"})).status_code == 403
    assert store.removed == ["other"]


# --- the official client ---------------------------------------------------------------------------------------------


async def test_the_official_client() -> None:
    ollama = pytest.importorskip("ollama")
    store = FakeStore()
    async with on_socket(store=store, model_management=True) as (url, _), ollama.AsyncClient(host=url) as client:
        whole = await client.chat(model="tiny", messages=[USER], options={"num_predict": 2})
        assert whole.message.content == "tok0 tok1 " and whole.done_reason == "length" and whole.eval_count == 2
        parts = [p async for p in await client.chat(model="tiny", messages=[USER], stream=True)]
        assert "".join(p.message.content for p in parts) == "".join(f"tok{i} " for i in range(16)) and parts[-1].done
        assert (await client.generate(model="tiny", prompt="x", options={"num_predict": 1})).response == "tok0 "
        assert [m.model for m in (await client.list()).models] == ["tiny", "other", "broken"]
        assert (await client.ps()).models[0].model == "tiny"
        assert (await client.show("tiny")).details.format == "gguf"
        made = [s async for s in await client.create("fox", from_="other", system="S", stream=True)]
        assert made[-1].status == "success" and store.made["fox"].system == "S"
        assert (await client.copy("other", "second")).status == "success"
        steps = [s async for s in await client.pull("x", stream=True)]
        assert steps[-1].status == "success"
        assert (await client.delete("other")).status == "success"
        with pytest.raises(ollama.ResponseError, match="not found") as caught:
            await client.chat(model="nope", messages=[USER])
        assert caught.value.status_code == 404
