#!/usr/bin/env python3
"""Do streams stutter while a long prompt is read? Gaps between their tokens, with a long prompt and without, in turn.

    python benchmarks/stall.py
    python benchmarks/stall.py --streams 16 --prompt-tokens 4000 -s scheduler.prompt_stretch=0

A round runs the streams to their end; in every other one, long prompts whose answer is one token come one after the
other from the moment all streams run. Told are the gaps between tokens of a stream, and how long a long prompt took.
"""

import argparse
import asyncio
import random
import statistics
import sys
from pathlib import Path
from typing import Any

sys.path.append(str(Path(__file__).resolve().parent / "support"))

from load import Call, Reply, Target, closed_loop, read_prompts, run
from report import percentile, save, table
from server import Server, exit_on_sigterm, free_port, paceline_command

WORDS_PER_TOKEN = 0.75
_GREEDY = {"temperature": 0, "ignore_eos": True}


def arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    add = parser.add_argument
    add("--model", default="smollm2:135m")
    add("--streams", type=int, default=16)
    add("--max-tokens", type=int, default=300, help="of each stream (default %(default)s)")
    add("--prompt-tokens", type=int, default=4000, help="of a long prompt, about (default %(default)s)")
    add("--long-prompts", type=int, default=1, help="in a round (default %(default)s)")
    add("--repeats", type=int, default=3)
    add("-s", dest="overrides", action="append", default=[], metavar="KEY=VALUE", help="config override")
    add("--out", type=Path, help="write the figures as JSON")
    return parser.parse_args()


def some_words(rng: random.Random, count: int) -> str:
    """A text that no cache knows."""
    words = " ".join(read_prompts(None)).split()
    return f"{rng.randrange(10**6)} " + " ".join(rng.choices(words, k=count))


async def one_round(target: Target, args: argparse.Namespace, turn: int, *, disturbed: bool) -> dict[str, Any]:
    rng = random.Random(f"{turn} {disturbed}")
    streams = [Call(some_words(rng, 20), _GREEDY | {"max_tokens": args.max_tokens}) for _ in range(args.streams)]
    running = asyncio.create_task(closed_loop(target, streams, args.streams))
    long: list[Reply] = []
    if disturbed:
        await asyncio.sleep(1.5)
        for _ in range(args.long_prompts):
            prompt = some_words(rng, round(args.prompt_tokens * WORDS_PER_TOKEN))
            long.append(await target.stream(Call(prompt, _GREEDY | {"max_tokens": 1})))
    replies = await running
    if error := next((reply.error for reply in [*replies, *long] if reply.error), None):
        raise SystemExit(f"a request failed: {error}")
    gaps = [1e3 * gap for reply in replies for gap in reply.gaps]
    middle = statistics.median(gaps)
    return {
        "long prompts": len(long),
        "prompt_tokens": statistics.median([reply.prompt_tokens for reply in long]) if long else 0,
        "long_prompt_s": statistics.median([reply.ended - reply.started for reply in long]) if long else 0.0,
        "median_ms": middle,
        "p99_ms": percentile(gaps, 99),
        "worst_ms": max(gaps),
        "p99_to_median": percentile(gaps, 99) / middle,
        "tok_s": sum(r.output_tokens for r in replies) / (max(r.ended for r in replies) - replies[0].started),
    }


async def measure(url: str, args: argparse.Namespace) -> list[dict[str, Any]]:
    target = Target(url, chat=False)
    await closed_loop(target, [Call("Hello", _GREEDY | {"max_tokens": 8})] * 4, 4)
    rounds = [(turn, disturbed) for turn in range(args.repeats) for disturbed in (False, True)]
    return [await one_round(target, args, turn, disturbed=disturbed) for turn, disturbed in rounds]


def main() -> None:
    args = arguments()
    exit_on_sigterm()
    port = free_port()
    extra = [part for override in args.overrides for part in ("-s", override)]
    with Server(paceline_command(args.model, port, extra), port) as server:
        server.wait()
        rounds = run(lambda: measure(server.url, args))
    head = ["long prompts", "its tokens", "took s", "gap median ms", "p99", "worst", "p99 to median", "tok/s"]
    print(table([[v if isinstance(v, int) else f"{v:.2f}" for v in r.values()] for r in rounds], head))
    ratios = [r["p99_to_median"] for r in rounds if r["long prompts"]]
    print(f"\nmedian p99 with a long prompt: {statistics.median(ratios):.2f} x the median gap")
    if args.out:
        save(args.out, rounds)


if __name__ == "__main__":
    main()
