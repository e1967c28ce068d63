"""Time of each CPU op on a model's shapes, with GB/s and GOP/s: ``python -P benchmarks/ops.py --help``.

Figures are the median of rounds that take all cases in turn, so that a slow moment of the machine is spread over them.
"""

import argparse
import statistics
import time
from collections.abc import Callable
from typing import NamedTuple

import torch

from paceline.kernels import dispatch, ops
from paceline.kernels.native import load
from paceline.kernels.testing import attention_batch


class Shape(NamedTuple):
    """Sizes of a decoder: one layer's linears as (outputs, inputs), their repetition, the head, attention heads."""

    layers: int
    linears: list[tuple[int, int]]
    head: tuple[int, int]
    q_heads: int
    k_heads: int
    head_size: int


class Case(NamedTuple):
    """Something to time: what it reads and writes in bytes, and its multiply-adds times two."""

    name: str
    run: Callable[[], object]
    num_bytes: float
    num_ops: float


SHAPES = {
    "smollm2-135m": Shape(30, [(960, 576), (576, 576), (3072, 576), (576, 1536)], (49152, 576), 9, 3, 64),
    "qwen2.5-0.5b": Shape(24, [(1152, 896), (896, 896), (9728, 896), (896, 4864)], (151936, 896), 14, 2, 64),
}


def linear_cases(shape: Shape, rows: list[int]) -> list[Case]:
    """All linears of one step, every layer with weights of its own, as they are met in a model."""
    each = shape.linears * shape.layers + [shape.head]
    packed = [(ops.pack_int8(torch.randn(n, k)), n, k) for n, k in each]
    size = sum(t.numel() * t.element_size() for weights, _, _ in packed for t in weights)
    made: list[Case] = []
    for m in rows:
        inputs = {k: torch.randn(m, k) for _, k in each}

        def step(inputs: dict[int, torch.Tensor] = inputs) -> None:
            for weights, n, k in packed:
                ops.linear_int8(inputs[k], weights, n)

        made.append(Case(f"all linears, M={m}", step, size, 2.0 * m * sum(n * k for n, k in each)))
    return made


def attention_cases(shape: Shape, context: int) -> list[Case]:
    """One layer: decode rows and a prompt chunk over bf16 pages."""
    batches = {"1 row": [(1, context)], "32 rows": [(1, context)] * 32, "chunk of 256": [(256, max(256, context))]}
    made: list[Case] = []
    for name, rows in batches.items():
        args = attention_batch(
            rows,
            q_heads=shape.q_heads,
            k_heads=shape.k_heads,
            head_size=shape.head_size,
            block_size=16,
            dtype=torch.bfloat16,
        )
        seen = sum(n * length - n * (n - 1) // 2 for n, length in rows)
        read = sum(length for _, length in rows) * shape.k_heads * shape.head_size * 4.0
        run = lambda args=args: ops.paged_attention(*args, shape.head_size**-0.5)  # type: ignore[misc]  # noqa: E731
        num_ops = 4.0 * seen * shape.q_heads * shape.head_size
        made.append(Case(f"attention, {name}, context {context}", run, read, num_ops))
    return made


def pointwise_cases(shape: Shape, rows: list[int]) -> list[Case]:
    """Norm, gate, rotation, cache write and sampling at each number of rows."""
    hidden, inner = shape.linears[0][1], shape.linears[3][1]
    hq, hk, d = shape.q_heads, shape.k_heads, shape.head_size
    made: list[Case] = []
    for m in rows:
        x, residual, weight = torch.randn(m, hidden), torch.randn(m, hidden), torch.ones(hidden)
        gate, qkv = torch.randn(m, 2 * inner), torch.randn(m, hq + 2 * hk, d)
        table, at = torch.randn(m, d), torch.arange(m, dtype=torch.int32)
        pages = torch.zeros(2, -(-m // 16), 16, hk, d, dtype=torch.bfloat16)
        logits, ones = torch.randn(min(m, 32), shape.head[0]) * 3, torch.ones(min(m, 32))
        seeds = torch.arange(min(m, 32))
        runs: dict[str, tuple[Callable[[], object], float]] = {
            "rms_norm + residual": (lambda x=x, r=residual, w=weight: ops.rms_norm(x, w, 1e-5, r), 16.0 * m * hidden),
            "silu_mul": (lambda g=gate: ops.silu_mul(g), 12.0 * m * inner),
            "rope": (
                lambda q=qkv, t=table, a=at: ops.rope(q[:, :hq], q[:, hq : hq + hk], t, a),
                8.0 * m * (hq + hk) * d,
            ),
            "store_kv": (
                lambda q=qkv, p=pages, a=at: ops.store_kv(q[:, hq : hq + hk], q[:, hq + hk :], p[0], p[1], a),
                12.0 * m * hk * d,
            ),
            f"sample, {len(ones)} rows": (
                lambda x=logits, o=ones, s=seeds: ops.sample(x, o, s, s),
                4.0 * logits.numel(),
            ),
        }
        made += [Case(f"{name}, M={m}", run, num_bytes, 0.0) for name, (run, num_bytes) in runs.items()]
    return made


def measure(cases: list[Case], rounds: int) -> list[list[float]]:
    """Seconds of each case in each round; one unmeasured round goes first."""
    times: list[list[float]] = [[] for _ in cases]
    for turn in range(rounds + 1):
        for case, taken in zip(cases, times, strict=True):
            start = time.perf_counter()
            case.run()
            if turn:
                taken.append(time.perf_counter() - start)
    return times


def main() -> None:
    parser = argparse.ArgumentParser(description="Time of each CPU op on a model's shapes, with GB/s and GOP/s.")
    parser.add_argument("--model", choices=SHAPES, default="smollm2-135m", help="shapes to use (default %(default)s)")
    parser.add_argument("--rows", default="1,2,4,8,16,32,64,256", help="tokens of a step (default %(default)s)")
    parser.add_argument("--context", type=int, default=512, help="tokens of a context (default %(default)s)")
    parser.add_argument("--threads", type=int, default=0, help="0 = one a core (default)")
    parser.add_argument("--rounds", type=int, default=15, help="measured rounds (default %(default)s)")
    parser.add_argument("--reference", action="store_true", help="hide the native library")
    parser.add_argument("--isa", choices=load.ISAS, default=load.ISAS[-1], help="highest instruction set to use")
    parser.add_argument("--only", default="", help="cases whose name contains this")
    args = parser.parse_args()
    dispatch.configure(native=not args.reference, num_threads=args.threads)
    isa = "" if args.reference or load.why_not("cpu") else f", {load.limit_isa(args.isa)}"
    shape, rows = SHAPES[args.model], [int(r) for r in args.rows.split(",")]
    cases = [*linear_cases(shape, rows), *attention_cases(shape, args.context), *pointwise_cases(shape, [1, 32, 256])]
    cases = [c for c in cases if args.only in c.name]
    backend = dispatch.why()["linear_int8"]
    print(f"{args.model}: {backend}{isa}, {args.threads or 'all'} threads, {args.rounds} rounds\n")
    print(f"{'':42}{'median us':>11}{'least us':>11}{'GB/s':>8}{'GOP/s':>8}")
    for case, taken in zip(cases, measure(cases, args.rounds), strict=True):
        middle = statistics.median(taken)
        speed = f"{case.num_ops / middle / 1e9:8.0f}" if case.num_ops else ""
        print(f"{case.name:42}{middle * 1e6:11.1f}{min(taken) * 1e6:11.1f}{case.num_bytes / middle / 1e9:8.1f}{speed}")


if __name__ == "__main__":
    main()
