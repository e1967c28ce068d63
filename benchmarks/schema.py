#!/usr/bin/env python3
"""Does the server keep to a description of its API? Generated calls, right and wrong ones, by schemathesis.

OpenAI's description (YAML or JSON turned into one JSON file) against a server that is started for it:
    python benchmarks/schema.py --schema openai.json --cases 2000 --seed 1
Our own, as the server tells it:
    python benchmarks/schema.py --schema /openapi.json --as-it-is

Checked: no 5xx, content type and shape of every answer, and that the API key is asked for. The status is 1 if one call
fails, one process of the server died, or a KV block is missing afterwards. Needs the ``dev`` extra.
"""

import argparse
import json
import sys
import tempfile
import time
from functools import partial
from pathlib import Path
from typing import Any
from urllib.request import Request, urlopen

sys.path.append(str(Path(__file__).resolve().parent / "support"))

from openai_schema import capped, pinned
from report import save, table
from schema_judge import Verdict, judge
from server import Server, exit_on_sigterm, free_port, paceline_command

KEY = "a-key-for-the-judge"


def arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    add = parser.add_argument
    add("--schema", required=True, help="a JSON file, or a path of the server, such as /openapi.json")
    add("--as-it-is", action="store_true", help="do not pin model, lengths and stream: the description is our own")
    add("--model", default="smollm2:135m", help="what is served (default %(default)s)")
    add("--url", help="a server that runs already, its key given by --key")
    add("--key", default=KEY, help="API key of the server")
    add("--base", help="what the description's paths are added to (default: /v1; with --as-it-is the root)")
    add("--cases", type=int, default=2000)
    add("--seed", type=int, default=0)
    add("--refusals", type=int, default=0, metavar="N", help="also the N commonest reasons to refuse what fits")
    add("--skip", action="append", default=[], metavar="PATH", help="leave a path of the description out")
    add("-s", dest="overrides", action="append", default=[], metavar="KEY=VALUE", help="config override of the server")
    add("--out", type=Path, help="write the verdict as JSON")
    return parser.parse_args()


def ask(url: str, key: str) -> Any:
    """The JSON of a GET."""
    with urlopen(Request(url, headers={"Authorization": f"Bearer {key}"}), timeout=30) as answer:
        return json.load(answer)


def standing(url: str, key: str) -> dict[str, Any]:
    """Processes and KV blocks; what a run must leave as it was."""
    deadline = time.monotonic() + 10
    while True:
        told = ask(f"{url}/ready", key)
        if told["running"] == told["waiting"] == 0 or time.monotonic() > deadline:
            pids = {name: actor["pid"] for name, actor in told["actors"].items()}
            return {"pids": pids, "free_blocks": told["free_blocks"], "total_blocks": told["total_blocks"]}
        time.sleep(0.1)


def run(args: argparse.Namespace, url: str) -> tuple[Verdict, list[str]]:
    """The verdict on the calls, and what else is wrong."""
    model = ask(f"{url}/v1/models", args.key)["data"][0]["id"]
    is_ours = args.schema.startswith("/") and not Path(args.schema).is_file()
    description = ask(url + args.schema, args.key) if is_ours else json.loads(Path(args.schema).read_text())
    change = {}
    if not args.as_it_is:
        description, change = pinned(description, model), {"change": partial(capped, model=model)}
    base = args.base if args.base is not None else "" if args.as_it_is else "/v1"
    before = standing(url, args.key)
    verdict = judge(
        description, url + base, key=args.key, num_cases=args.cases, seed=args.seed, skip=frozenset(args.skip), **change
    )
    after = standing(url, args.key)
    wrong = [f"{name} was {before[name]} and is {after[name]}" for name in before if before[name] != after[name]]
    return verdict, wrong


def tell(verdict: Verdict, wrong: list[str], seconds: float, num_refusals: int) -> None:
    """The tables of a run."""
    for name, report in verdict.failures.items():
        print(f"--- {name}\n{report}\n")
    statuses = sorted({status for counts in verdict.statuses.values() for status in counts})
    rows = [[name, c.total(), *(c[s] for s in statuses)] for name, c in sorted(verdict.statuses.items())]
    print(table(rows, ["operation", "calls", *map(str, statuses)]))
    for reason, n in verdict.refusals.most_common(num_refusals):
        print(f"{n:5} x {reason}")
    print(f"{verdict.num_cases} calls in {seconds:.0f} s; slowest {verdict.slowest_s:.2f} s ({verdict.slowest})")
    print(f"{verdict.num_5xx} x 5xx, {verdict.num_failed} calls with a violation of {len(verdict.failures)} kinds")
    if verdict.num_cut_short:
        print(f"rounds cut short by the generator, made up by others: {verdict.num_cut_short}")
    print("\n".join(wrong) or "same processes, all KV blocks free")


def main() -> int:
    args = arguments()
    exit_on_sigterm()
    begun = time.monotonic()
    if args.url:
        verdict, wrong = run(args, args.url.rstrip("/"))
    else:
        port = free_port()
        extra = ["--api-key", args.key, "--max-model-len", "512"]
        extra += [part for o in args.overrides for part in ("-s", o)]
        with (
            tempfile.TemporaryDirectory() as folder,
            Server(paceline_command(args.model, port, extra), port, log=Path(folder) / "log") as server,
        ):
            server.wait()
            begun = time.monotonic()
            verdict, wrong = run(args, server.url)
    tell(verdict, wrong, time.monotonic() - begun, args.refusals)
    if args.out:
        save(args.out, {"statuses": verdict.statuses, "failures": verdict.failures, "wrong": wrong})
    return 1 if verdict.num_failed or wrong else 0


if __name__ == "__main__":
    sys.exit(main())
