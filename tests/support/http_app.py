"""The HTTP application in this process around a fake engine, and the same on a real socket."""

import asyncio
import contextlib
import json
import socket
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import anyio
import httpx
from fake_engine import FakeEngine, card, config

from paceline.actors.http.app import build_app
from paceline.actors.http.gateway import make_server
from paceline.actors.http.service import Service
from paceline.actors.stats import MetricsRegistry
from paceline.engine.store.located import Located

LOCATED = Located(
    name="tiny", kind="gguf", folder="", files=["tiny.gguf"], sizes=[5000], digests=["abcdef0123456789" * 4]
)


def service(engine: FakeEngine, store: Any = None, **server: Any) -> Service:
    """A service of the fake engine."""
    return Service(config(**server), card(), engine, MetricsRegistry("tiny"), LOCATED, store)


@asynccontextmanager
async def in_process(
    engine: FakeEngine | None = None, store: Any = None, **server: Any
) -> AsyncIterator[httpx.AsyncClient]:
    """A client of the ASGI application, without sockets."""
    served = service(engine or FakeEngine(), store, **server)
    app: Any = build_app(served)
    transport = httpx.ASGITransport(app=app, raise_app_exceptions=False)
    async with httpx.AsyncClient(transport=transport, base_url="http://localhost:8000") as client:
        yield client
    await served.grammars.close()


@asynccontextmanager
async def on_socket(
    engine: FakeEngine | None = None, protocol: Any = None, store: Any = None, **server: Any
) -> AsyncIterator[tuple[str, Service]]:
    """A real server; its URL and service. ``protocol`` is a class of ``connection.py``."""
    served = service(engine or FakeEngine(), store, **server)
    uvicorn_server = make_server(build_app(served), protocol)
    listener = socket.create_server(("127.0.0.1", 0))
    async with anyio.create_task_group() as tasks:
        await tasks.start(uvicorn_server.run_on, listener, served.calls.stop)
        yield f"http://127.0.0.1:{listener.getsockname()[1]}", served
        tasks.cancel_scope.cancel()


@asynccontextmanager
async def connected(url: str) -> AsyncIterator[tuple[asyncio.StreamReader, asyncio.StreamWriter]]:
    """A bare connection."""
    host, port = url.removeprefix("http://").split(":")
    reader, writer = await asyncio.open_connection(host, int(port))
    try:
        yield reader, writer
    finally:
        writer.transport.abort()
        with contextlib.suppress(OSError):
            await writer.wait_closed()


async def raw(url: str, data: bytes, *, wait_s: float = 5.0) -> bytes:
    """Send bytes and read until the server closes, or for ``wait_s``."""
    async with connected(url) as (reader, writer):
        writer.write(data)
        return await asyncio.wait_for(_read_all(reader), wait_s)


async def _read_all(reader: asyncio.StreamReader) -> bytes:
    try:
        return await reader.read()
    except ConnectionResetError:
        return b""


def events(body: bytes | str) -> list[Any]:
    """The data of server-sent events; ``[DONE]`` stays text."""
    text = body if isinstance(body, str) else body.decode()
    found = []
    for block in text.split("\n\n"):
        if block:
            assert block.startswith("data: ") and "\n" not in block, block
            data = block.removeprefix("data: ")
            found.append(data if data == "[DONE]" else json.loads(data))
    return found
