"""Thousands of connections that ask for nothing, and heads that come a byte at a time, beside calls."""

import asyncio
import contextlib
import resource
import time

import psutil
from fault_kinds.judge import Outcome
from fault_kinds.rig import Rig
from load import Call
from report import percentile

_NUM_CALLS = 100
_BOUND_S = 1.0
_IDLE_S = 3.0
_MOST_CPU = 0.1
_SPARE_FDS = 256


def _room(wanted: int) -> int:
    """So many connections as our own descriptors allow."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    most = hard if hard != resource.RLIM_INFINITY else 1 << 20
    resource.setrlimit(resource.RLIMIT_NOFILE, (max(soft, min(most, wanted + _SPARE_FDS)), hard))
    return min(wanted, resource.getrlimit(resource.RLIMIT_NOFILE)[0] - _SPARE_FDS)


async def strangers(rig: Rig) -> list[Outcome]:
    """Connections beyond the server's limit are told so and closed; new calls are answered as they are closed."""
    before = await rig.state()
    num = _room(rig.settings.idle)
    gateway = psutil.Process(before.pids["gateway"])
    idle = asyncio.create_task(_hold(rig, num))
    drips = [asyncio.create_task(_drip(rig)) for _ in range(rig.settings.idle // 10)]
    await asyncio.sleep(_IDLE_S)
    cpu_s, begun_s = sum(gateway.cpu_times()[:2]), time.monotonic()
    await asyncio.sleep(_IDLE_S)
    cpu = (sum(gateway.cpu_times()[:2]) - cpu_s) / (time.monotonic() - begun_s)
    outcome = Outcome(f"{num} idle connections, {len(drips)} slow heads", _NUM_CALLS)
    replies = [await rig.target.stream(Call(f"{i}: hello", {"max_tokens": 1})) for i in range(_NUM_CALLS)]
    taken = [r for r in replies if not r.error]
    full = sum("503" in (r.error or "") for r in replies)
    outcome.failed = len(replies) - len(taken) - full
    p99_s = percentile([r.ended - r.started for r in taken], 99) if taken else 0.0
    idle.cancel()
    for task in drips:
        task.cancel()
    await asyncio.gather(idle, *drips, return_exceptions=True)
    outcome.note = f"p99 of a new call {p99_s * 1e3:.0f} ms, {full} refused with 503; gateway {cpu:.0%} of a core"
    outcome.want(p99_s < _BOUND_S, f"a new call took more than {_BOUND_S:g} s")
    outcome.want(cpu < _MOST_CPU, f"the gateway took {cpu:.0%} of a core for nothing")
    await rig.judge(outcome, [], before)
    outcome.want(not outcome.failed, f"calls failed: {next((r.error for r in replies if r.error), '')}")
    return [outcome]


async def _hold(rig: Rig, num: int) -> None:
    """Connections that send nothing; those that are closed are opened again."""
    writers: list[asyncio.StreamWriter] = []
    try:
        while True:
            writers = [w for w in writers if not w.is_closing()]
            while len(writers) < num:
                with contextlib.suppress(OSError):
                    writers.append((await asyncio.open_connection(rig.target.host, rig.target.port))[1])
            await asyncio.sleep(1.0)
    finally:
        for writer in writers:
            writer.close()


async def _drip(rig: Rig) -> None:
    """A head that never ends, a byte a second."""
    while True:
        with contextlib.suppress(OSError):
            _, writer = await asyncio.open_connection(rig.target.host, rig.target.port)
            try:
                writer.write(b"POST /v1/completions HTTP/1.1\r\nx-slow: ")
                while not writer.is_closing():
                    writer.write(b"a")
                    await writer.drain()
                    await asyncio.sleep(1.0)
            finally:
                writer.close()
        await asyncio.sleep(0.1)
