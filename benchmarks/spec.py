#!/usr/bin/env python3
"""Speculation against the same server without it: speed-up, acceptance length, acceptance by position, waste.

The real pair, all prompt sets of a folder:
    python benchmarks/spec.py --pair --data FOLDER --sets edit,humaneval,chat --methods suffix,draft_model
In three minutes, on the default model and our own prompts:
    python benchmarks/spec.py --quick
What a method would accept at a depth of 4, without the policy's judgement:
    python benchmarks/spec.py --pair --data FOLDER --policy fixed --depths 4 --concurrency 1

One server a method and one without, all alive from start to end; a round goes through them in turn (off, a, b, off, a,
b, ...) with the same prompts and seeds and a cache salt of its own. Idle servers are checked to use no processor time.
Answers end where the model ends them. Speed-up is the median over rounds of the ratio within a round. Texts are
compared with those of the server without speculation. Method "idle" is speculation configured that never drafts.
"""

import argparse
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

sys.path.append(str(Path(__file__).resolve().parent / "support"))

import coder_pair
import spec_report
from contestants import Contestant, Round, play
from load import Call, closed_loop, run
from prompt_sets import Prompt, read_sets
from report import save
from server import exit_on_sigterm
from spec_rows import Cell, Entry, calls, cells, row

OFF = "off"
IDLE = "idle"
QUICK = {"concurrency": "1,4", "repeats": 2, "requests": 3, "max_tokens": 48, "temperatures": "0", "budget_s": 150.0}


def arguments(argv: Sequence[str] | None = None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    add = parser.add_argument
    add("--quick", action="store_true", help="few prompts, short answers, two loads: three minutes")
    add("--data", type=Path, metavar="FOLDER", help=".jsonl files of prompts (default: our own few)")
    add("--sets", help="beginnings of file names, comma separated (default: all)")
    add("--model", default="smollm2:135m", help="the target")
    add("--draft", default="", help="the draft model, for draft_model")
    add("--pair", nargs="?", const="", metavar="FOLDER", help="Qwen2.5-Coder 1.5B and 0.5B, fetched there if need be")
    add("--methods", default="", help='such as suffix,draft_model,suffix+draft_model,idle; "+" = tried in order')
    add("--config", type=Path, action="append", default=[], metavar="TOML", help="a contestant, named by the file")
    add("--depths", default="", help="most drafts a step, comma separated (default: the configuration's)")
    add("--policy", choices=["goodput", "fixed"], default="goodput")
    add("-s", dest="overrides", action="append", default=[], metavar="KEY=VALUE", help="for all servers")
    add("--temperatures", default="0,1")
    add("--concurrency", default="1,2,4,8,16,32,64", help="clients, comma separated")
    add("--requests", type=int, default=8, help="calls a round, at least two a client, each prompt once")
    add("--max-tokens", type=int, default=512, help="bound on an answer, beside the prompt's own")
    add("--repeats", type=int, default=3)
    add("--budget-s", type=float, default=0.0, help="begin no cell, and repeat no round, after so long; 0 = no bound")
    add("--markdown", action="store_true")
    add("--out", type=Path, help="write all figures as JSON")
    add("--plot", type=Path, help="write a PNG")
    first = parser.parse_known_args(argv)[0]
    if first.quick:
        parser.set_defaults(**QUICK)
    return parser.parse_args(argv)


def contestants(args: argparse.Namespace) -> list[Contestant]:
    """Without speculation, then one a method and one a configuration."""
    names = [name for name in args.methods.split(",") if name] or ([] if args.config else ["suffix"])
    depths = _numbers(args.depths)
    share = 0.5 / (1 + len(names) + len(args.config))  # of the memory, for KV: all servers are alive at once
    common = [f"cache.memory_fraction={share:.3f}", *args.overrides]
    found = [Contestant(OFF, [], _options([*common, "speculation.methods=[]"]))]
    for name in names:
        methods = ["suffix"] if name == IDLE else name.split("+")
        listed = ", ".join(f'"{method}"' for method in methods)
        own = [f"speculation.methods=[{listed}]", f'speculation.policy="{args.policy}"']
        if depths:
            own.append(f"speculation.max_draft_tokens={max(depths)}")
        if "draft_model" in methods:
            own.append(f'speculation.draft_model.model="{args.draft}"')
        if name == IDLE:
            own += ['speculation.policy="table"', "speculation.table=[[1, 1, 0]]"]
        found.append(Contestant(name, methods, _options([*common, *own])))
    for path in args.config:
        found.append(Contestant(path.stem, ["config"], ["--config", str(path), *_options(common)]))
    return found


def _options(overrides: list[str]) -> list[str]:
    return [word for override in overrides for word in ("-s", override)]


def _numbers(text: str) -> list[int]:
    return [int(x) for x in text.split(",") if x]


def entries(field: Sequence[Contestant], depths: Sequence[int]) -> list[tuple[Contestant, Entry]]:
    """Who plays in each round, in order; one without speculation has no depth."""
    made: list[tuple[Contestant, Entry]] = []
    for contestant in field:
        fixed = not contestant.methods or contestant.name == IDLE
        made += [(contestant, Entry(contestant.name, depth)) for depth in ([0] if fixed else depths or [0])]
    return made


def start(field: Sequence[Contestant], args: argparse.Namespace, logs: Path) -> None:
    """All servers, and a few answers from each, so that every kernel and cache line has been used."""
    for contestant in field:
        took_s = contestant.start(args.model, logs / f"{contestant.name}.log")
        print(f"{contestant.name}: ready after {took_s:.1f} s", file=sys.stderr)
    for contestant in field:
        warm = [Call(f"Count from {n} to thirty.", {"max_tokens": 24, "cache_salt": "warm-up"}) for n in range(4)]
        bad = next((r.error for r in run(lambda c=contestant, w=warm: closed_loop(c.target, w, 2)) if r.error), None)
        if bad:
            raise SystemExit(f"{contestant.name}: {bad}")


class Clock:
    """The run's time and its bound."""

    def __init__(self, budget_s: float) -> None:
        self._begun = time.monotonic()
        self._budget_s = budget_s

    @property
    def elapsed_s(self) -> float:
        """Since the start of the run."""
        return time.monotonic() - self._begun

    @property
    def is_over(self) -> bool:
        """No more is begun."""
        return bool(self._budget_s) and self.elapsed_s > self._budget_s


async def measure_cell(
    cell: Cell, prompts: list[Prompt], field: list[Contestant], args: argparse.Namespace, clock: Clock
) -> list[dict[str, Any]]:
    """Rows of one cell, one a contestant and depth but off."""
    players = entries(field, _numbers(args.depths))
    rounds: dict[Entry, list[Round]] = {entry: [] for _, entry in players}
    for number in range(args.repeats):
        if number and clock.is_over:
            break
        for contestant, entry in players:
            sent = calls(
                prompts,
                cell,
                entry,
                number,
                requests=args.requests,
                max_tokens=args.max_tokens,
                speculates=bool(contestant.methods),
            )
            rounds[entry].append(await play(field, contestant, sent, cell.concurrency))
    plain = rounds.pop(Entry(OFF, 0))
    return [row(cell, entry, of, plain) for entry, of in rounds.items()]


def measure(args: argparse.Namespace, clock: Clock, logs: Path) -> dict[str, Any]:
    """All cells there is time for, printed as they come."""
    sets = read_sets(args.data, [name for name in (args.sets or "").split(",") if name])
    temperatures = [float(x) for x in args.temperatures.split(",")]
    todo = cells(list(sets), temperatures, _numbers(args.concurrency))
    field = contestants(args)
    result: dict[str, Any] = {"model": args.model, "draft": args.draft, "policy": args.policy, "rows": []}
    result["servers"] = {contestant.name: contestant.arguments for contestant in field}
    try:
        start(field, args, logs)
        while todo and not clock.is_over:
            cell = todo.pop(0)
            rows = run(lambda cell=cell: measure_cell(cell, sets[cell.set], field, args, clock))
            result["rows"] += rows
            print(f"{clock.elapsed_s:.0f} s: {cell}", file=sys.stderr)
            print(spec_report.speed_table(rows), flush=True)
            if args.out:
                save(args.out, result | {"left_out": [*map(str, todo)]}, quiet=True)
    finally:
        for contestant in field:
            contestant.stop()
    result["left_out"] = [str(cell) for cell in todo]
    return result


def report(result: dict[str, Any], args: argparse.Namespace) -> int:
    """Print and write everything; the exit status."""
    rows = result["rows"]
    if rows:
        print(f"\n{spec_report.speed_table(rows, markdown=args.markdown)}")
        print(f"\n{spec_report.drafts_table(rows, markdown=args.markdown)}")
        if args.plot:
            spec_report.plot(args.plot, rows)
            print(f"wrote {args.plot}")
    if result["left_out"]:
        print(f"\nno time for {len(result['left_out'])} cells: {', '.join(result['left_out'])}")
    idle = max((r["busy"]["idle_servers"] for r in rows), default=0.0)
    others = max((r["busy"]["others"] for r in rows), default=0.0)
    print(f"\nidle servers took up to {idle:.1%} of the cores, other programs up to {others:.0%}")
    if args.out:
        save(args.out, result)
    bad = [r for r in rows if r["errors"] or r["texts_different"]]
    for r in bad:
        what = f"{r['texts_different']} texts differ, {r['errors']} errors, first {r['first_error']}"
        print(f"{r['set']} {r['method']} at {r['concurrency']} clients: {what}")
    return 1 if bad or not rows else 0


def main() -> int:
    args = arguments()
    exit_on_sigterm()
    clock = Clock(args.budget_s)
    if args.pair is not None:
        try:
            pair = coder_pair.make(Path(args.pair) if args.pair else None, lambda line: print(line, file=sys.stderr))
        except coder_pair.PairError as e:
            raise SystemExit(str(e)) from None
        args.model, args.draft = map(str, pair)
    if "draft_model" in args.methods and not args.draft:
        raise SystemExit("draft_model needs a model: give --draft NAME, or --pair")
    with tempfile.TemporaryDirectory() as logs:
        try:
            result = measure(args, clock, Path(logs))
        except RuntimeError as e:
            raise SystemExit(str(e)) from None
    return report(result, args)


if __name__ == "__main__":
    sys.exit(main())
