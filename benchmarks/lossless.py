#!/usr/bin/env python3
"""Is the text with speculation the text without? Real servers, one a method, are asked the same as one without.

Every method, greedy and seeded, at several concurrencies, with the draft actor killed again and again:
    python benchmarks/lossless.py
    python benchmarks/lossless.py --data FOLDER --prompts 200 --model MODEL --draft MODEL --methods suffix,draft_model
A configuration of your own besides, such as one with heads (its speculation section counts):
    python benchmarks/lossless.py --config medusa=medusa.toml

The status is 1 if one text differs, one call fails, or a method never had a draft verified.
"""

import argparse
import asyncio
import contextlib
import json
import os
import random
import signal
import sys
import tempfile
import time
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, get_args, get_type_hints

sys.path.append(str(Path(__file__).resolve().parent / "support"))

from load import Call, Reply, Target, read_prompts
from report import save, table
from server import Server, exit_on_sigterm, free_port, paceline_command

from paceline.spec_decode.speculators import draft_model

ADVERSARY = "outside.chaos_speculator"
OUTSIDE = Path(__file__).resolve().parents[1] / "tests" / "support"
"""Where the servers find ``ADVERSARY``."""


@dataclass(frozen=True)
class Ask:
    """One call, known by its place in the list."""

    prompt: str
    temperature: float
    seed: int


@dataclass
class Verdict:
    """What came of one method at one concurrency."""

    method: str
    concurrency: int
    equal: int = 0
    different: int = 0
    failed: int = 0
    drafts: int = 0
    accepted: int = 0
    kills: int = 0
    seconds: float = 0.0
    differences: list[dict[str, Any]] = field(default_factory=list)


def arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    add = parser.add_argument
    add("--model", default="smollm2:135m", help="the target (default %(default)s)")
    add("--draft", help="model of draft_model (default: the target's own, which is always right)")
    add("--data", type=Path, help="prompts: a .jsonl file or a folder of them (default: our own few)")
    add("--prompts", type=int, default=200, help="prompts; where there are fewer, each comes with several seeds")
    add("--max-chars", type=int, default=600, help="prompts are cut to this length, to save time")
    add("--max-tokens", type=int, default=16)
    add("--temperatures", default="0,0.8")
    add("--concurrency", default="1,8,32", help="the first level asks a quarter of the prompts only")
    add("--depth", type=int, default=5, help="drafts for a request and step")
    add("--methods", default="", help="names of the first column, comma separated (default: all)")
    add("--kill-every", type=float, default=4.0, help="seconds between two deaths of the draft actor; 0 = none")
    add("--config", action="append", default=[], metavar="NAME=TOML", help="another method: a config file")
    add("--option", action="append", default=[], metavar="KEY=VALUE", help="config key for every server, as serve's -s")
    add("--out", type=Path, help="write verdicts and differences as JSON")
    return parser.parse_args()


def methods(args: argparse.Namespace) -> dict[str, list[str]]:
    """What ``paceline serve`` is told, by method. Fixed depth: drafts are verified whether they pay or not."""

    def section(names: list[str], policy: str = "fixed", **tables: dict[str, Any]) -> list[str]:
        told = {"methods": names, "policy": policy, "max_draft_tokens": args.depth}
        told |= {f"{name}.{key}": value for name, keys in tables.items() for key, value in keys.items()}
        return [part for key, value in told.items() for part in ("-s", f"speculation.{key}={toml(value)}")]

    def toml(value: Any) -> str:
        return json.dumps(value)

    model = args.draft or args.model
    chaos = {"wild": True, "slow_s": 0.005}
    known = {
        "off": [],
        "ngram": section(["ngram"]),
        "suffix": section(["suffix"]),
        "suffix, goodput": section(["suffix"], "goodput"),
    }
    for mode in get_args(get_type_hints(draft_model.Config)["mode"]):
        known[f"draft_model, {mode}"] = section(["draft_model"], draft_model={"model": model, "mode": mode})
    known["suffix+draft_model"] = section(["suffix", "draft_model"], draft_model={"model": model})
    known["adversary"] = adversary(section(["ADVERSARY"]), chaos)
    known["adversary, dying"] = adversary(section(["ADVERSARY", "suffix"]), chaos | {"dies_after": 200})
    for item in args.config:
        name, _, path = item.partition("=")
        known[name] = ["--config", path]
    wanted = [name.strip() for name in args.methods.split(",") if name.strip()]
    for name in wanted:
        if not any(fits(name, k) for k in known):
            raise SystemExit(f"--methods: no method {name}; known: {'; '.join(known)}")
    return {k: v for k, v in known.items() if k == "off" or not wanted or any(fits(name, k) for name in wanted)}


def fits(name: str, method: str) -> bool:
    """``suffix`` means ``suffix`` and ``suffix, goodput``."""
    return method == name or method.startswith(f"{name},")


def adversary(told: list[str], keys: dict[str, Any]) -> list[str]:
    """A dotted method's table cannot be reached by ``-s``: it comes from a file."""
    folder = tempfile.mkdtemp(prefix="lossless-")
    path = Path(folder) / "adversary.toml"
    lines = [f"{key} = {json.dumps(value)}" for key, value in keys.items()]
    path.write_text(f'[speculation."{ADVERSARY}"]\n' + "\n".join(lines) + "\n")
    return ["--config", str(path), *(part.replace("ADVERSARY", ADVERSARY) for part in told)]


def work(args: argparse.Namespace) -> list[Ask]:
    """Each prompt at each temperature, under a seed of its own."""
    prompts = [p[: args.max_chars] for p in read_prompts(args.data)]
    prompts = random.Random(7).sample(prompts, len(prompts))
    temperatures = [float(t) for t in args.temperatures.split(",")]
    return [Ask(prompts[i % len(prompts)], t, i) for t in temperatures for i in range(args.prompts)]


@contextlib.contextmanager
def serving(args: argparse.Namespace, told: list[str]):
    """A ready server; its log is shown if it does not come."""
    port = free_port()
    options = [part for option in args.option for part in ("-s", option)]
    with tempfile.TemporaryDirectory() as folder:
        log = Path(folder) / "server.log"
        with Server(paceline_command(args.model, port, [*told, *options]), port, log=log) as server:
            try:
                server.wait()
            except RuntimeError as e:
                raise SystemExit(f"{e}\n{log.read_text()[-2000:]}") from e
            yield server


async def ask_all(target: Target, asks: list[Ask], places: list[int], concurrency: int, max_tokens: int):
    """Place -> reply, ``concurrency`` at a time in the order of ``places``."""
    left, replies = iter(places), dict[int, Reply]()

    async def client() -> None:
        for place in left:
            ask = asks[place]
            fields = {"max_tokens": max_tokens, "temperature": ask.temperature, "seed": ask.seed}
            replies[place] = await target.stream(Call(ask.prompt, fields))

    await asyncio.gather(*(client() for _ in range(concurrency)))
    return replies


async def kill_drafter(target: Target, every_s: float, verdict: Verdict) -> None:
    """SIGKILL to the draft actor, as often as it is there, until cancelled."""
    while True:
        await asyncio.sleep(every_s)
        draft = (await actors(target)).get("draft") or {}
        if draft.get("state") == "ok" and draft.get("pid"):
            os.kill(draft["pid"], signal.SIGKILL)
            verdict.kills += 1


async def actors(target: Target) -> dict[str, Any]:
    """The server's processes."""
    _, body = await target.get("/ready")
    return json.loads(body or b"{}").get("actors", {})


async def drafts_are_up(target: Target) -> None:
    """Wait until the draft actor can work, where there is one."""
    until_s = time.monotonic() + 60
    while (draft := (await actors(target)).get("draft")) and draft["state"] != "ok":
        if time.monotonic() > until_s:
            raise SystemExit(f"the draft actor is {draft['state']} after 60 s: {draft.get('error')}")
        await asyncio.sleep(0.1)


async def counts(target: Target) -> tuple[int, int]:
    """Drafts verified and accepted so far; 0 where speculation is off."""
    _, body = await target.get("/metrics")
    found = dict.fromkeys(("vllm:spec_decode_num_draft_tokens_total", "vllm:spec_decode_num_accepted_tokens_total"), 0)
    for line in body.decode().splitlines():
        name = line.partition("{")[0]
        if name in found:
            found[name] = int(float(line.rpartition(" ")[2]))
    drafted, accepted = found.values()
    return drafted, accepted


async def judge(
    target: Target, method: str, asks: list[Ask], expected: dict[int, Reply], args: argparse.Namespace
) -> list[Verdict]:
    """Ask at every concurrency, in another order each, and compare."""
    await drafts_are_up(target)
    verdicts: list[Verdict] = []
    for index, concurrency in enumerate(int(c) for c in args.concurrency.split(",")):
        places = random.Random(concurrency).sample(range(len(asks)), len(asks))
        verdict = Verdict(method, concurrency)
        began_s, before = time.monotonic(), await counts(target)
        killer = asyncio.create_task(kill_drafter(target, args.kill_every, verdict)) if args.kill_every else None
        share = places[: len(places) // 4] if index == 0 and "," in args.concurrency else places
        replies = await ask_all(target, asks, share, concurrency, args.max_tokens)
        if killer is not None:
            killer.cancel()
        await asyncio.sleep(1.5)  # counters arrive once a second
        after = await counts(target)
        verdict.drafts, verdict.accepted = after[0] - before[0], after[1] - before[1]
        verdict.seconds = time.monotonic() - began_s
        compare(verdict, asks, expected, replies)
        verdicts.append(verdict)
        print_row(verdict)
    return verdicts


def compare(verdict: Verdict, asks: list[Ask], expected: dict[int, Reply], replies: dict[int, Reply]) -> None:
    """Text and number of tokens must be equal."""
    for place, reply in replies.items():
        right = expected[place]
        if reply.error is not None:
            verdict.failed += 1
            verdict.differences.append({"ask": asdict(asks[place]), "error": reply.error})
        elif (reply.text, reply.output_tokens) != (right.text, right.output_tokens):
            verdict.different += 1
            verdict.differences.append({"ask": asdict(asks[place]), "text": reply.text, "expected": right.text})
        else:
            verdict.equal += 1


HEAD = ["method", "clients", "equal", "different", "failed", "drafts", "accepted", "kills", "seconds"]


def print_row(verdict: Verdict) -> None:
    cells = [f"{verdict.method:24}", *(getattr(verdict, name) for name in HEAD[2:])]
    cells.insert(1, verdict.concurrency)
    print("  ".join(f"{c:>9.1f}" if isinstance(c, float) else f"{c:>9}" for c in cells), flush=True)


async def reference(target: Target, asks: list[Ask], args: argparse.Namespace) -> dict[int, Reply]:
    """What the server without speculation answers, eight clients at a time."""
    replies = await ask_all(target, asks, list(range(len(asks))), 8, args.max_tokens)
    bad = [reply.error for reply in replies.values() if reply.error]
    if bad:
        raise SystemExit(f"speculation off: {len(bad)} of {len(asks)} calls failed: {bad[0]}")
    return replies


def main() -> None:
    args = arguments()
    exit_on_sigterm()
    chosen = methods(args)
    asks = work(args)
    os.environ["PYTHONPATH"] = os.pathsep.join([str(OUTSIDE), *filter(None, [os.environ.get("PYTHONPATH")])])
    distinct = len({ask.prompt for ask in asks})
    print(f"{len(asks)} asks of {distinct} prompts, {args.max_tokens} tokens each, against speculation off\n")
    print("  ".join([f"{HEAD[0]:24}", *(f"{name:>9}" for name in HEAD[1:])]))
    expected: dict[int, Reply] = {}
    verdicts: list[Verdict] = []
    for method, told in chosen.items():
        with serving(args, told) as server:
            target = Target(server.url)
            if not expected:
                expected |= asyncio.run(reference(target, asks, args))
            verdicts += asyncio.run(judge(target, method, asks, expected, args))
    if args.out:
        save(args.out, {"asks": len(asks), "prompts": distinct, "verdicts": [asdict(v) for v in verdicts]})
    raise SystemExit(conclude(verdicts))


def conclude(verdicts: list[Verdict]) -> int:
    """Totals by method, the first difference of each in words; the exit status."""
    rows: list[list[Any]] = []
    bad = False
    for method in dict.fromkeys(v.method for v in verdicts):
        mine = [v for v in verdicts if v.method == method]
        total = [sum(getattr(v, name) for v in mine) for name in HEAD[2:]]
        rows.append([method, len(mine), *total])
        idle = method != "off" and not total[HEAD.index("drafts") - 2]
        bad |= idle or any(v.different or v.failed for v in mine)
        if idle:
            print(f"{method}: no draft was ever verified, so its equal texts say nothing", file=sys.stderr)
        for difference in [d for v in mine for d in v.differences][:1]:
            print(f"{method}: {json.dumps(difference)}", file=sys.stderr)
    print("\n" + table(rows, ["method", "levels", *HEAD[2:]]))
    return int(bad)


if __name__ == "__main__":
    main()
