#!/usr/bin/env python3
"""Microseconds the core takes for a step, schedule + apply, without a model: ``python -P benchmarks/scheduler.py``.

All requests decode; every step is full. Only the two calls are timed, garbage collection included; making the answers
is the target's work and is not. Sizes are taken in turn within each round, so that a slow moment is spread over them.
"""

import argparse
import sys
import time
from collections import deque
from pathlib import Path

sys.path.append(str(Path(__file__).resolve().parent / "support"))

from report import percentile, save, table

from paceline.engine.core.limits import CoreConfig
from paceline.engine.core.plan import Drafts, RowResult, StepPlan, StepResult
from paceline.engine.core.scheduler import Scheduler
from paceline.engine.types import SamplingParams

VOCAB = 50_000
PROMPT = 64
COLUMNS = ("median_us", "p99_us", "least_us", "us_a_request")


def arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    add = parser.add_argument
    add("--running", type=int, nargs="+", default=[1, 16, 64, 256], help="requests running at once (%(default)s)")
    add("--steps", type=int, default=500, help="timed steps of each size and round (%(default)s)")
    add("--rounds", type=int, default=5, help="rounds (%(default)s)")
    add("--in-flight", type=int, default=2, help="unanswered plans (%(default)s)")
    add("--depth", type=int, default=0, help="drafts a request and step, all accepted; plans then go one by one (0)")
    add("--block-size", type=int, default=16, help="tokens of a block (%(default)s)")
    add("--out", type=Path, help="write the figures as JSON")
    return parser.parse_args()


def filled(num: int, args: argparse.Namespace) -> Scheduler:
    """A scheduler with ``num`` requests that will decode for all timed steps."""
    most = (args.steps + 8) * (1 + args.depth)
    blocks = -(-(PROMPT + most) // args.block_size) + 1
    core = Scheduler(
        CoreConfig(
            num_blocks=num * blocks,
            block_size=args.block_size,
            max_num_seqs=num,
            max_num_batched_tokens=max(num * PROMPT, num * (1 + args.depth)),
            max_in_flight=args.in_flight,
            max_model_len=PROMPT + most,
            vocab_size=VOCAB,
        )
    )
    for i in range(num):
        params = SamplingParams(max_tokens=most, end_ids=[2])
        core.add(f"cmpl-{i:032x}-0", [(i + j) % VOCAB for j in range(PROMPT)], params, now=0.0)
    return core


def answer(plan: StepPlan) -> StepResult:
    """One token for each row that yields, and every draft accepted."""
    rows = [
        RowResult(row.request_id, row.epoch, [*row.draft_ids, 7] if row.yields else [], len(row.draft_ids))
        for row in plan.rows
    ]
    return StepResult(plan.step, rows, 0.01)


def measure(num: int, args: argparse.Namespace) -> list[float]:
    """Seconds of each full step: one ``schedule`` and one ``apply``."""
    core, clock, depth = filled(num, args), time.perf_counter, args.depth
    unanswered: deque[StepPlan] = deque()
    lengths: dict[str, int] = {}
    times: list[float] = []
    while len(times) < args.steps:
        for request_id, length in lengths.items():
            core.offer(Drafts(request_id, 0, length, [7] * depth))
        start = clock()
        plan = core.schedule(0.0, depth)
        spent = clock() - start
        if plan is not None:
            unanswered.append(plan)
        if plan is not None and len(unanswered) < args.in_flight:
            continue
        answered = unanswered.popleft()
        result = answer(answered)
        start = clock()
        outputs = core.apply(answered, result)
        spent += clock() - start
        if depth:
            lengths = {out.request_id: PROMPT + out.offset + len(out.token_ids) for out in outputs}
        if len(answered.rows) == num and not answered.new:
            times.append(spent)
    return times


def main() -> None:
    args = arguments()
    if args.depth:
        args.in_flight = 1
    times: dict[int, list[float]] = {num: [] for num in args.running}
    for _ in range(args.rounds):
        for num in args.running:
            times[num] += measure(num, args)
    figures: dict[int, dict[str, float]] = {}
    for num, taken in times.items():
        median = 1e6 * percentile(taken, 50)
        figures[num] = dict(
            zip(COLUMNS, (median, 1e6 * percentile(taken, 99), 1e6 * min(taken), median / num), strict=True)
        )
    total = args.steps * args.rounds
    print(f"schedule + apply, {args.in_flight} plans in flight, depth {args.depth}, {total} steps each")
    print(table([[num, *row.values()] for num, row in figures.items()], ["running", *COLUMNS]))
    if args.out:
        settings = {"in_flight": args.in_flight, "depth": args.depth, "block_size": args.block_size}
        save(args.out, {"settings": settings, "running": figures})


if __name__ == "__main__":
    main()
