#!/usr/bin/env python3
"""Faults against a live server under load: what failed, what came out differently, how long until all is well again.

    python benchmarks/faults.py                                    # the quick list, about 5 minutes on two cores
    python benchmarks/faults.py --faults target --rounds 10        # ten deaths of the target
    python benchmarks/faults.py --faults draft --draft MODEL --clients 8 --rounds 5
    python benchmarks/faults.py --faults soak --soak 20000

Half of the streams are greedy, half are seeded. The judge is always the same: texts and usage of the same calls on an
undisturbed server; behind the fault a few of them once more; and running, waiting, free blocks, descriptors and
processes as before. The status is 1 where a promise was broken.

"seen" is the time until the server knew, "back" the time until it was well again. After a death it is "back" when
/ready says so; a gateway's successor is, when a new call has its answer.
"""

import argparse
import asyncio
import sys
import time
from collections.abc import Awaitable, Callable
from dataclasses import asdict
from pathlib import Path

sys.path.append(str(Path(__file__).resolve().parent / "support"))

from fault_kinds import (
    bodies,
    deaths,
    draft,
    ending,
    files,
    gateway_deaths,
    leavers,
    pool,
    prefills,
    slow,
    soak,
    strangers,
    upgrade,
)
from fault_kinds.judge import HEAD, Outcome
from fault_kinds.rig import Rig, Settings, serving
from report import save, table
from server import exit_on_sigterm

FAULTS: dict[str, Callable[[Rig], Awaitable[list[Outcome]]]] = {
    "target": deaths.target,
    "scheduler": deaths.scheduler,
    "tokenizer": deaths.tokenizer,
    "gateway": gateway_deaths.gateway,
    "bodies": bodies.bodies,
    "storm": leavers.storm,
    "slow": slow.slow,
    "strangers": strangers.strangers,
    "pool": pool.pool,
    "drain": ending.drain,
    "upgrade": upgrade.upgrade,
    "supervisor": ending.supervisor,
    "stop": deaths.stop,
    "stop-gateway": gateway_deaths.stop_gateway,
    "file-gone": files.gone,
    "file-cut": files.cut,
    "draft": lambda rig: draft.draft(rig.settings),
    "soak": soak.soak,
    "prefills": prefills.prefills,
}
_LONG = {"draft", "soak", "prefills"}
_OPTIONS = ("cache.num_blocks=2048",)
"""Room for all streams, and the same on each machine."""


def arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    add = parser.add_argument
    quick = ",".join(name for name in FAULTS if name not in _LONG)
    which = f"which: {', '.join(FAULTS)} (default: all but {', '.join(sorted(_LONG))})"
    add("--faults", default=quick, metavar="A,B", help=which)
    add("--model", default="smollm2:135m", help="the target (default %(default)s)")
    add("--draft", default="", help="draft: the draft model (default: the target's own)")
    add("--data", type=Path, help="prompts: a .jsonl file or a folder of them (default: our own few)")
    add("--clients", type=int, default=0, help="streams at once (default: 64, draft 8)")
    add("--max-tokens", type=int, default=0, help="of a stream, about (default: 100, draft 200)")
    add("--rounds", type=int, default=3, help="deaths of the target or draft (default %(default)s)")
    add("--slow-readers", type=int, default=32, help="clients that read 1 byte/s (default %(default)s)")
    add("--idle", type=int, default=2000, help="connections that ask for nothing (default %(default)s)")
    add("--prefill-s", type=float, default=600, help="prefills: seconds (default %(default)s)")
    add("--departures", type=int, default=200, help="clients that leave in the storm (default %(default)s)")
    add("--soak", type=int, default=0, metavar="N", help="mixed calls of a soak; adds it to the list")
    add("-s", dest="overrides", action="append", default=[], metavar="KEY=VALUE", help="config key, as serve's -s")
    add("--out", type=Path, help="write figures as JSON")
    args = parser.parse_args()
    args.names = [name for name in args.faults.split(",") if name]
    if args.soak and "soak" not in args.names:
        args.names.append("soak")
    if unknown := [name for name in args.names if name not in FAULTS]:
        parser.error(f"no fault named {unknown[0]}: choose from {', '.join(FAULTS)}")
    if "soak" in args.names and not args.soak:
        parser.error("soak: say how many calls, such as --soak 2000")
    return args


def settings(args: argparse.Namespace) -> Settings:
    return Settings(
        model=args.model,
        clients=args.clients or 64,
        max_tokens=args.max_tokens or 100,
        rounds=args.rounds,
        draft=args.draft,
        draft_clients=args.clients or 8,
        draft_max_tokens=args.max_tokens or 200,
        data=args.data,
        soak=args.soak,
        slow_readers=args.slow_readers,
        departures=args.departures,
        idle=args.idle,
        prefill_s=args.prefill_s,
        overrides=args.overrides,
    )


async def play(given: Settings, names: list[str]) -> list[Outcome]:
    """One fault after the other, on one server but for those that end theirs or need another."""
    if names == ["draft"]:
        return await draft.draft(given)
    outcomes: list[Outcome] = []
    async with serving(given, *_OPTIONS) as rig:
        for name in names:
            begun_s = time.monotonic()
            try:
                some = await FAULTS[name](rig)
            except Exception as e:  # the others are to be played, and what was measured is to be told
                some = [Outcome(name, faults=[f"not measured: {type(e).__name__}: {e}"])]
            outcomes += some
            for outcome in some:
                print(*outcome.row(), sep=" | ", file=sys.stderr)
            print(f"{name}: {time.monotonic() - begun_s:.0f} s", file=sys.stderr)
    return outcomes


def main() -> None:
    args = arguments()
    exit_on_sigterm()
    outcomes = asyncio.run(play(settings(args), args.names))
    print(table([outcome.row() for outcome in outcomes], HEAD))
    if args.out:
        save(args.out, [asdict(outcome) for outcome in outcomes])
    raise SystemExit(int(any(outcome.faults for outcome in outcomes)))


if __name__ == "__main__":
    main()
