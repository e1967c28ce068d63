#!/usr/bin/env python3
"""KV waste under a load of random lengths: allocated slots that hold no token, as a share of allocated slots.

    python benchmarks/memory.py --url http://127.0.0.1:8000 --clients 32 --requests 200

Reads the server's own gauges while the load runs, and checks afterwards that every block is free or cached.
"""

import argparse
import asyncio
import random
import re
import statistics
import sys
from pathlib import Path

sys.path.append(str(Path(__file__).resolve().parent / "support"))

from load import Call, Target, closed_loop, read_prompts, run
from report import percentile, save, summary


async def gauges(target: Target) -> dict[str, float]:
    _, body = await target.get("/metrics")
    found = re.findall(r"^([a-z_:]+)(?:\{[^}]*\})? ([0-9.e+-]+)$", body.decode(), re.MULTILINE)
    return {name: float(value) for name, value in found}


async def watch(target: Target, samples: list[dict[str, float]], every_s: float) -> None:
    while True:
        samples.append(await gauges(target))
        await asyncio.sleep(every_s)


async def measure(args: argparse.Namespace) -> int:
    target, rng = Target(args.url), random.Random(args.seed)
    text = " ".join(read_prompts(args.data)).split()
    calls: list[Call] = []
    for _ in range(args.requests):
        words, start = rng.randint(8, args.max_words), rng.randrange(len(text))
        prompt = " ".join((text * 2)[start : start + words])
        fields = {"max_tokens": rng.randint(16, args.max_tokens), "temperature": 0, "ignore_eos": True}
        calls.append(Call(prompt, fields))
    samples: list[dict[str, float]] = []
    watcher = asyncio.create_task(watch(target, samples, args.every))
    replies = await closed_loop(target, calls, args.clients)
    watcher.cancel()
    waste = [s["paceline_kv_waste_ratio"] for s in samples if s.get("vllm:num_requests_running", 0) > 0]
    figures = summary(replies)
    print(f"{figures['requests']:.0f} requests, {figures['errors']:.0f} errors, {figures['output_tok_s']:.0f} tok/s")
    if not waste:
        print("no sample saw a running request; use more requests or a smaller --every")
        return 1
    mean = statistics.mean(waste)
    print(f"KV waste over {len(waste)} samples: mean {mean:.2%}, p99 {percentile(waste, 99):.2%}")
    await asyncio.sleep(2.5)
    end = await gauges(target)
    free, total = end["paceline_kv_blocks_free"], end["paceline_kv_blocks_total"]
    lost = total - free
    print(f"afterwards: {free:.0f} blocks free or cached of {total:.0f}; {lost:.0f} lost")
    if args.out:
        save(args.out, {"waste": waste, "mean": mean, "lost": lost, "load": figures})
    return int(lost != 0 or figures["errors"] > 0)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--url", default="http://127.0.0.1:8000")
    parser.add_argument("--clients", type=int, default=32)
    parser.add_argument("--requests", type=int, default=200)
    parser.add_argument("--max-words", type=int, default=500, help="prompts have 8 to this many words")
    parser.add_argument("--max-tokens", type=int, default=256, help="outputs have 16 to this many tokens")
    parser.add_argument("--every", type=float, default=0.5, help="seconds between samples")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--data", type=Path)
    parser.add_argument("--out", type=Path)
    args = parser.parse_args()
    sys.exit(run(lambda: measure(args)))


if __name__ == "__main__":
    main()
