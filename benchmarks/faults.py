#!/usr/bin/env python3
"""Faults against a live server under load: what failed, what came out differently, how long until all is well again.

    python benchmarks/faults.py
    python benchmarks/faults.py --model MODEL --draft MODEL --clients 8 --rounds 5

The draft actor is killed (SIGKILL) in the middle of a round of streams. Each round is played three times in turn: with
speculation off, undisturbed, and with the death. The judge is the undisturbed text; the rate while the actor is away,
from one second after its death, is held against that of the same streams without speculation. Drafts are verified
whether they pay or not (policy "fixed"), so that each stream depends on the one who dies.
"""

import argparse
import asyncio
import json
import os
import signal
import statistics
import sys
import tempfile
import time
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

sys.path.append(str(Path(__file__).resolve().parent / "support"))

from load import Call, Reply, Target, closed_loop, read_prompts
from report import save, table
from server import Server, exit_on_sigterm, free_port, paceline_command

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


def arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    add = parser.add_argument
    add("--model", default="smollm2:135m", help="the target (default %(default)s)")
    add("--draft", default="", help="the draft model (default: the target's own)")
    add("--data", type=Path, help="prompts: a .jsonl file or a folder of them (default: our own few)")
    add("--clients", type=int, default=8)
    add("--max-tokens", type=int, default=200)
    add("--rounds", type=int, default=3)
    add("-s", dest="overrides", action="append", default=[], metavar="KEY=VALUE", help="config key, as serve's -s")
    add("--out", type=Path, help="write figures as JSON")
    return parser.parse_args()


def calls(args: argparse.Namespace, number: int, *, speculation: bool) -> list[Call]:
    """One stream a client, none of which any other round has seen."""
    prompts = read_prompts(args.data)
    fields: dict[str, Any] = {"max_tokens": args.max_tokens, "ignore_eos": True, "return_token_ids": True}
    fields |= {"speculation": speculation, "temperature": 0.7}
    return [
        Call(prompts[(number * args.clients + i) % len(prompts)], fields | {"seed": i}, name=str(i))
        for i in range(args.clients)
    ]


def rate(replies: list[Reply], since_s: float, until_s: float = float("inf")) -> float:
    """Tokens a second from ``since_s`` to ``until_s`` or the first stream's end; 0 where there is no such time."""
    until_s = min(until_s, *(reply.ended for reply in replies))
    tokens = sum(num for reply in replies for at_s, num in reply.arrivals if since_s <= at_s < until_s)
    return tokens / (until_s - since_s) if until_s > since_s else 0.0


async def draft(target: Target) -> dict[str, Any]:
    """What the server says of its draft actor."""
    _, body = await target.get("/ready")
    return json.loads(body)["actors"]["draft"]


async def num_drafts(target: Target) -> int:
    """Drafts verified since the start."""
    _, body = await target.get("/metrics")
    lines = [line for line in body.decode().splitlines() if line.startswith(_DRAFTS)]
    return sum(int(float(line.rpartition(" ")[2])) for line in lines)


async def kill(target: Target, after_s: float) -> tuple[float, float, float]:
    """When the draft actor was killed, and seconds until that was known and until the next one could work."""
    await asyncio.sleep(after_s)
    before = await draft(target)
    os.kill(before["pid"], signal.SIGKILL)
    killed_s = time.monotonic()
    seen_s = 0.0
    while True:
        now = await draft(target)
        if not seen_s and now["pid"] != before["pid"]:
            seen_s = time.monotonic() - killed_s
        if now["restarts"] > before["restarts"] and now["state"] == "ok":
            return killed_s, seen_s, time.monotonic() - killed_s
        await asyncio.sleep(0.05)


async def one_round(target: Target, args: argparse.Namespace, number: int) -> Death:
    """Off, undisturbed, with a death."""
    off = await closed_loop(target, calls(args, number, speculation=False), args.clients)
    right = {r.name: r for r in await closed_loop(target, calls(args, number, speculation=True), args.clients)}
    first_s, last_s = max(r.first for r in off), min(r.ended for r in off)
    begun_s = min(r.started for r in off)
    killing = asyncio.create_task(kill(target, first_s - begun_s + 0.2 * (last_s - first_s)))
    hit = await closed_loop(target, calls(args, number, speculation=True), args.clients)
    killed_s, seen_s, back_s = await killing
    before = await num_drafts(target)
    await closed_loop(target, calls(args, number, speculation=True)[:2], 2)
    await asyncio.sleep(1.5)  # counters arrive once a second
    return Death(
        in_flight=sum(r.started < killed_s < r.ended for r in hit),
        failed=sum(r.error is not None for r in hit),
        different=sum((r.text, r.output_tokens) != (right[r.name].text, right[r.name].output_tokens) for r in hit),
        seen_s=seen_s,
        back_s=back_s,
        rate_to_off=rate(hit, killed_s + _RECOVERED_S, killed_s + back_s) / rate(off, first_s),
        drafts_after=await num_drafts(target) - before,
    )


async def play(target: Target, args: argparse.Namespace) -> list[Death]:
    """All rounds, once the draft actor is there."""
    while (await draft(target))["state"] != "ok":
        await asyncio.sleep(0.1)
    await closed_loop(target, calls(args, 0, speculation=True)[:2], 2)
    return [await one_round(target, args, number) for number in range(args.rounds)]


def main() -> None:
    args = arguments()
    exit_on_sigterm()
    speculation = {"methods": ["draft_model"], "policy": "fixed", "max_draft_tokens": 4}
    speculation |= {"draft_model.model": args.draft or args.model}
    told = [f"speculation.{key}={json.dumps(value)}" for key, value in speculation.items()] + args.overrides
    port = free_port()
    command = paceline_command(args.model, port, [word for key in told for word in ("-s", key)])
    with tempfile.TemporaryDirectory() as folder, Server(command, port, log=Path(folder) / "log") as server:
        server.wait()
        deaths = asyncio.run(play(Target(server.url), args))
    head = ["death of draft", "in flight", "failed", "other text", "seen s", "back s", "rate to off", "drafts after"]
    rows = [
        [i, d.in_flight, d.failed, d.different, f"{d.seen_s:.2f}", f"{d.back_s:.2f}", f"{d.rate_to_off:.2f}",
         d.drafts_after]
        for i, d in enumerate(deaths, 1)
    ]  # fmt: skip
    print(table(rows, head))
    print(f"\nmedian rate from {_RECOVERED_S:g} s after the death: "
          f"{statistics.median(d.rate_to_off for d in deaths):.2f} x off")  # fmt: skip
    if args.out:
        save(args.out, [asdict(death) for death in deaths])
    raise SystemExit(int(any(d.failed or d.different or not d.drafts_after for d in deaths)))


if __name__ == "__main__":
    main()
