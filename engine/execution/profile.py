"""How long does a step take, by its number of rows? Measured once at start, in a fraction of a second, with real steps.

The scheduler's policy needs the cost of verifying more rows, not of a longer context: real steps correct that later.
"""

import time
from collections.abc import Iterator

from ..core.plan import NewRequest, Row, StepPlan
from ..types import SamplingParams
from .runner import Runner

_CONTEXT = 16  # committed tokens of each measured request
_REPEATS = 2
_STEP = -1  # no plan of the scheduler has this number
_PARAMS = SamplingParams(max_tokens=1 << 20, temperature=0.0)


def measure(
    runner: Runner,
    *,
    num_blocks: int,
    block_size: int,
    max_num_seqs: int,
    max_num_batched_tokens: int,
    depth: int,
    budget_s: float = 0.8,
) -> list[tuple[int, float]]:
    """(rows, seconds) of steps that verify up to ``depth`` drafts a request, rows rising, the best of a few runs each.

    Widths for which ``budget_s`` may not suffice are left out. ``runner`` holds no request, before and after; the
    blocks it writes are the scheduler's to hand out afterwards.
    """
    most = min(max_num_seqs * (1 + depth), max_num_batched_tokens)
    blocks_each = -(-(_CONTEXT + 1 + depth) // block_size)
    began_s = time.perf_counter()
    costs: dict[int, float] = {}
    for width in _widths(most, depth):
        drafts = _shares(width, depth)
        if len(drafts) * blocks_each > num_blocks or len(drafts) > max_num_seqs:
            continue
        best = min((costs[w] * width / w for w in costs if w <= width), default=0.0)  # at most: cost a row falls
        for _ in range(_REPEATS):
            if budget_s - (time.perf_counter() - began_s) < best:
                break
            best = min(costs.get(width, float("inf")), _time(runner, drafts, blocks_each))
            costs[width] = best
    runner.forget()
    return sorted(costs.items())


def _widths(most: int, depth: int) -> Iterator[int]:
    """Rows to measure, the most telling first: one, one request in full, the widest, then what lies between."""
    wanted = [1, 1 + depth, most]
    width = 2
    while width < most:
        wanted.append(width)
        width *= 2
    seen: set[int] = set()
    for width in wanted:
        if width <= most and width not in seen:
            seen.add(width)
            yield width


def _shares(width: int, depth: int) -> list[int]:
    """Drafts of each request, so that all rows together are ``width``."""
    num = -(-width // (1 + depth))
    rows, more = divmod(width, num)
    return [rows - 1 + (i < more) for i in range(num)]


def _time(runner: Runner, drafts: list[int], blocks_each: int) -> float:
    """Seconds of one step over requests opened for it; their contexts hold zeros or leftovers, which cost the same."""
    runner.forget()
    names = [f"profile-{i}" for i in range(len(drafts))]
    new = [
        NewRequest(name, 0, [0] * _CONTEXT, _CONTEXT, list(range(i * blocks_each, (i + 1) * blocks_each)), _PARAMS)
        for i, name in enumerate(names)
    ]
    runner.run(StepPlan(_STEP, [], new, []))
    rows = [
        Row(name, 0, _CONTEXT - 1, 1, blocks_each, [], True, -1, [0] * num)
        for name, num in zip(names, drafts, strict=True)
    ]
    return runner.run(StepPlan(_STEP, [], [], rows)).elapsed_s
