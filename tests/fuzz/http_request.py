"""Request -> answer through the whole ASGI application: any route, any header, any body; never a 5xx."""

import asyncio
import json
from collections.abc import AsyncGenerator
from functools import cache
from random import Random
from typing import Any

from fake_engine import FakeEngine
from fuzzing.bodies import BODIES
from fuzzing.byte_mutator import mutate_bytes
from fuzzing.calls import PATHS
from fuzzing.target import Target
from fuzzing.tree_mutator import json_mutator
from http_app import service

from paceline.actors.http.app import build_app
from paceline.actors.messages import Admitted, Generate, PromptInfo, TextDelta

ROUTES = [("POST", path) for path in PATHS] + [
    ("POST", "/tokenize"), ("POST", "/detokenize"), ("POST", "/invocations"), ("POST", "/v1/messages/count_tokens"),
    ("POST", "/api/show"), ("POST", "/api/pull"), ("POST", "/api/create"), ("POST", "/api/copy"),
    ("DELETE", "/api/delete"), ("GET", "/v1/responses/r"), ("DELETE", "/v1/responses/\x00"), ("GET", "/v1/models/a/b"),
    ("POST", "/sleep"), ("PATCH", "/v1/models"), ("GET", "/nowhere"),
]  # fmt: skip
_MORE: dict[str, Any] = {
    "/tokenize": {"messages": [{"role": "user", "content": "hi"}], "add_generation_prompt": True},
    "/detokenize": {"tokens": [1, 2]},
    "/invocations": {"prompt": "x", "max_tokens": 2},
    "/v1/messages/count_tokens": {"messages": [{"role": "user", "content": "hi"}]},
    "/api/show": {"model": "tiny", "verbose": True},
    "/api/pull": {"model": "tiny", "stream": False},
    "/api/create": {"model": "x", "from": "tiny", "parameters": {"stop": ["a"]}},
    "/api/copy": {"source": "tiny", "destination": "y"},
    "/api/delete": {"model": "x"},
}


class Engine(FakeEngine):
    """Ends every choice at once, however many there are."""

    async def generate(self, call: Generate) -> AsyncGenerator[Admitted | TextDelta, None]:
        prompts = call.prompts if call.prompts is not None else [[1, 2, 3]]
        yield Admitted(call.call_id, [PromptInfo(3, [1, 2, 3], "abc") for _ in prompts])
        for index in range(len(prompts) * call.n):
            vector = bytes(16) if call.embed is not None else None
            yield TextDelta(call.call_id, index, 0, "" if vector else "hi", 1, finish_reason="stop", embedding=vector)


class Grammars:
    """No process is started for a grammar: compiling is not the application's work."""

    async def grammar(self, wish: Any) -> str:
        return "start: /a/"


@cache
def application() -> tuple[Any, asyncio.AbstractEventLoop]:
    served = service(Engine())
    served.grammars = Grammars()  # pyright: ignore[reportAttributeAccessIssue]
    return build_app(served), asyncio.new_event_loop()


def run(data: bytes) -> None:
    """A byte for the route, a byte for what is odd about the headers, the body."""
    method, path = ROUTES[data[0] % len(ROUTES)] if data else ROUTES[0]
    odd, body = data[1] if len(data) > 1 else 0, data[2:]
    app, loop = application()
    status = loop.run_until_complete(_call(app, _scope(method, path, odd, body), body, in_pieces=bool(odd & 8)))
    assert 200 <= status < 500 or status == 503, (method, path, status)


def _scope(method: str, path: str, odd: int, body: bytes) -> dict[str, Any]:
    headers = [(b"host", b"localhost:8000"), (b"content-type", b"application/json")]
    if odd & 1:
        headers[1] = (b"content-type", body[:60])
    if odd & 2:
        headers += [(b"x-request-id", body[:200]), (b"origin", body[:20]), (b"authorization", body[:40])]
    if odd & 4:
        headers += [(b"content-length", body[:30])] * (odd >> 3)
    return {"type": "http", "method": method, "path": path, "raw_path": path.encode(), "query_string": body[:odd & 16],
            "headers": headers, "client": ("127.0.0.1", 1), "server": ("127.0.0.1", 8000), "scheme": "http",
            "http_version": "1.1", "state": {}}  # fmt: skip


async def _call(app: Any, scope: dict[str, Any], body: bytes, *, in_pieces: bool) -> int:
    cut = len(body) // 2 if in_pieces else len(body)
    pieces = [body[:cut], body[cut:]] if in_pieces else [body]
    status = 0

    async def receive() -> dict[str, Any]:
        if not pieces:
            await asyncio.Event().wait()
        return {"type": "http.request", "body": pieces.pop(0), "more_body": bool(pieces)}

    async def send(message: dict[str, Any]) -> None:
        nonlocal status
        if message["type"] == "http.response.start":
            status = message["status"]
            for name, value in message["headers"]:
                assert b"\n" not in value and b"\r" not in value, (name, value)

    await app(scope, receive, send)
    return status


def _seeds() -> list[bytes]:
    found: list[bytes] = []
    for i, (_, path) in enumerate(ROUTES):
        bodies = BODIES.get(path, []) + ([_MORE[path]] if path in _MORE else [])
        found += [bytes([i, 0]) + json.dumps(body).encode() for body in bodies or [{}]]
    return found


_json = json_mutator(head=2)


def _mutate(data: bytes, rng: Random) -> bytes:
    if rng.random() < 0.1:
        return data[:1] + rng.randbytes(1) + data[2:]
    return _json(data, rng) if rng.random() < 0.9 else mutate_bytes(data, rng)


TARGET = Target(run=run, seeds=_seeds(), mutate=_mutate)
