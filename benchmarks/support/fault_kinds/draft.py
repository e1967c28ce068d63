"""The draft actor is killed under streams that depend on it.

Each round is played three times in turn: with speculation off, undisturbed, and with the death. The judge is the
undisturbed text; the rate while the actor is away, from one second after its death, is held against that of the same
streams without speculation. Drafts are verified whether they pay or not (policy "fixed"), so that each stream depends
on the one who dies.
"""

import asyncio
import json
import os
import signal
import time
from dataclasses import dataclass
from typing import Any

from fault_kinds.judge import Outcome
from fault_kinds.rig import Settings, running
from load import Call, Reply, Target, closed_loop, read_prompts

_RECOVERED_S = 1.0
"""From here on after a death, tokens must come as fast as without speculation."""
_DRAFTS = "vllm:spec_decode_num_draft_tokens_total"


@dataclass
class Death:
    """One round in which the draft actor was killed."""

    in_flight: int
    failed: int
    different: int
    seen_s: float
    """Until the server said that it was gone."""
    back_s: float
    """Until the next draft actor could work."""
    rate_to_off: float
    """Tokens a second, from one second after the death until the next actor works, against the same streams without."""
    drafts_after: int
    """Drafts verified once it was back."""


def _calls(args: Settings, number: int, *, speculation: bool) -> list[Call]:
    """One stream a client, none of which any other round has seen."""
    prompts = read_prompts(args.data)
    fields: dict[str, Any] = {"max_tokens": args.max_tokens, "ignore_eos": True, "return_token_ids": True}
    fields |= {"speculation": speculation, "temperature": 0.7}
    return [
        Call(prompts[(number * args.clients + i) % len(prompts)], fields | {"seed": i}, name=str(i))
        for i in range(args.clients)
    ]


def _rate(replies: list[Reply], since_s: float, until_s: float = float("inf")) -> float:
    """Tokens a second from ``since_s`` to ``until_s`` or the first stream's end; 0 where there is no such time."""
    until_s = min(until_s, *(reply.ended for reply in replies))
    tokens = sum(num for reply in replies for at_s, num in reply.arrivals if since_s <= at_s < until_s)
    return tokens / (until_s - since_s) if until_s > since_s else 0.0


async def _actor(target: Target) -> dict[str, Any]:
    """What the server says of its draft actor."""
    _, body = await target.get("/ready")
    return json.loads(body)["actors"]["draft"]


async def _num_drafts(target: Target) -> int:
    """Drafts verified since the start."""
    _, body = await target.get("/metrics")
    lines = [line for line in body.decode().splitlines() if line.startswith(_DRAFTS)]
    return sum(int(float(line.rpartition(" ")[2])) for line in lines)


async def _kill(target: Target, after_s: float) -> tuple[float, float, float]:
    """When the draft actor was killed, and seconds until that was known and until the next one could work."""
    await asyncio.sleep(after_s)
    before = await _actor(target)
    os.kill(before["pid"], signal.SIGKILL)
    killed_s = time.monotonic()
    seen_s = 0.0
    while True:
        now = await _actor(target)
        if not seen_s and now["pid"] != before["pid"]:
            seen_s = time.monotonic() - killed_s
        if now["restarts"] > before["restarts"] and now["state"] == "ok":
            return killed_s, seen_s, time.monotonic() - killed_s
        await asyncio.sleep(0.05)


async def _one_round(target: Target, args: Settings, number: int) -> Death:
    """Off, undisturbed, with a death."""
    off = await closed_loop(target, _calls(args, number, speculation=False), args.clients)
    right = {r.name: r for r in await closed_loop(target, _calls(args, number, speculation=True), args.clients)}
    first_s, last_s = max(r.first for r in off), min(r.ended for r in off)
    begun_s = min(r.started for r in off)
    killing = asyncio.create_task(_kill(target, first_s - begun_s + 0.2 * (last_s - first_s)))
    hit = await closed_loop(target, _calls(args, number, speculation=True), args.clients)
    killed_s, seen_s, back_s = await killing
    before = await _num_drafts(target)
    await closed_loop(target, _calls(args, number, speculation=True)[:2], 2)
    await asyncio.sleep(1.5)  # counters arrive once a second
    return Death(
        in_flight=sum(r.started < killed_s < r.ended for r in hit),
        failed=sum(r.error is not None for r in hit),
        different=sum((r.text, r.output_tokens) != (right[r.name].text, right[r.name].output_tokens) for r in hit),
        seen_s=seen_s,
        back_s=back_s,
        rate_to_off=_rate(hit, killed_s + _RECOVERED_S, killed_s + back_s) / _rate(off, first_s),
        drafts_after=await _num_drafts(target) - before,
    )


async def _play(target: Target, args: Settings) -> list[Death]:
    """All rounds, once the draft actor is there."""
    while (await _actor(target))["state"] != "ok":
        await asyncio.sleep(0.1)
    await closed_loop(target, _calls(args, 0, speculation=True)[:2], 2)
    return [await _one_round(target, args, number) for number in range(args.rounds)]


async def draft(given: Settings) -> list[Outcome]:
    """On a server of its own, with few streams: a draft model is of use to those."""
    settings = given.of_draft()
    speculation = {"methods": ["draft_model"], "policy": "fixed", "max_draft_tokens": 4}
    speculation |= {"draft_model.model": settings.draft or settings.model}
    options = [f"speculation.{key}={json.dumps(value)}" for key, value in speculation.items()]
    with running(settings, options) as (server, _):
        deaths = await _play(Target(server.url), settings)
    return [_outcome(death, number) for number, death in enumerate(deaths, 1)]


def _outcome(death: Death, number: int) -> Outcome:
    outcome = Outcome(f"draft SIGKILL {number}", death.in_flight, death.failed, death.different)
    outcome.seen_s, outcome.back_s = death.seen_s, death.back_s
    outcome.note = f"{death.rate_to_off:.2f} x the speed without drafts meanwhile; {death.drafts_after} drafts after"
    outcome.want(not death.failed, "calls failed")
    outcome.want(not death.different, "texts differ")
    outcome.want(death.drafts_after > 0, "no drafts any more")
    return outcome
