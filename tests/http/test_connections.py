"""Real sockets: clients that leave, dawdle, send too much or nonsense. Both parsers of uvicorn, with our guards."""

import asyncio
import json
import socket
import struct
from typing import Any

import anyio
import httpx
import pytest
from fake_engine import FakeEngine
from http_app import connected, events, on_socket, raw

from paceline.actors.http import connection, limits
from paceline.engine.errors import ActorError, UnavailableError

pytestmark = pytest.mark.anyio

PROTOCOLS = [p for p in (connection.H11Connection, connection.HttpToolsConnection) if p is not None]


@pytest.fixture
def anyio_backend() -> str:
    return "asyncio"


@pytest.fixture(params=PROTOCOLS, ids=lambda p: p.__mro__[2].__name__)
def protocol(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> Any:
    """A protocol class whose knobs a test may turn."""
    monkeypatch.setattr(request.param, "max_open", 1000)
    return request.param


def request_bytes(body: dict[str, Any]) -> bytes:
    data = json.dumps(body).encode()
    fields = f"Host: x\r\nContent-Type: application/json\r\nContent-Length: {len(data)}\r\n"
    return f"POST /v1/completions HTTP/1.1\r\n{fields}\r\n".encode() + data


def parts(answer: bytes) -> tuple[int, bytes, Any]:
    """Status, head and decoded body of a raw answer."""
    head, _, body = answer.partition(b"\r\n\r\n")
    return int(head.split()[1]), head.lower(), json.loads(body)


async def until(condition: Any, wait_s: float = 5.0) -> None:
    with anyio.fail_after(wait_s):
        while not condition():
            await anyio.sleep(0.005)


# --- clients that leave -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("reset", [False, True], ids=["FIN", "RST"])
@pytest.mark.parametrize("stream", [False, True])
async def test_a_client_that_leaves_aborts_its_call_at_once(protocol: Any, reset: bool, stream: bool) -> None:
    engine = FakeEngine()
    engine.gate = asyncio.Event()
    async with on_socket(engine, protocol) as (url, served), connected(url) as (reader, writer):
        writer.write(request_bytes({"prompt": "x", "max_tokens": 99, "n": 4, "stream": stream}))
        if stream:
            await reader.readuntil(b"tok0 ")
        else:
            await until(lambda: engine.calls)
        await until(lambda: served.calls.num_requests == 4)
        if reset:
            sock = writer.get_extra_info("socket")
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
            writer.transport.abort()
        else:
            writer.close()
        with anyio.fail_after(1):
            await engine.aborted_event.wait()
        await until(lambda: served.calls.num_requests == 0, 1)
    assert engine.aborted == [engine.calls[0].call_id]


async def test_a_call_that_ends_is_not_aborted(protocol: Any) -> None:
    engine = FakeEngine()
    async with on_socket(engine, protocol) as (url, _), httpx.AsyncClient(base_url=url) as client:
        for stream in (False, True):
            answer = await client.post("/v1/completions", json={"prompt": "x", "max_tokens": 3, "stream": stream})
            assert answer.status_code == 200
    assert not engine.aborted


async def test_a_slow_reader_is_cut_and_its_call_aborted(protocol: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(protocol, "stall_s", 0.3)
    engine = FakeEngine()
    engine.text = "x" * 20_000 + "{i} "
    async with on_socket(engine, protocol) as (url, served):
        sock = socket.socket()
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
        sock.setblocking(False)
        with sock:
            host, port = url.removeprefix("http://").split(":")
            await asyncio.get_running_loop().sock_connect(sock, (host, int(port)))
            sock.sendall(request_bytes({"prompt": "x", "max_tokens": 256, "stream": True}))
            await until(lambda: served.calls.num_requests == 1)
            with anyio.fail_after(5):
                await engine.aborted_event.wait()
            await until(lambda: served.calls.num_requests == 0)


# --- failures after the head ------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("error", "code", "retry_after"),
    [
        (UnavailableError("the target died", code="engine_unavailable", retry_after_s=3), "engine_unavailable", 3.0),
        (ActorError("text is missing"), "internal_error", None),
        (ValueError("a bug"), "internal_error", None),
    ],
)
async def test_a_failed_stream_ends_with_an_error_and_closes(
    protocol: Any, error: Exception, code: str, retry_after: float | None
) -> None:
    engine = FakeEngine()
    engine.fail_with = error
    async with on_socket(engine, protocol) as (url, _):
        answer = await raw(url, request_bytes({"prompt": "x", "max_tokens": 9, "stream": True}))
    assert answer.startswith(b"HTTP/1.1 200") and answer.endswith(b"0\r\n\r\n")  # and closed, for raw() has returned
    assert b"[DONE]" not in answer
    last = json.loads(answer.rsplit(b"data: ", 1)[1].split(b"\n\n")[0])["error"]
    assert last["code"] == code and last.get("retry_after") == retry_after and "a bug" not in last["message"]


@pytest.mark.parametrize("stream", [False, True])
async def test_a_call_ends_at_its_deadline(stream: bool) -> None:
    engine = FakeEngine()
    engine.gate = asyncio.Event()
    async with on_socket(engine, request_timeout_s=0.2) as (url, _), httpx.AsyncClient(base_url=url) as client:
        answer = await client.post("/v1/completions", json={"prompt": "x", "max_tokens": 9, "stream": stream})
        error = events(answer.content)[-1]["error"] if stream else answer.json()["error"]
        assert answer.status_code == (200 if stream else 504) and error["code"] == "deadline_exceeded"
    assert engine.aborted


@pytest.mark.parametrize("stream", [False, True])
async def test_a_server_that_stops_tells_its_open_calls(protocol: Any, stream: bool) -> None:
    engine = FakeEngine()
    engine.gate = asyncio.Event()
    async with on_socket(engine, protocol) as (url, served):
        call = asyncio.create_task(raw(url, request_bytes({"prompt": "x", "max_tokens": 9, "stream": stream})))
        await until(lambda: served.calls.num_requests == 1)
        if stream:
            await anyio.sleep(0.05)
    answer = await call
    assert b'"code":"draining"' in answer and (b" 200 " if stream else b" 503 ") in answer[:20]
    assert engine.aborted


async def test_a_server_that_stops_answers_who_still_sends_a_body(
    protocol: Any, caplog: pytest.LogCaptureFixture
) -> None:
    async with on_socket(protocol=protocol) as (url, _):
        half = (
            b"POST /v1/completions HTTP/1.1\r\nHost: x\r\nContent-Type: application/json\r\nContent-Length: 9\r\n\r\n{"
        )
        call = asyncio.create_task(raw(url, half))
        await anyio.sleep(0.1)
    status, _, body = parts(await call)
    assert (status, body["error"]["code"]) == (503, "draining")
    assert "Exception in ASGI" not in caplog.text


# --- heads and bodies -------------------------------------------------------------------------------------------------


async def test_garbage_is_400(protocol: Any) -> None:
    async with on_socket(protocol=protocol) as (url, _):
        for data in (b"\x16\x03\x01\x02\x00\r\n\r\n", b"GET\r\n\r\n", b"POST / HTTP/1.1\r\nA\r\n\r\n"):
            status, head, body = parts(await raw(url, data))
            assert status == 400 and body["error"]["code"] == "invalid_http" and b"application/json" in head
        assert (await raw(url, b"GET /live HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n")).startswith(
            b"HTTP/1.1 200"
        )


@pytest.mark.parametrize(
    "head",
    [
        b"GET /live HTTP/1.1\r\nHost: x\r\nX: " + b"a" * 70_000,
        b"GET /live HTTP/1.1\r\nHost: x\r\nX: " + b"a" * 70_000 + b"\r\n\r\n",
        b"GET /" + b"a" * 70_000,
        b"GET /live HTTP/1.1\r\nHost: x\r\n" + b"X: y\r\n" * 300 + b"\r\n",
        b"GET /live HTTP/1.1\r\nHost: x\r\n" + b"X: y\r\n" * 20_000,
    ],
    ids=["open value", "value", "target", "many", "many and open"],
)
async def test_header_bombs_are_431(protocol: Any, head: bytes) -> None:
    async with on_socket(protocol=protocol) as (url, _), httpx.AsyncClient(base_url=url) as client:
        answer = await raw(url, head.replace(b"Host: x", b"Host: x\r\nConnection: close"))
        status, _, body = parts(answer)
        assert (status, body["error"]["code"]) == (431, "headers_too_large")
        assert (await client.get("/live")).status_code == 200


async def test_slow_heads_are_408(protocol: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(protocol, "header_s", 0.2)
    async with on_socket(protocol=protocol) as (url, _):
        for data in (b"", b"G", b"GET /live HTTP/1.1\r\nHost:"):
            status, _, body = parts(await raw(url, data))
            assert (status, body["error"]["code"]) == (408, "request_timeout")


async def test_the_head_timer_leaves_long_answers_and_idle_clients_alone(
    protocol: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(protocol, "header_s", 0.1)
    engine = FakeEngine()
    engine.delay_s = 0.1
    async with on_socket(engine, protocol) as (url, _), httpx.AsyncClient(base_url=url) as client:
        answer = await client.post("/v1/completions", json={"prompt": "x", "max_tokens": 4})
        assert answer.json()["usage"]["completion_tokens"] == 4
        await anyio.sleep(0.3)
        assert (await client.get("/live")).status_code == 200


async def test_slow_bodies_are_408(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(limits, "BODY_SILENCE_S", 0.2)
    async with on_socket() as (url, _):
        head = (
            b"POST /v1/completions HTTP/1.1\r\nHost: x\r\nContent-Type: application/json\r\nContent-Length: 50\r\n\r\n"
        )
        status, _, body = parts(await raw(url, head + b'{"prompt"'))
        assert (status, body["error"]["code"]) == (408, "request_timeout")


async def test_dribbled_bodies_are_408(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(limits, "BODY_S", 0.3)
    async with on_socket() as (url, _), connected(url) as (reader, writer):
        writer.write(b"POST /v1/completions HTTP/1.1\r\nHost: x\r\nContent-Type: application/json\r\n")
        writer.write(b"Content-Length: 500\r\n\r\n")
        answer = asyncio.create_task(reader.readuntil(b"\r\n"))
        while not answer.done():
            writer.write(b" ")
            await anyio.sleep(0.05)
        assert b" 408 " in await answer


@pytest.mark.parametrize("chunked", [False, True])
async def test_large_bodies_are_413_at_the_byte_over_the_cap(protocol: Any, chunked: bool) -> None:
    num_sent = 0

    async def endless() -> Any:
        nonlocal num_sent
        for _ in range(500):
            num_sent += 65536
            yield b" " * 65536

    async with (
        on_socket(protocol=protocol, max_body_bytes=100_000) as (url, _),
        httpx.AsyncClient(base_url=url) as client,
    ):
        headers = {"content-type": "application/json"}
        content: Any = endless() if chunked else b" " * 100_001
        answer = await client.post("/v1/completions", content=content, headers=headers)
        assert answer.status_code == 413 and answer.json()["error"]["code"] == "body_too_large"
        answer = await client.post("/v1/completions", content=b" " * 100_000, headers=headers)
        assert answer.status_code == 400


async def test_connections_over_the_cap_are_503(protocol: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(protocol, "max_open", 2)
    async with on_socket(protocol=protocol) as (url, _):
        async with connected(url), connected(url):
            await anyio.sleep(0.05)
            status, head, body = parts(await raw(url, b"GET /live HTTP/1.1\r\nHost: x\r\n\r\n"))
            assert (status, body["error"]["code"]) == (503, "queue_full") and b"retry-after:" in head
        await anyio.sleep(0.05)
        assert (await raw(url, b"GET /live HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n")).startswith(
            b"HTTP/1.1 200"
        )


async def test_pipelined_and_fragmented_requests(protocol: Any) -> None:
    async with on_socket(protocol=protocol) as (url, _):
        one = request_bytes({"prompt": "x", "max_tokens": 1})
        last = b"GET /live HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n"
        answer = await raw(url, one + one + last)
        assert answer.count(b"HTTP/1.1 200") == 3
        async with connected(url) as (reader, writer):
            for byte in one:
                writer.write(bytes([byte]))
                await asyncio.sleep(0)
            assert b" 200 " in await reader.readuntil(b"\r\n")


async def test_odd_requests_never_take_the_server_down(protocol: Any) -> None:
    odd = [
        b"CONNECT example:443 HTTP/1.1\r\nHost: x\r\n\r\n",
        b"OPTIONS * HTTP/1.1\r\nHost: x\r\n\r\n",
        b"GET http://evil/v1/models HTTP/1.1\r\nHost: x\r\n\r\n",
        b"GET /\xff\xfe HTTP/1.1\r\nHost: x\r\n\r\n",
        b"GET /%ff%00%0d%0a HTTP/1.1\r\nHost: x\r\n\r\n",
        b"GET /live HTTP/1.1\r\nHost: a/?x=\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n\r\n",
        b"POST /v1/completions HTTP/1.1\r\nHost: x\r\nContent-Length: 5\r\nContent-Length: 6\r\n\r\nabcdef",
        b"POST /v1/completions HTTP/1.1\r\nHost: x\r\nContent-Length: -1\r\n\r\n",
        b"POST /v1/completions HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\nzz\r\n",
        b"GET /live HTTP/1.1\r\nHost: x\r\nX-Request-Id: a\x01b\r\n\r\n",
    ]
    async with on_socket(protocol=protocol) as (url, _):
        for data in odd:
            async with connected(url) as (reader, writer):
                writer.write(data)
                with anyio.move_on_after(0.5):
                    line = await reader.readline()
                    assert b"/1.1 2" in line or b"/1.1 4" in line, (data, line)
        assert (await raw(url, b"GET /live HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n")).startswith(
            b"HTTP/1.1 200"
        )
