"""The gateway dies or stands still: its connections are lost, its requests are freed, new calls are served."""

import asyncio
import os
import signal
import time

from fault_kinds.deaths import HANG_S, gone
from fault_kinds.judge import Outcome
from fault_kinds.rig import Rig
from load import Call

_NEW_CALL_S = 2.0
_FREED_S = 10.0


async def gateway(rig: Rig) -> list[Outcome]:
    """SIGKILL."""
    return [await _strike(rig, signal.SIGKILL)]


async def stop_gateway(rig: Rig) -> list[Outcome]:
    """SIGSTOP."""
    return [await _strike(rig, signal.SIGSTOP)]


async def _strike(rig: Rig, sent: signal.Signals) -> Outcome:
    before = await rig.state()
    crowd = rig.crowd()
    await crowd.reached(0.2)
    in_flight, pid = crowd.in_flight, before.pids["gateway"]
    begun_s = time.monotonic()
    os.kill(pid, sent)
    while not gone(pid):
        await asyncio.sleep(0.02)
    seen_s = time.monotonic() - begun_s
    served_s = await _first_served(rig) - begun_s
    freed_s = await rig.eventually(lambda s: not (s.running or s.waiting) and s.free_blocks == s.total_blocks)
    replies = await crowd.ended()
    outcome = Outcome(f"gateway {sent.name}", in_flight, seen_s=None if sent == signal.SIGKILL else seen_s)
    outcome.back_s = served_s
    if sent == signal.SIGSTOP:
        outcome.want(seen_s < HANG_S + 1.0, f"seen after more than {HANG_S + 1:g} s")
    outcome.want(served_s - seen_s < _NEW_CALL_S, f"a new call served after more than {_NEW_CALL_S:g} s")
    if freed_s is not None:
        outcome.note = f"its calls end with it; all blocks free {freed_s + served_s - seen_s:.1f} s after its death"
        outcome.want(freed_s + served_s - seen_s < _FREED_S, f"requests freed after more than {_FREED_S:g} s")
    await rig.judge(outcome, replies, before, "gateway")
    outcome.want(outcome.failed <= in_flight, "more calls failed than were in flight")
    return outcome


async def _first_served(rig: Rig) -> float:
    """When the first new call has its answer. Those that come too early may be refused: clients try again."""
    while True:
        reply = await rig.target.stream(Call("Hello", {"max_tokens": 1}))
        if reply.error is None:
            return time.monotonic()
        await asyncio.sleep(0.02)
