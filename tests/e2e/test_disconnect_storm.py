"""64 streams at once of which half leave, by FIN or by RST, at moments that a seed draws: the others notice nothing.

The pool is too small for all of them, so some wait and some are preempted while others leave.
"""

import asyncio
import json
import random
import socket
import struct
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from typing import Any

import pytest
from server import Server
from wire_client import eventually, metrics, ready

pytestmark = pytest.mark.e2e

NUM_CLIENTS = 64
POOL = ["-s", "cache.num_blocks=128", "-s", "target.max_model_len=512", "-s", "target.num_threads=1"]


@dataclass(frozen=True)
class Client:
    """A call, and when its client leaves: after so many events, with so much politeness; None = it stays."""

    body: dict[str, Any]
    events: int | None = None
    is_reset: bool = False


def clients(seed: int, leavers: bool) -> list[Client]:
    """Those of one storm, in their order. Who stays asks for the same with and without ``leavers``."""
    rng = random.Random(seed)
    found: list[Client] = []
    for i in range(NUM_CLIENTS):
        prompt = [rng.randrange(5, 200) for _ in range(rng.choice((3, 20, 70)))]
        body = {"prompt": prompt, "stream": True, "ignore_eos": True, "stream_options": {"include_usage": True}}
        body |= {"seed": i, "temperature": rng.choice((0, 1.0)), "return_token_ids": True}
        events, is_reset, n = rng.choice((0, 0, 1, 2, 5, 10, 20, 40)), rng.random() < 0.5, rng.choice((1, 1, 2))
        if i % 2 == 0:
            found.append(Client(body | {"max_tokens": 48}))
        elif leavers:
            found.append(Client(body | {"max_tokens": 400, "n": n}, events, is_reset))
    return found


async def play(server: Server, client: Client) -> list[dict[str, Any]] | None:
    """The events of a stream that was read to its end; None of one that was left."""
    host, port = server.url.removeprefix("http://").split(":")
    reader, writer = await asyncio.open_connection(host, int(port))
    sock: socket.socket = writer.get_extra_info("socket")
    body = json.dumps(client.body).encode()
    head = f"Host: x\r\nContent-Type: application/json\r\nConnection: close\r\nContent-Length: {len(body)}\r\n\r\n"
    events: list[dict[str, Any]] = []
    try:
        writer.write(b"POST /v1/completions HTTP/1.1\r\n" + head.encode() + body)
        await writer.drain()
        line = b""
        while client.events is None or len(events) < client.events:
            line = await reader.readline()
            if not line or line == b"data: [DONE]\n":
                break
            if line.startswith(b"data: "):
                events.append(json.loads(line[6:]))
        if client.events is None:
            assert line == b"data: [DONE]\n", events[-1:]
            return events
        if client.is_reset:
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
            writer.transport.abort()
        else:
            writer.write_eof()
            async with asyncio.timeout(20):  # the server closes its side too
                while await reader.read(65536):
                    pass
        return None
    finally:
        writer.close()
        with suppress(OSError):
            await writer.wait_closed()


def storm(server: Server, these: list[Client]) -> list[Any]:
    """What came of each client that stayed."""

    async def all_at_once() -> list[Any]:
        return await asyncio.gather(*(play(server, c) for c in these))

    return [told(events) for events in asyncio.run(all_at_once()) if events is not None]


def told(events: list[dict[str, Any]]) -> tuple[str, list[int], Any, Any]:
    """Text, token ids, finish reasons and usage of a stream, however it was cut into events."""
    choices = [c for e in events for c in e["choices"]]
    ids = [i for c in choices for i in c["token_ids"] or ()]
    used = events[-1]["usage"]
    return (
        "".join(c["text"] for c in choices),
        ids,
        [c["finish_reason"] for c in choices if c["finish_reason"]],
        (used["prompt_tokens"], used["completion_tokens"]),
    )


def quiet(server: Server) -> Callable[[], bool]:
    def is_quiet() -> bool:
        now = ready(server.url)
        return now["free_blocks"] == now["total_blocks"] and now["running"] == now["waiting"] == 0

    return is_quiet


def aborted(server: Server) -> float:
    """Requests that ended because their client left."""
    return metrics(server.url, 'finished_reason="abort"').get("vllm:request_success_total", 0)


def test_half_of_64_streams_leave_and_the_others_notice_nothing(serve: Any) -> None:
    with serve(base=POOL) as server:
        undisturbed = {seed: storm(server, clients(seed, leavers=False)) for seed in (1, 2)}
        for answers in undisturbed.values():
            assert len(answers) == NUM_CLIENTS // 2
            assert all(len(ids) == 48 and ends == ["length"] for _, ids, ends, _ in answers)
        eventually(quiet(server), 5)
        actors = {name: a["pid"] for name, a in ready(server.url)["actors"].items()}
        num_fds = [p.num_fds() for p in server.processes()]

        for seed, expected in undisturbed.items():
            before = aborted(server)
            these = clients(seed, leavers=True)
            assert storm(server, these) == expected
            eventually(quiet(server), 5)
            left = [c for c in these if c.events is not None]
            most, unseen = sum(c.body["n"] for c in left), sum(c.body["n"] for c in left if c.events == 0)
            eventually(lambda: aborted(server) - before >= most - unseen, 5)  # noqa: B023
            assert aborted(server) - before <= most

        eventually(lambda: [p.num_fds() for p in server.processes()] == num_fds, 10)
        after = ready(server.url)["actors"]
        assert {name: a["pid"] for name, a in after.items()} == actors
        assert not any(a["restarts"] for a in after.values())
        eventually(lambda: metrics(server.url)["vllm:num_preemptions_total"] > 0)  # else the pool is too large
