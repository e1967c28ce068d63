#!/usr/bin/env python3
"""Load any OpenAI-compatible server: output tok/s, time to first token, inter-token latency, errors.

Closed loop (a fixed number of clients):
    python benchmarks/serve.py --url http://127.0.0.1:8000 --concurrency 1,8,32
Open loop (Poisson arrivals a second):
    python benchmarks/serve.py --url http://127.0.0.1:8000 --rate 1,2,4 --requests 40
Two servers in turn, with ratios:
    python benchmarks/serve.py --url ours=http://127.0.0.1:8000 --url peer=http://127.0.0.1:8080 --repeats 3
"""

import argparse
import random
import sys
from pathlib import Path
from typing import Any

sys.path.append(str(Path(__file__).resolve().parent / "support"))

from load import Call, Reply, Target, closed_loop, open_loop, read_prompts, run
from report import median_spread, plot_lines, save, summary, table

COLUMNS = ["output_tok_s", "ttft_p50_ms", "ttft_p99_ms", "itl_p50_ms", "itl_p99_ms", "tpot_p50_ms"]


def arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    add = parser.add_argument
    add(
        "--url",
        action="append",
        metavar="[NAME=]URL",
        help="server; may be given several times (default 127.0.0.1:8000)",
    )
    add("--model", help="model name to send (default: the first the server lists)")
    add("--api-key")
    add("--completions", action="store_true", help="use /v1/completions in place of chat")
    load = parser.add_mutually_exclusive_group()
    load.add_argument("--concurrency", default="1,8,32", help="closed loop: clients, comma separated")
    load.add_argument("--rate", help="open loop: calls a second, comma separated")
    add("--requests", type=int, default=0, help="calls a level (default: four a client, at least 8)")
    add("--repeats", type=int, default=3, help="rounds; servers take turns inside a round")
    add("--data", type=Path, help="prompts: a .jsonl file or a folder of them (default: our own few)")
    add("--max-tokens", type=int, default=96)
    add("--natural-end", action="store_true", help="let the model stop by itself (default: fixed length, ignore_eos)")
    add("--temperature", type=float, default=0.0)
    add("--no-warmup", action="store_true")
    add("--field", action="append", default=[], metavar="KEY=JSON", help="another field of the body")
    add("--out", type=Path, help="write the figures as JSON")
    add("--plot", type=Path, help="write a PNG of tok/s by load")
    return parser.parse_args()


def body_fields(args: argparse.Namespace) -> dict[str, Any]:
    import json

    fields: dict[str, Any] = {"max_tokens": args.max_tokens, "temperature": args.temperature}
    if not args.natural_end:
        fields["ignore_eos"] = True
    for item in args.field:
        key, _, value = item.partition("=")
        fields[key] = json.loads(value)
    return fields


async def one_level(
    target: Target, level: float, is_rate: bool, prompts: list[str], args: argparse.Namespace, seed: int
):
    count = args.requests or max(8, 4 * int(level))
    rng = random.Random(seed)
    order = rng.sample(prompts, len(prompts))
    calls = [Call(order[i % len(order)], body_fields(args)) for i in range(count)]
    if is_rate:
        return await open_loop(target, calls, level, seed)
    return await closed_loop(target, calls, int(level))


async def measure(args: argparse.Namespace) -> list[dict[str, Any]]:
    named = [u.split("=", 1) if "=" in u.split("//")[0] else (u, u) for u in args.url or ["http://127.0.0.1:8000"]]
    targets = {name: Target(url, args.model, not args.completions, args.api_key) for name, url in named}
    prompts = read_prompts(args.data)
    is_rate = bool(args.rate)
    levels = [float(x) for x in (args.rate or args.concurrency).split(",")]
    if not args.no_warmup:
        for target in targets.values():
            await closed_loop(target, [Call(p, body_fields(args) | {"max_tokens": 16}) for p in prompts[:4]], 4)
    results: list[dict[str, Any]] = []
    for level in levels:
        rounds: dict[str, list[dict[str, float]]] = {name: [] for name in targets}
        for r in range(args.repeats):
            for name, target in targets.items():
                replies: list[Reply] = await one_level(target, level, is_rate, prompts, args, 1000 * r + int(level))
                rounds[name].append(summary(replies))
                if bad := next((x.error for x in replies if x.error), None):
                    print(f"{name} at {level:g}: {bad}", file=sys.stderr)
        for name, runs in rounds.items():
            row: dict[str, Any] = {"server": name, "load": level, "errors": int(sum(x["errors"] for x in runs))}
            for column in COLUMNS:
                row[column], row[f"{column}_spread"] = median_spread([x[column] for x in runs])
            row["rounds"] = runs
            results.append(row)
        print_level(results[-len(targets) :], first=level == levels[0], is_rate=is_rate)
    return results


def print_level(rows: list[dict[str, Any]], first: bool, is_rate: bool) -> None:
    load = "rate/s" if is_rate else "clients"
    head = ["server", load, "errors", "tok/s", "±%", "ratio", "TTFT p50 ms", "p99", "ITL p50 ms", "p99", "ms/token"]
    cells = []
    for row in rows:
        ratio = rows[0]["output_tok_s"] / row["output_tok_s"] if row["output_tok_s"] else 0.0
        spread = f"{100 * row['output_tok_s_spread']:.0f}"
        figures = [row["output_tok_s"], spread, f"{ratio:.2f}", *(row[c] for c in COLUMNS[1:])]
        cells.append([row["server"], f"{row['load']:g}", row["errors"], *figures])
    text = table(cells, head).split("\n")
    print("\n".join(text if first else text[2:]), flush=True)


def main() -> None:
    args = arguments()
    results = run(lambda: measure(args))
    if args.out:
        save(args.out, results)
    if args.plot:
        series: dict[str, list[tuple[float, float]]] = {}
        for row in results:
            series.setdefault(row["server"], []).append((row["load"], row["output_tok_s"]))
        plot_lines(args.plot, "Output tokens a second", "calls a second" if args.rate else "clients", "tok/s", series)
    if any(row["errors"] for row in results):
        sys.exit(1)


if __name__ == "__main__":
    main()
