"""Clients that go away in the midst of their streams, by FIN and by RST, while others stay."""

import asyncio
import contextlib
import random
import socket
import struct

from fault_kinds.judge import Outcome
from fault_kinds.rig import Rig
from load import Call, Target

_FREED_S = 2.0
"""One, and the second between two reports of how many blocks are free."""
_TIMEOUT_S = 60.0
_AT_ONCE = 32


async def leave(target: Target, call: Call, num_events: int, *, is_reset: bool) -> None:
    """Read so many events of a stream and go."""
    request = await target.request(call)
    reader, writer = await asyncio.open_connection(target.host, target.port)
    sock: socket.socket = writer.get_extra_info("socket")
    try:
        writer.write(request)
        await writer.drain()
        async with asyncio.timeout(_TIMEOUT_S):
            while num_events and (line := await reader.readline()):
                num_events -= line.startswith(b"data: ")
            if is_reset:
                sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
                writer.transport.abort()
                return
            writer.write_eof()
            while await reader.read(65536):  # what was under way; then the server closes its side too
                pass
    finally:
        writer.close()
        with contextlib.suppress(OSError):
            await writer.wait_closed()


async def storm(rig: Rig) -> list[Outcome]:
    """Many leave, at events that a seed draws, one in three with four choices; half as many as clients stay."""
    rng, places = random.Random(1), asyncio.Semaphore(_AT_ONCE)
    before = await rig.state()
    failures: list[str] = []

    async def one(number: int) -> None:
        fields = {"max_tokens": 2000, "ignore_eos": True, "n": rng.choice((1, 1, 4)), "seed": number}
        call = Call(f"{number}: tell me a long story.", fields)
        async with places:
            try:
                await leave(rig.target, call, rng.choice((0, 0, 1, 2, 5, 10, 20)), is_reset=rng.random() < 0.5)
            except (OSError, TimeoutError) as e:
                failures.append(f"{type(e).__name__}: {e}")

    crowd = rig.crowd(rig.calls()[: max(1, rig.settings.clients // 2)])
    await crowd.reached(0.05)
    outcome = Outcome(f"{rig.settings.departures} disconnects", crowd.in_flight)
    await asyncio.gather(*(one(i) for i in range(rig.settings.departures)))
    replies = await crowd.ended()
    outcome.back_s = await rig.eventually(lambda s: not (s.running or s.waiting) and s.free_blocks == s.total_blocks)
    outcome.note = "streams beside them; back = blocks free after the last end"
    outcome.want(not failures, f"{len(failures)} could not leave: {failures[:1]}")
    is_quick = outcome.back_s is not None and outcome.back_s < _FREED_S
    outcome.want(is_quick, f"blocks free after more than {_FREED_S:g} s")
    await rig.judge(outcome, replies, before)
    outcome.want(not outcome.failed, f"calls failed: {next((r.error for r in replies if r.error), '')}")
    return [outcome]
