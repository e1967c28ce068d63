"""A small load generator for any OpenAI-compatible URL: closed loop (N clients) or open loop (Poisson arrivals).

Plain asyncio streams and hand-read server-sent events: on a small machine the client shares the cores with the
server, and what it burns the server lacks.
"""

import asyncio
import json
import random
import time
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

OWN_PROMPTS = Path(__file__).resolve().parent.parent / "data" / "prompts.jsonl"


@dataclass
class Reply:
    """One streamed answer. Times are seconds on the monotonic clock."""

    started: float
    ended: float = 0.0
    first: float = 0.0
    gaps: list[float] = field(default_factory=list)
    prompt_tokens: int = 0
    output_tokens: int = 0
    text: str = ""
    error: str | None = None
    usage: dict[str, Any] = field(default_factory=dict)
    name: str = ""
    """Of the call."""
    arrivals: list[tuple[float, int]] = field(default_factory=list)
    """When how many tokens came, where the call asks for token ids."""


@dataclass
class Call:
    """What is sent: a prompt and the fields of the body."""

    prompt: str
    fields: dict[str, Any]
    name: str = ""
    """To find its reply again; not sent."""


def read_prompts(path: Path | None, limit: int = 0) -> list[str]:
    """Prompts of a ``.jsonl`` file (key ``prompt``), of all such files in a folder, or our own few."""
    path = path or OWN_PROMPTS
    files = sorted(path.glob("*.jsonl")) if path.is_dir() else [path]
    prompts = [json.loads(line)["prompt"] for f in files for line in f.read_text().splitlines() if line.strip()]
    return prompts[:limit] if limit else prompts


class Target:
    """An OpenAI-compatible server."""

    def __init__(self, url: str, model: str | None = None, chat: bool = True, key: str | None = None) -> None:
        parts = urlsplit(url if "//" in url else f"http://{url}")
        if parts.scheme != "http" or not parts.hostname:
            raise SystemExit(f"{url}: give a plain http:// address, such as http://127.0.0.1:8000")
        self.host, self.port = parts.hostname, parts.port or 80
        self.base = parts.path.rstrip("/").removesuffix("/v1")
        self.model, self.chat = model, chat
        self._asking = asyncio.Lock()
        self.headers = f"Host: {self.host}:{self.port}\r\nContent-Type: application/json\r\nConnection: close\r\n"
        if key:
            self.headers += f"Authorization: Bearer {key}\r\n"

    async def get(self, path: str) -> tuple[int, bytes]:
        """Status and body of a GET."""
        reader, writer = await asyncio.open_connection(self.host, self.port)
        try:
            writer.write(f"GET {self.base}{path} HTTP/1.1\r\n{self.headers}\r\n".encode())
            status, chunked = await _head(reader)
            body = b"".join([c async for c in _chunks(reader)]) if chunked else await reader.read()
            return status, body
        finally:
            writer.close()

    async def find_model(self) -> str:
        """The served model's name, asked once."""
        async with self._asking:
            return self.model or await self._ask_model()

    async def _ask_model(self) -> str:
        status, body = await self.get("/v1/models")
        if status != 200:
            raise SystemExit(f"GET /v1/models: {status}; is an OpenAI-compatible server at {self.host}:{self.port}?")
        self.model = str(json.loads(body)["data"][0]["id"])
        return self.model

    async def stream(self, call: Call, reply: Reply | None = None) -> Reply:
        """Send one call and read its stream to the end; failures are told in ``Reply.error``.

        Who wants to look on gives the ``reply`` that is to be filled.
        """
        reply = reply or Reply(0.0)
        reply.started, reply.name = time.monotonic(), call.name
        try:
            await self._stream(await self.request(call), reply)
        except (OSError, EOFError, ValueError, asyncio.IncompleteReadError) as e:
            reply.error = f"{type(e).__name__}: {e}"
        reply.ended = time.monotonic()
        if reply.error is None and not reply.output_tokens:
            reply.error = "the stream ended without usage"
        return reply

    async def request(self, call: Call) -> bytes:
        """What is sent for a call."""
        body: dict[str, Any] = {"model": await self.find_model(), "stream": True}
        body |= {"stream_options": {"include_usage": True}} | call.fields
        if self.chat:
            path, body["messages"] = "/v1/chat/completions", [{"role": "user", "content": call.prompt}]
        else:
            path, body["prompt"] = "/v1/completions", call.prompt
        return self.post(path, json.dumps(body).encode())

    def post(self, path: str, body: bytes) -> bytes:
        """A POST of these bytes."""
        head = f"POST {self.base}{path} HTTP/1.1\r\n{self.headers}Content-Length: {len(body)}\r\n\r\n"
        return head.encode() + body

    async def _stream(self, request: bytes, reply: Reply) -> None:
        reader, writer = await asyncio.open_connection(self.host, self.port)
        try:
            writer.write(request)
            status, chunked = await _head(reader)
            if status != 200:
                text = b"".join([c async for c in _chunks(reader)]) if chunked else await reader.read()
                reply.error = f"HTTP {status}: {text[:200].decode(errors='replace')}"
                return
            await _events(reader, chunked, reply)
        finally:
            writer.close()


async def _head(reader: asyncio.StreamReader) -> tuple[int, bool]:
    status = int((await reader.readline()).split()[1])
    chunked = False
    while (line := await reader.readline()) not in (b"\r\n", b"\n", b""):
        chunked |= line.lower().startswith(b"transfer-encoding:") and b"chunked" in line.lower()
    return status, chunked


async def _chunks(reader: asyncio.StreamReader):
    while size := int(await reader.readline(), 16):
        yield await reader.readexactly(size)
        await reader.readline()


async def _raw(reader: asyncio.StreamReader):
    while data := await reader.read(65536):
        yield data


async def _events(reader: asyncio.StreamReader, chunked: bool, reply: Reply) -> None:
    rest, last = b"", 0.0
    async for data in _chunks(reader) if chunked else _raw(reader):
        *lines, rest = (rest + data).split(b"\n")
        now = time.monotonic()
        for line in lines:
            if not line.startswith(b"data: ") or line.startswith(b"data: [DONE]"):
                continue
            event = json.loads(line[6:])
            if event.get("error"):
                reply.error = str(event["error"].get("message"))
                return
            if usage := event.get("usage"):
                reply.usage = event
                reply.prompt_tokens, reply.output_tokens = usage["prompt_tokens"], usage["completion_tokens"]
            for choice in event.get("choices") or ():
                if ids := choice.get("token_ids"):
                    reply.arrivals.append((now, len(ids)))
                text = choice.get("text") or (choice.get("delta") or {}).get("content") or ""
                if not text:
                    continue
                reply.text += text
                if last:
                    reply.gaps.append(now - last)
                else:
                    reply.first = now
                last = now


async def closed_loop(target: Target, calls: Sequence[Call], concurrency: int) -> list[Reply]:
    """``concurrency`` clients take calls in order, each sending its next when its last has ended."""
    queue, replies = iter(calls), []

    async def client() -> None:
        for call in queue:
            replies.append(await target.stream(call))

    await asyncio.gather(*(client() for _ in range(concurrency)))
    return replies


async def open_loop(target: Target, calls: Sequence[Call], rate: float, seed: int = 0) -> list[Reply]:
    """Calls start at Poisson times of ``rate`` a second, whether or not earlier ones have ended."""
    rng, tasks = random.Random(seed), []
    for call in calls:
        tasks.append(asyncio.create_task(target.stream(call)))
        await asyncio.sleep(rng.expovariate(rate))
    return list(await asyncio.gather(*tasks))


def run(coroutine: Callable[[], Awaitable[Any]]) -> Any:
    """``asyncio.run`` for a coroutine function, uvloop's loop where installed."""

    async def main() -> Any:
        return await coroutine()

    return asyncio.run(main())
