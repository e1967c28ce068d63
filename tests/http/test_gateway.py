"""The gateway actor with its mailbox, its socket and real message bytes; the engine's side is played here."""

import asyncio
import json
import socket
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import anyio
import httpx
import openai
import pytest
from fake_engine import FakeEngine, card, config, state
from http_app import connected, events, on_socket

from paceline.actors.actor import Setup
from paceline.actors.http.gateway import Gateway
from paceline.actors.memory_mailbox import MemoryMailbox, MemoryNetwork
from paceline.actors.messages import (
    AbortCall,
    Admitted,
    CallFailed,
    Drain,
    Generate,
    Hello,
    PromptInfo,
    Stats,
    Stop,
    TextDelta,
)
from paceline.engine.errors import InvalidRequestError
from paceline.engine.store.located import Located

pytestmark = pytest.mark.anyio


@pytest.fixture
def anyio_backend() -> str:
    return "asyncio"


class World:
    """A running gateway, and the mailboxes of those it talks to."""

    def __init__(self) -> None:
        network = MemoryNetwork()
        self.supervisor: MemoryMailbox = network.mailbox("supervisor")
        self.tokenizer: MemoryMailbox = network.mailbox("tokenizer")
        listener = socket.create_server(("127.0.0.1", 0))
        self.url = f"http://127.0.0.1:{listener.getsockname()[1]}"
        setup = Setup(
            actor="gateway", epoch=0, folder="", config=config(), card=card(), socket_fd=listener.detach(),
            located=Located(name="tiny", kind="gguf", folder="", files=[], sizes=[], digests=["feed" * 16]),
        )  # fmt: skip
        self.gateway = Gateway(setup, network.mailbox("gateway"))
        self.exit_code: int | None = None
        self.asked: list[Any] = []

    async def run(self) -> None:
        self.exit_code = await self.gateway.run()

    async def heard(self, kind: type) -> Any:
        """The next message of ``kind`` to the tokenizer."""
        with anyio.fail_after(5):
            while True:
                _, message = await self.tokenizer.receive()
                if isinstance(message, kind):
                    return message

    def tell(self, message: Any) -> None:
        (self.supervisor if not hasattr(message, "call_id") else self.tokenizer).send("gateway", message)

    def delta(self, call: Generate, i: int, text: str, finish: str | None = None) -> None:
        self.tell(TextDelta(call.call_id, 0, 2 * i, text, i + 1, finish_reason=finish))  # pyright: ignore[reportArgumentType]


@asynccontextmanager
async def world() -> AsyncIterator[World]:
    """A gateway that is up; at its end it must have ended well."""
    it = World()
    async with anyio.create_task_group() as tasks:
        tasks.start_soon(it.run)
        with anyio.fail_after(5):
            while not isinstance((await it.supervisor.receive())[1], Hello):
                pass
        yield it
        it.tell(Stop())
    assert it.exit_code == 0


async def test_the_port_answers_from_the_first_moment_and_calls_when_the_engine_is_there() -> None:
    async with world() as it, httpx.AsyncClient(base_url=it.url) as client:
        answer = await client.post("/v1/completions", json={"prompt": "x"})
        assert answer.status_code == 503 and answer.json()["error"]["code"] == "starting"
        assert (await client.get("/ready")).json()["status"] == "starting"
        it.tell(state())
        it.tell(Stats("scheduler", 0, {"num_requests_running": 1, "kv_blocks_free": 5, "kv_blocks_total": 9}))
        call = asyncio.create_task(client.post("/v1/completions", json={"prompt": "x", "max_tokens": 2}))
        asked = await it.heard(Generate)
        it.tell(Admitted(asked.call_id, [PromptInfo(1)]))
        it.delta(asked, 0, "ab")
        it.delta(asked, 1, "cd", "length")
        assert (await call).json()["choices"][0]["text"] == "abcd"
        assert (await call).json()["system_fingerprint"].endswith("-feedfeedfeed")
        assert (await client.get("/ready")).json()["free_blocks"] == 5
        metrics = (await client.get("/metrics")).text
        assert 'vllm:num_requests_running{engine="0",model_name="tiny"} 1.0' in metrics
        assert 'paceline_actor_up{actor="target",engine="0",model_name="tiny"} 1.0' in metrics


async def test_a_refusal_of_the_engine_is_a_status() -> None:
    async with world() as it, httpx.AsyncClient(base_url=it.url) as client:
        it.tell(state())
        call = asyncio.create_task(client.post("/v1/completions", json={"prompt": "x", "stream": True}))
        asked = await it.heard(Generate)
        it.tell(CallFailed(asked.call_id, InvalidRequestError("too long", param="prompt").info()))
        assert (await call).status_code == 400 and (await call).json()["error"]["param"] == "prompt"


async def test_a_client_that_leaves_sends_an_abort() -> None:
    async with world() as it:
        it.tell(state())
        async with connected(it.url) as (reader, writer):
            body = json.dumps({"prompt": "x", "stream": True}).encode()
            writer.write(b"POST /v1/completions HTTP/1.1\r\nHost: x\r\nContent-Type: application/json\r\n")
            writer.write(b"Content-Length: %d\r\n\r\n" % len(body) + body)
            asked = await it.heard(Generate)
            it.tell(Admitted(asked.call_id, [PromptInfo(1)]))
            await reader.readuntil(b"\r\n\r\n")
        assert (await it.heard(AbortCall)).call_id == asked.call_id


async def test_drain_finishes_what_runs_and_takes_nothing_new() -> None:
    async with world() as it, httpx.AsyncClient(base_url=it.url) as client:
        it.tell(state())
        call = asyncio.create_task(client.post("/v1/completions", json={"prompt": "x", "max_tokens": 2}))
        asked = await it.heard(Generate)
        it.tell(Admitted(asked.call_id, [PromptInfo(1)]))
        it.delta(asked, 0, "ab")
        it.tell(Drain())
        with anyio.fail_after(5):
            while (answer := await client.get("/ready")).status_code == 200:
                await anyio.sleep(0.005)
        assert answer.json()["status"] == "draining" and (await client.get("/health")).status_code == 200
        refused = await client.post("/v1/completions", json={"prompt": "y"})
        assert refused.status_code == 503 and refused.json()["error"]["code"] == "draining"
        it.delta(asked, 1, "cd", "length")
        assert (await call).json()["choices"][0]["text"] == "abcd"
        with anyio.fail_after(5):
            while it.exit_code is None:
                await anyio.sleep(0.01)


async def test_stop_tells_open_streams() -> None:
    async with world() as it, httpx.AsyncClient(base_url=it.url) as client:
        it.tell(state())
        call = asyncio.create_task(client.post("/v1/completions", json={"prompt": "x", "stream": True}))
        asked = await it.heard(Generate)
        it.tell(Admitted(asked.call_id, [PromptInfo(1)]))
        it.delta(asked, 0, "ab")
        await anyio.sleep(0.05)
        it.tell(Stop())
        last = events((await call).content)[-1]
        assert last["error"]["code"] == "draining" and last["error"]["retry_after"] >= 1


# --- the official client ----------------------------------------------------------------------------------------------


@asynccontextmanager
async def official(engine: FakeEngine, **server: Any) -> AsyncIterator[openai.AsyncOpenAI]:
    async with (
        on_socket(engine, **server) as (url, _),
        openai.AsyncOpenAI(base_url=f"{url}/v1", api_key="key-a", max_retries=0) as client,
    ):
        yield client


async def test_official_client() -> None:
    async with official(FakeEngine(), api_keys=["key-a"]) as client:
        assert [m.id async for m in client.models.list()] == ["tiny"]
        assert (await client.models.retrieve("tiny")).id == "tiny"
        whole = await client.completions.create(
            model="tiny", prompt=["a b", "c"], max_tokens=2, n=2, logprobs=1, seed=1
        )
        assert [c.text for c in whole.choices] == ["tok0 tok1 "] * 4
        assert whole.usage is not None and whole.usage.prompt_tokens == 3
        assert whole.choices[0].logprobs is not None and whole.choices[0].logprobs.tokens == ["tok0 ", "tok1 "]
        chat = await client.chat.completions.create(
            model="tiny", messages=[{"role": "user", "content": "hi"}], max_tokens=2, logprobs=True, top_logprobs=1
        )
        assert chat.choices[0].message.content == "tok0 tok1 " and chat.choices[0].message.tool_calls is None
        assert chat.choices[0].logprobs is not None and chat.choices[0].logprobs.content is not None
        assert chat.choices[0].logprobs.content[0].bytes == list(b"tok0 ")


async def test_official_client_streams() -> None:
    async with official(FakeEngine()) as client:
        stream = await client.chat.completions.create(
            model="tiny", messages=[{"role": "user", "content": "hi"}], max_tokens=3, stream=True,
            stream_options={"include_usage": True},
        )  # fmt: skip
        chunks = [c async for c in stream]
        assert "".join(c.choices[0].delta.content or "" for c in chunks if c.choices) == "tok0 tok1 tok2 "
        assert chunks[-1].usage is not None and chunks[-1].usage.completion_tokens == 3
        stream = await client.completions.create(model="tiny", prompt=[1, 2], max_tokens=3, stream=True)
        assert "".join([c.choices[0].text async for c in stream]) == "tok0 tok1 tok2 "


async def test_official_client_raises_the_right_errors() -> None:
    engine = FakeEngine()
    async with official(engine) as client:
        with pytest.raises(openai.NotFoundError, match="not served"):
            await client.completions.create(model="other", prompt="x")
        with pytest.raises(openai.BadRequestError) as bad:
            await client.completions.create(model="tiny", prompt="x", temperature=9)
        assert bad.value.param == "temperature" and bad.value.type == "invalid_request_error"
        engine.fail_with = InvalidRequestError("lost")
        stream = await client.completions.create(model="tiny", prompt="x", max_tokens=5, stream=True)
        with pytest.raises(openai.APIError, match="lost"):
            [c async for c in stream]
        engine.state = state("failed", error="the target died of thirst")
        with pytest.raises(openai.InternalServerError, match="thirst"):
            await client.completions.create(model="tiny", prompt="x")
