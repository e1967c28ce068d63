"""A model of Ollama's store and a Modelfile on a real server, with the official client as the judge."""

import json
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest
from command import paceline
from fake_ollama import Store
from server import Server

pytestmark = pytest.mark.e2e
SMALL = ["-s", "cache.num_blocks=512", "-s", "target.num_threads=1"]
SYSTEM = "You are a fox near the sea."


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory, tiny_gguf: Path) -> Iterator[Store]:
    """A home with an Ollama store that has one model."""
    folder = tmp_path_factory.mktemp("home")
    store = Store(folder / "ollama")
    store.add(
        "vixen:1b", model=tiny_gguf.read_bytes(), system=SYSTEM, template="{{ .System }}{{ .Prompt }}",
        params={"temperature": 0, "num_predict": 12, "num_ctx": 256},
    )  # fmt: skip
    patch = pytest.MonkeyPatch()
    patch.setenv("PACELINE_HOME", str(folder / "paceline"))
    patch.setenv("OLLAMA_MODELS", str(store.root))
    yield store
    patch.undo()


@pytest.fixture(scope="module")
def served(home: Store, serve: Any) -> Iterator[Server]:
    """``ollama:vixen:1b`` under a server that may manage models."""
    with serve("--enable-model-management", model="ollama:vixen:1b", base=SMALL) as running:
        yield running


def test_the_official_client(served: Server, home: Store) -> None:
    ollama = pytest.importorskip("ollama")
    before = home.bytes()
    messages = [{"role": "user", "content": "Where do you live?"}]
    with ollama.Client(host=served.url) as client:
        assert [m.model for m in client.list().models] == ["ollama:vixen:1b"]
        shown = client.show("vixen:1b")
        assert shown.details.format == "gguf" and shown.modelinfo["llama.context_length"] == 512
        assert "num_predict                    12" in (shown.parameters or "") and SYSTEM in shown.modelfile
        [loaded] = client.ps().models
        assert (loaded.model, loaded.context_length, loaded.size_vram) == ("ollama:vixen:1b", 256, 0)
        parts = list(client.chat("vixen:1b", messages, stream=True))
        text, last = "".join(p.message.content or "" for p in parts), parts[-1]
        assert last.done and last.done_reason == "length" and last.eval_count == 12 and last.total_duration > 0
        said = [{"role": "system", "content": SYSTEM}, *messages]
        same = client.chat("vixen:1b", said, options={"temperature": 0})
        assert same.message.content == text and same.prompt_eval_count == last.prompt_eval_count
        other = client.chat("vixen:1b", [{"role": "system", "content": "x"}, *messages])
        assert other.prompt_eval_count < last.prompt_eval_count, "a client's own system message replaces the model's"
        assert client.generate("vixen:1b", "Where do you live?").response == text
        assert client.generate("vixen:1b", "", keep_alive=0).done_reason == "load"
        steps = list(
            client.create("cub", from_="ollama:vixen:1b", system="A cub.", parameters={"top_k": 2}, stream=True)
        )
        assert steps[-1].status == "success"
        client.copy("cub", "twin")
        assert sorted(m.model for m in client.list().models) == ["cub:latest", "ollama:vixen:1b", "twin:latest"]
        assert "SYSTEM A cub." in client.show("twin").modelfile
        client.delete("cub")
        client.delete("twin")
        assert [m.model for m in client.list().models] == ["ollama:vixen:1b"]
        for name in ("ollama:vixen:1b", "nothing"):
            with pytest.raises(ollama.ResponseError, match=r"is being served|not found"):
                client.delete(name)
    assert home.bytes() == before, "Ollama's store is only read"


def test_openais_dialect_has_the_models_manners_too(served: Server) -> None:
    body = {"messages": [{"role": "user", "content": "Where do you live?"}]}
    with httpx.Client(base_url=served.url) as client:
        plain = client.post("/v1/chat/completions", json=body).json()
        counted = client.post("/tokenize", json=body).json()
    assert plain["usage"]["completion_tokens"] == 12 and plain["usage"]["prompt_tokens"] == counted["count"]


def test_ps_asks_the_server(served: Server) -> None:
    port = served.url.rpartition(":")[2]
    env = dict(os.environ) | {"OLLAMA_HOST": f"127.0.0.1:{port}"}
    shown = paceline("ps", env=env)
    assert shown.returncode == 0, shown.stderr
    head, row = shown.stdout.splitlines()
    assert head.split() == ["NAME", "QUANT", "SIZE", "CONTEXT", "DEVICE", "REQUESTS", "AT"]
    assert row.split()[0] == "ollama:vixen:1b" and row.split()[-4:] == ["256", "CPU", "0", served.url]
    [model] = json.loads(paceline("ps", "--port", port, "--json", env=dict(os.environ)).stdout)
    assert model["name"] == "ollama:vixen:1b"


def test_a_modelfile_is_made_run_served_and_stopped(home: Store, serve: Any, tmp_path: Path) -> None:
    path = tmp_path / "Modelfile"
    path.write_text('FROM ollama:vixen:1b\nSYSTEM """You are a cat."""\nPARAMETER num_predict 5\nMESSAGE user Hello\n')
    env = dict(os.environ)
    made = paceline("create", "cat", "-f", str(path), env=env)
    assert made.returncode == 0, made.stderr
    small = [*SMALL, "-s", "cache.num_blocks=64"]
    ran = paceline("run", "cat", "Where", "do", "you", "live?", *small, "--verbose", env=env)
    assert ran.returncode == 0 and "output  5 tokens" in ran.stderr, ran.stderr
    with serve(model=path, base=small) as server:
        with httpx.Client(base_url=server.url) as client:
            body = {"messages": [{"role": "user", "content": "Where do you live?"}], "stream": False}
            told = client.post("/api/chat", json=body).json()
            shown = client.post("/api/show", json={"model": str(path)}).json()
        assert told["message"]["content"].strip() == ran.stdout.strip() and told["eval_count"] == 5
        assert shown["system"] == "You are a cat." and shown["messages"] == [{"role": "user", "content": "Hello"}]
        stopped = paceline("stop", "--port", server.url.rpartition(":")[2], env=env)
        assert stopped.returncode == 0 and "has ended" in stopped.stdout, stopped.stderr
        assert server.process.wait(10) == 0
    assert "deleted" in paceline("rm", "cat", env=env).stdout
