"""Speed of the quantised linears beside what this machine can do at best: ``python -P benchmarks/kernels.py --help``.

The linears of a whole step are taken one after another, every layer with weights of its own, so that at few rows
weights come from memory. Ceilings (reading memory once, and the dot-product instruction by itself) are measured in
every round, in turn with the linears and on as many threads; figures are medians over the rounds, and shares are of
the ceilings of this run.
"""

import argparse
import statistics
import time
from collections.abc import Callable
from typing import NamedTuple

import torch

from paceline.kernels import dispatch, ops, testing
from paceline.kernels.native import load

READ_BYTES = 256 << 20
DOT_TURNS = 1 << 20


class Shape(NamedTuple):
    """A decoder's linears: layers, one layer's as (outputs, inputs), and the head, which is int8 in common files."""

    layers: int
    linears: list[tuple[int, int]]
    head: tuple[int, int]


class Case(NamedTuple):
    """Something to time: the bytes of its weights and its multiply-adds times two."""

    name: str
    run: Callable[[], object]
    num_bytes: float
    num_ops: float


SHAPES = {
    "smollm2-135m": Shape(30, [(960, 576), (576, 576), (3072, 576), (576, 1536)], (49152, 576)),
    "qwen2.5-0.5b": Shape(24, [(1152, 896), (896, 896), (9728, 896), (896, 4864)], (151936, 896)),
    "qwen2.5-1.5b": Shape(28, [(2048, 1536), (1536, 1536), (17920, 1536), (1536, 8960)], (151936, 1536)),
}
_LINEARS = {"Q4_1": ops.linear_blocks, "Q5_0": ops.linear_blocks, "Q6_K": ops.linear_blocks, "int8": ops.linear_int8}
"""Kinds of weights: a GGUF file's blocks, and int8."""


def packed(quant: str, n: int, k: int) -> tuple[torch.Tensor, ...]:
    """A random matrix [n, k] as the quant has it in memory."""
    if quant == "int8":
        return ops.pack_int8(torch.randn(n, k))
    groups = -(-k // 32)  # of which a kind may keep eight in a block, and then the row ends early
    return tuple(t[:, :groups].contiguous() for t in ops.pack_blocks(testing.random_blocks(n, groups, quant), quant))


def linear_cases(quant: str, name: str, sizes: list[tuple[int, int]], rows: list[int]) -> list[Case]:
    """The same weights at each number of rows."""
    weights = [(packed(quant, n, k), n, k) for n, k in sizes]
    multiply = _LINEARS[quant]
    num_bytes = sum(tensor.nbytes for tensors, _, _ in weights for tensor in tensors)
    made: list[Case] = []
    for m in rows:
        inputs = {k: torch.randn(m, k) for _, k in sizes}

        def step(inputs: dict[int, torch.Tensor] = inputs) -> None:
            for tensors, n, k in weights:
                multiply(inputs[k], tensors, n)

        made.append(Case(f"{name} {quant}, M={m}", step, num_bytes, 2.0 * m * sum(n * k for n, k in sizes)))
    return made


def ceiling_cases() -> list[Case]:
    """Reading memory once, and dot products that touch none."""
    data = torch.ones(READ_BYTES, dtype=torch.uint8)
    read, dot = load.function("pl_ceiling_read"), load.function("pl_ceiling_dot")
    return [
        Case("ceiling: read", lambda: read(data.data_ptr(), data.numel()), READ_BYTES, 0.0),
        Case("ceiling: dot products", lambda: dot(DOT_TURNS), 0.0, 2.0 * DOT_TURNS * dot(1)),
    ]


def measure(cases: list[Case], rounds: int) -> list[list[float]]:
    """Seconds of each case in each round, all cases in turn; one unmeasured round goes first."""
    times: list[list[float]] = [[] for _ in cases]
    for turn in range(rounds + 1):
        for case, taken in zip(cases, times, strict=True):
            start = time.perf_counter()
            case.run()
            if turn:
                taken.append(time.perf_counter() - start)
    return times


def report(cases: list[Case], times: list[list[float]]) -> list[str]:
    """One line a case, the ceilings (the first two cases) first."""
    middles = [statistics.median(taken) for taken in times]
    most_bytes = cases[0].num_bytes / middles[0]
    most_ops = cases[1].num_ops / middles[1]
    lines = [f"{'':32}{'median ms':>10}{'least ms':>10}{'GB/s':>8}{'share':>7}{'GOP/s':>8}{'share':>7}"]
    for case, taken, middle in zip(cases, times, middles, strict=True):
        line = f"{case.name:32}{middle * 1e3:10.3f}{min(taken) * 1e3:10.3f}"
        for amount, most in ((case.num_bytes, most_bytes), (case.num_ops, most_ops)):
            line += f"{amount / middle / 1e9:8.1f}{amount / middle / most:7.0%}" if amount and most else f"{'':15}"
        lines.append(line.rstrip())
    return lines


def main() -> None:
    parser = argparse.ArgumentParser(description="Speed of the quantised linears beside the machine's ceilings.")
    parser.add_argument("--model", choices=SHAPES, default="smollm2-135m", help="shapes to use (default %(default)s)")
    parser.add_argument("--layers", type=int, default=0, help="use fewer layers, where memory is short")
    parser.add_argument("--rows", default="1,2,4,5,8,16,32,256", help="tokens of a step (default %(default)s)")
    parser.add_argument("--kinds", default="Q4_1,int8", help=f"of {', '.join(_LINEARS)} (default %(default)s)")
    parser.add_argument("--threads", type=int, default=0, help="0 = one a core (default)")
    parser.add_argument("--rounds", type=int, default=15, help="measured rounds (default %(default)s)")
    parser.add_argument("--isa", choices=load.ISAS, default=load.ISAS[-1], help="highest instruction set to use")
    args = parser.parse_args()
    if reason := load.why_not("cpu"):
        parser.exit(1, f"{reason}\n")
    dispatch.configure(num_threads=args.threads)
    isa = load.limit_isa(args.isa)
    shape, rows = SHAPES[args.model], [int(r) for r in args.rows.split(",")]
    sizes = shape.linears * (args.layers or shape.layers)
    cases = ceiling_cases()
    for quant in args.kinds.split(","):
        if quant not in _LINEARS:
            parser.error(f"no kind {quant!r}; use some of {', '.join(_LINEARS)}")
        cases += linear_cases(quant, "layers", sizes, rows)
    cases += linear_cases("int8", "head", [shape.head], rows)
    print(f"{args.model}: {isa}, {args.threads or 'all'} threads, {args.rounds} rounds\n")
    print("\n".join(report(cases, measure(cases, args.rounds))))


if __name__ == "__main__":
    main()
