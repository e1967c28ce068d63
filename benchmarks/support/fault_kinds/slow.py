"""Clients that read one byte a second, beside others that read what comes."""

import asyncio
import contextlib
import random
import socket
from collections.abc import Sequence

from fault_kinds.judge import Outcome
from fault_kinds.rig import Rig
from load import Call, Reply
from report import percentile

_WORSE = 1.5
_RECEIVE_BYTES = 2048
"""As small as a socket's buffer gets, so that the server feels the slowness."""


async def slow(rig: Rig) -> list[Outcome]:
    """The active streams with as many ordinary readers beside them, then with slow ones, for the same calls."""
    before, settings = await rig.state(), rig.settings
    calls = rig.calls()[: max(1, settings.clients // 4)]
    rng = random.Random(2)
    fields = {"max_tokens": settings.max_tokens, "ignore_eos": True, "return_token_ids": True}
    beside = [Call(f"{i} {rng.random()}: tell me a story.", fields | {"seed": i}) for i in range(settings.slow_readers)]
    ordinary = rig.crowd(beside)
    calm = await rig.crowd(calls).ended()
    await ordinary.ended()
    tasks = [asyncio.create_task(_slow_reader(rig, call)) for call in beside]
    crowd = rig.crowd(calls)
    outcome = Outcome(f"{settings.slow_readers} slow readers", len(calls))
    replies = await crowd.ended()
    for task in tasks:
        task.cancel()
    results = await asyncio.gather(*tasks, return_exceptions=True)
    outcome.back_s = await rig.eventually(lambda s: not (s.running or s.waiting) and s.free_blocks == s.total_blocks)
    without_ms, with_ms = _p99_ms(calm), _p99_ms(replies)
    outcome.note = f"p99 gap of the others {with_ms:.0f} ms; {without_ms:.0f} beside as many ordinary readers"
    outcome.want(with_ms <= _WORSE * without_ms, f"p99 more than {_WORSE:g} x")
    cut = [r for r in results if isinstance(r, Exception)]
    outcome.want(not cut, f"{len(cut)} slow readers were cut off: {cut[:1]}")
    await rig.judge(outcome, replies, before)
    outcome.want(not outcome.failed, f"calls failed: {next((r.error for r in replies if r.error), '')}")
    return [outcome]


def _p99_ms(replies: Sequence[Reply]) -> float:
    return 1e3 * percentile([gap for reply in replies for gap in reply.gaps], 99)


async def _slow_reader(rig: Rig, call: Call) -> None:
    request = await rig.target.request(call)
    loop, sock = asyncio.get_running_loop(), socket.socket()
    with contextlib.closing(sock):
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, _RECEIVE_BYTES)
        sock.setblocking(False)
        await loop.sock_connect(sock, (rig.target.host, rig.target.port))
        await loop.sock_sendall(sock, request)
        while await loop.sock_recv(sock, 1):
            await asyncio.sleep(1.0)
