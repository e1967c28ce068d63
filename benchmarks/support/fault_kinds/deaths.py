"""Actors behind the gateway die or stand still under streams: callers see a pause and nothing else."""

import asyncio
import os
import signal
import time
from dataclasses import dataclass

import psutil
from fault_kinds.judge import Outcome
from fault_kinds.rig import Rig

ACTORS = ("target", "scheduler", "tokenizer")
HANG_S = 10.0
"""Without progress for this long an actor counts as stuck; in a step, 20 times the longest one if that is more."""
_AT = 0.3
"""The share of its tokens that a crowd has when it happens."""
_SEEN_S = 1.0
_PATIENCE_S = 120.0


@dataclass
class Seen:
    """Seconds from a signal until its effect was known, and until a new process could work."""

    seen_s: float
    back_s: float


async def replaced(rig: Rig, victim: str, pid: int, sent: signal.Signals) -> Seen:
    """Send the signal, and wait for the next process.

    Raises:
        RuntimeError: it does not come.
    """
    os.kill(pid, sent)
    sent_s, seen_s, status = time.monotonic(), 0.0, 0
    while time.monotonic() - sent_s < _PATIENCE_S:
        status, body = await rig.ready()
        actor = body.get("actors", {}).get(victim, {})
        is_another = bool(actor) and actor["pid"] != pid
        if not seen_s and is_another:
            seen_s = time.monotonic() - sent_s
        if is_another and status == 200 and actor["state"] == "ok":
            return Seen(seen_s, time.monotonic() - sent_s)
        await asyncio.sleep(0.02)
    raise RuntimeError(
        f"no other {victim} {_PATIENCE_S:g} s after {sent.name}; /ready says {status}: read the server's log"
    )


def gone(pid: int) -> bool:
    """Whether the process has ended."""
    return not psutil.pid_exists(pid) or psutil.Process(pid).status() == psutil.STATUS_ZOMBIE


async def strike(rig: Rig, victim: str, sent: signal.Signals, name: str) -> Outcome:
    """One signal to one actor, in the midst of all streams."""
    await asyncio.sleep(rig.back_off.rest_s(victim, time.monotonic()))
    before = await rig.state()
    crowd = rig.crowd()
    await crowd.reached(_AT)
    outcome = Outcome(name, crowd.in_flight)
    seen = await replaced(rig, victim, before.pids[victim], sent)
    delay_s = rig.back_off.died(victim, time.monotonic() - seen.back_s + seen.seen_s)
    rig.back_off.started(victim, time.monotonic())
    replies = await crowd.ended()
    outcome.seen_s, outcome.back_s = seen.seen_s, seen.back_s
    pause_s = max((gap for reply in replies for gap in reply.gaps), default=0.0)
    outcome.note = f"longest pause {pause_s:.1f} s"
    seen_bound_s = _SEEN_S if sent == signal.SIGKILL else HANG_S + _SEEN_S
    back_bound_s = seen.seen_s + rig.start_s + delay_s + 2.0
    outcome.want(seen.seen_s < seen_bound_s, f"seen after more than {seen_bound_s:g} s")
    outcome.want(seen.back_s < back_bound_s, f"back after more than {back_bound_s:.1f} s")
    await rig.judge(outcome, replies, before, victim)
    outcome.want(not outcome.failed, f"calls failed: {next((r.error for r in replies if r.error), '')}")
    return outcome


async def kills(rig: Rig, victim: str, rounds: int) -> list[Outcome]:
    """SIGKILL, in so many rounds of streams."""
    return [
        await strike(rig, victim, signal.SIGKILL, f"{victim} SIGKILL" + (f" {i + 1}" if rounds > 1 else ""))
        for i in range(rounds)
    ]


async def target(rig: Rig) -> list[Outcome]:
    """The target, as many times as told."""
    return await kills(rig, "target", rig.settings.rounds)


async def scheduler(rig: Rig) -> list[Outcome]:
    """The scheduler, once."""
    return await kills(rig, "scheduler", 1)


async def tokenizer(rig: Rig) -> list[Outcome]:
    """The tokenizer, once."""
    return await kills(rig, "tokenizer", 1)


async def stop(rig: Rig) -> list[Outcome]:
    """SIGSTOP to each actor but the gateway: seen by the bound on progress alone."""
    return [await strike(rig, victim, signal.SIGSTOP, f"{victim} SIGSTOP") for victim in ACTORS]
