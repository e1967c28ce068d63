"""What tests and benchmarks of kernels share: backends by op, cases at unkind sizes, how closely backends agree."""

import importlib
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import torch

from . import ops
from .decoder import Decoder, Layer, Product, Rows
from .gguf_blocks import KINDS

TOLERANCES = {torch.float32: (2e-5, 2e-5)}
"""Relative and absolute difference allowed between a backend and its reference, by dtype; none where not listed."""

EXACT = ("rope", "store_kv", "move_kv", "linear_int8", "linear_blocks", "sample", "decoder_layers")
"""Ops whose backends give the reference's very bits."""


class Case(NamedTuple):
    """Arguments of an op. ``make`` draws the same ones anew; in the place of a packed weight is what is packed."""

    name: str
    make: Callable[[], tuple[Any, ...]]


def backends(op: str) -> list[str]:
    """Names of all backends of an op in its folder, the reference first."""
    names = {p.stem for p in (Path(__file__).parent / op).glob("*.py")} - {"__init__", "reference"}
    return ["reference", *sorted(names)]


def call(op: str, backend: str, args: tuple[Any, ...]) -> Any:
    """Run an op on a backend by name, packing the weight first where the op wants it packed."""
    module = importlib.import_module(f"{__package__}.{op}.{backend}")
    if op == "linear_int8":
        x, weight, n, bias = args
        return module.run(x, module.pack(weight), n, bias)
    if op == "linear_blocks":
        x, (blocks, kind), n, bias = args
        return module.run(x, module.pack(blocks, kind), n, bias)
    if op == "decoder_layers":
        x, residual, rows, decoder, first, last = args
        return module.run(module.pack(decoder), rows, x, residual, first, last)
    return module.run(*args)


def cases(op: str) -> Iterator[Case]:
    """The grid of an op: nothing, one, odd sizes, vector tails, views."""
    yield from _GRIDS[op]()


def assert_close(op: str, actual: Any, expected: Any) -> None:
    """Equal bits for ops in ``EXACT``, else within ``TOLERANCES``; tuples and None are compared part by part."""
    if isinstance(expected, tuple | list):
        for a, e in zip(actual, expected, strict=True):
            assert_close(op, a, e)
    elif isinstance(expected, torch.Tensor):
        rtol, atol = (0.0, 0.0) if op in EXACT else TOLERANCES.get(expected.dtype, (0.0, 0.0))
        torch.testing.assert_close(actual, expected, rtol=rtol, atol=atol, equal_nan=True)
    else:
        assert actual == expected


def attention_batch(
    rows: list[tuple[int, int]],
    *,
    q_heads: int,
    k_heads: int,
    head_size: int,
    block_size: int,
    dtype: torch.dtype,
    seed: int = 0,
) -> tuple[torch.Tensor, ...]:
    """q, pages of k and v, block_tables, query_starts, context_lens for rows of (tokens, context); scattered blocks."""
    g = torch.Generator().manual_seed(seed)
    num_blocks = [-(-length // block_size) for _, length in rows]
    total = sum(num_blocks) + 1
    shuffled = (torch.randperm(total, generator=g)).int()
    tables = torch.zeros(len(rows), max(num_blocks, default=0) + 1, dtype=torch.int32)
    at = 0
    for r, n in enumerate(num_blocks):
        tables[r, :n] = shuffled[at : at + n]
        at += n
    tokens = torch.tensor([0, *(n for n, _ in rows)])
    pages = torch.randn(2, total, block_size, k_heads, head_size, generator=g).to(dtype)
    q = torch.randn(int(tokens.sum()), q_heads, head_size, generator=g)
    return q, pages[0], pages[1], tables, tokens.cumsum(0).int(), torch.tensor([n for _, n in rows], dtype=torch.int32)


def _draw(*shape: int, seed: int = 0) -> torch.Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed + 7919 * sum(shape)))


def _rms_norm() -> Iterator[Case]:
    for t, h in ((0, 8), (1, 1), (3, 60), (5, 63), (2, 576), (70, 320)):
        yield Case(f"{t}x{h}", lambda t=t, h=h: (_draw(t, h), _draw(h), 1e-5))
        yield Case(f"{t}x{h}+residual", lambda t=t, h=h: (_draw(t, h), _draw(h), 1e-6, _draw(t, h, seed=1)))


def _rope() -> Iterator[Case]:
    for t, hq, hk, d in ((0, 2, 1, 8), (1, 1, 1, 2), (3, 9, 3, 64), (7, 4, 2, 20), (90, 4, 1, 80)):

        def make(t: int = t, hq: int = hq, hk: int = hk, d: int = d) -> tuple[Any, ...]:
            qkv = _draw(t, hq + 2 * hk, d)  # q and k are views of it, as in a model
            positions = torch.arange(t, dtype=torch.int32) * 3
            return qkv[:, :hq], qkv[:, hq : hq + hk], _draw(3 * t + 1, d), positions

        yield Case(f"{t}x{hq}+{hk}x{d}", make)
        yield Case(f"{t}x{hq}+{hk}x{d} apart", lambda make=make: _apart(make()))


def _apart(args: tuple[Any, ...]) -> tuple[Any, ...]:
    """The same with heads that do not follow one another in memory."""
    q, k, *rest = args
    return (torch.stack([q, q], dim=2)[:, :, 0], torch.stack([k, k], dim=2)[:, :, 1], *rest)


def _store_kv() -> Iterator[Case]:
    for dtype in (torch.float32, torch.bfloat16, torch.float16):
        for t, h, d, block_size in ((0, 1, 4, 4), (1, 1, 1, 1), (5, 3, 64, 16), (33, 2, 20, 7)):

            def make(dtype=dtype, t=t, h=h, d=d, block_size=block_size) -> tuple[Any, ...]:  # type: ignore[no-untyped-def]
                slots = torch.randperm(6 * block_size * 8, generator=torch.Generator().manual_seed(1))[:t].int()
                pages = _draw(2, 6 * 8, block_size, h, d).to(dtype)
                kv = _draw(t, 2 * h, d)
                kv[t // 2 :, 0, 0] = torch.nan
                return kv[:, :h], kv[:, h:], pages[0], pages[1], slots

            yield Case(f"{t}x{h}x{d} {dtype}", make)


def _move_kv() -> Iterator[Case]:
    for dtype in (torch.float32, torch.bfloat16, torch.float16):
        for n, h, d, block_size in ((0, 1, 4, 4), (1, 1, 1, 1), (5, 3, 64, 16), (12, 2, 20, 7)):

            def make(dtype=dtype, n=n, h=h, d=d, block_size=block_size) -> tuple[Any, ...]:  # type: ignore[no-untyped-def]
                shuffled = torch.randperm(6 * block_size, generator=torch.Generator().manual_seed(n))
                slots = shuffled[: n + 1].sort().values.int()  # each source is the next target
                return tuple(_draw(6, block_size, h, d, seed=i).to(dtype) for i in range(5)), slots[1:], slots[:n]

            yield Case(f"{n}x{h}x{d} {dtype}", make)


def _silu_mul() -> Iterator[Case]:
    for t, i in ((0, 4), (1, 1), (3, 60), (5, 63), (40, 1536)):
        yield Case(f"{t}x{i}", lambda t=t, i=i: (_draw(t, 2 * i) * 8,))
    yield Case("far out", lambda: (torch.tensor([[-1e4, -90.0, 0.0, 90.0, 1e4, *(5 * [1.0])]]),))


def _paged_attention() -> Iterator[Case]:
    batches = {
        "nothing": [],
        "one": [(1, 1)],
        "decode": [(1, n) for n in (1, 15, 16, 17, 31, 32, 33, 100)],
        "prefill": [(60, 60), (1, 1), (33, 63)],
        "mixed": [(5, 70), (0, 3), (1, 129), (17, 40)],
    }
    heads = {"gqa": (6, 2, 64), "mha": (3, 3, 16), "mqa": (5, 1, 20), "wide": (2, 1, 128)}
    for name, rows in batches.items():
        for kind, (hq, hk, d) in heads.items():
            for dtype in (torch.float32, torch.bfloat16):
                for window, soft_cap in ((0, 0.0), (20, 0.0), (0, 3.0)):

                    def make(rows=rows, hq=hq, hk=hk, d=d, dtype=dtype, w=window, c=soft_cap) -> tuple[Any, ...]:  # type: ignore[no-untyped-def]
                        made = attention_batch(rows, q_heads=hq, k_heads=hk, head_size=d, block_size=16, dtype=dtype)
                        return (*made, d**-0.5, w, c)

                    if window == 0 or soft_cap == 0.0 or kind == "gqa":
                        yield Case(f"{name} {kind} {dtype} window {window} cap {soft_cap}", make)


_LINEAR_SIZES = [
    *[(2, 16, 32), (5, 50, 64), (7, 33, 100), (8, 48, 60), (3, 576, 576)],
    *[(100, 70, 96), (21, 40, 100), (29, 33, 64)],  # enough tokens for the matrix unit, its last tile not full
]
"""Tokens, outputs and inputs."""


def _linear_int8() -> Iterator[Case]:
    sizes = [(0, 5, 7), (1, 1, 1), *_LINEAR_SIZES]
    for t, n, k in sizes:
        yield Case(f"{t}x{n}x{k}", lambda t=t, n=n, k=k: (_draw(t, k), _draw(n, k), n, None))
        yield Case(f"{t}x{n}x{k}+bias", lambda t=t, n=n, k=k: (_draw(t, k) * 30, _draw(n, k), n, _draw(n)))


def random_blocks(n: int, num_groups: int, kind: str, seed: int = 0) -> torch.Tensor:
    """Random GGUF blocks of one of ``KINDS``, uint8 [n, row bytes], with scales as models have them; whole blocks."""
    known = KINDS[kind]
    g = torch.Generator().manual_seed(seed + 31 * n + num_groups)
    num_blocks = -(-num_groups // known.num_groups)
    blocks = torch.randint(0, 256, (n, num_blocks, known.num_bytes), generator=g, dtype=torch.uint8)
    numbers = (torch.randn(n, num_blocks, 2, generator=g) * 0.01).half()
    if known.num_groups == 8:  # a few scales so small that fp16 has no full precision for them
        numbers[::2] *= 1e-4
    fields = numbers.view(torch.uint8)
    if kind == "Q6_K":
        blocks[..., -2:] = fields[..., :2]
    else:
        size = 2 if kind in ("Q4_0", "Q5_0") else 4
        blocks[..., :size] = fields[..., :size]
    return blocks.flatten(1)


def _linear_blocks() -> Iterator[Case]:
    sizes = [(0, 5, 32), (1, 1, 1), *_LINEAR_SIZES]
    for kind, known in KINDS.items():
        for t, n, k in sizes:
            whole = known.num_groups * 32
            num_blocks = -(-k // whole)
            groups = num_blocks * known.num_groups
            inputs = k if known.num_groups == 1 else num_blocks * whole - 5

            def make(t=t, n=n, k=inputs, groups=groups, kind=kind, bias=False) -> tuple[Any, ...]:  # type: ignore[no-untyped-def]
                return _draw(t, k) * 3, (random_blocks(n, groups, kind), kind), n, _draw(n) if bias else None

            yield Case(f"{t}x{n}x{inputs} {kind}", make)
            yield Case(f"{t}x{n}x{inputs} {kind}+bias", partial(make, bias=True))


def _sample() -> Iterator[Case]:
    for s, v in ((0, 10), (1, 1), (3, 7), (4, 64), (5, 1000), (9, 32003)):

        def make(s: int = s, v: int = v) -> tuple[Any, ...]:
            g = torch.Generator().manual_seed(v)
            temperature = torch.tensor([0.0, 1.0, 0.3, 2.0]).repeat(s)[:s].contiguous()
            seeds = torch.randint(-(2**63), 2**63 - 1, (s,), generator=g)
            positions = torch.randint(0, 2**20, (s,), generator=g)
            logits = torch.randn(s, v, generator=g) * torch.tensor([[1.0], [8.0], [0.0]]).repeat(s, 1)[:s]
            logits[:, 1::3] = -torch.inf
            return logits, temperature, seeds, positions

        yield Case(f"{s}x{v}", make)


def _verify() -> Iterator[Case]:
    shapes = (([], 5, 1), ([0, 0], 7, 2), ([1], 1, 1), ([3, 0, 1, 4], 9, 5), ([2] * 40, 63, 7), ([5], 32003, 64))
    for rule in ("token", "block"):
        for depths, v, m in shapes:

            def make(rule: str = rule, depths: list[int] = depths, v: int = v, m: int = m) -> tuple[Any, ...]:
                g = torch.Generator().manual_seed(v)
                s = len(depths) + sum(depths)
                logits = torch.randn(s, v, generator=g)
                logits[:, 3::4] = -torch.inf
                q_ids = torch.rand(s, v, generator=g).argsort(-1)[:, :m]
                weights = torch.rand(s, m, generator=g)
                weights[:, m // 2 + 1 :] = 0.0  # unused
                drafts = q_ids.gather(1, torch.multinomial(weights, 1, generator=g))[:, 0] if s else q_ids[:, 0]
                sizes = torch.tensor(depths, dtype=torch.int64) + 1
                drafts[sizes.cumsum(0) - 1] = -1
                row = torch.arange(len(depths)).repeat_interleave(sizes)
                positions = torch.arange(s) + 10 * row
                return logits, (row % 3 > 0).float(), row * 17 - 5, positions, drafts, q_ids, weights, rule

            yield Case(f"{rule} {depths[:5]}x{v}/{m}", make)


def decoder_case(
    rows: list[tuple[int, int]],
    *,
    num_layers: int = 3,
    dtype: torch.dtype = torch.float32,
    window: int = 0,
    parents: list[int] | None = None,
) -> tuple[torch.Tensor, torch.Tensor, Rows, Decoder]:
    """x, residual, rows of (tokens, context) and a small decoder of int8 and 4- and 5-bit products, some divided."""
    hidden, inner, hq, hk, d = 36, 44, 4, 2, 10
    _, k, v, tables, starts, lengths = attention_batch(
        rows, q_heads=hq, k_heads=hk, head_size=d, block_size=4, dtype=dtype
    )
    at = [(r, p) for r, (n, length) in enumerate(rows) for p in range(length - n, length)]
    positions = [p for _, p in at]
    slots = [int(tables[r, p // 4]) * 4 + p % 4 for r, p in at]

    def product(n: int, k: int, kind: str, bias: bool = False) -> Product:
        add = _draw(n) if bias else None
        if kind == "int8":
            return Product("linear_int8", ops.pack_int8(_draw(n, k, seed=n) / k**0.5), n, add)
        packed = ops.pack_blocks(random_blocks(n, -(-k // 32), kind), kind)
        return Product("linear_blocks", packed, n, add)

    def layer(i: int) -> Layer:
        kinds = ("int8", "Q4_1") if i % 2 else ("Q5_0", "int8")
        qkv = (product((hq + hk) * d, hidden, kinds[0], True), product(hk * d, hidden, kinds[1], True))
        gate_up = (product(inner, hidden, kinds[0]), product(inner, hidden, kinds[1]))
        output, down = product(hidden, hq * d, kinds[1], i == 0), product(hidden, inner, kinds[0])
        return Layer(qkv, (output,), gate_up if i else (product(2 * inner, hidden, "int8"),), (down,),
                     _draw(hidden, seed=i), _draw(hidden, seed=9 + i))  # fmt: skip

    most = max(positions, default=0) + 1
    layers = [layer(i) for i in range(num_layers)]
    decoder = Decoder(layers, hq, hk, d, inner, 1e-5, window, _draw(most, d))
    made = Rows(
        torch.tensor(positions, dtype=torch.int32), torch.tensor(slots, dtype=torch.int32), tables, starts, lengths,
        None if parents is None else torch.tensor(parents, dtype=torch.int32),
        [k.clone() for _ in layers], [v.clone() for _ in layers],
    )  # fmt: skip
    return _draw(len(positions), hidden), _draw(len(positions), hidden, seed=1), made, decoder


def _decoder_layers() -> Iterator[Case]:
    many = [(1, n) for n in range(1, 12)]
    for name, rows in {"nothing": [], "one": [(1, 1)], "mixed": [(1, 9), (5, 5), (3, 20)], "many": many}.items():
        for dtype in (torch.float32, torch.bfloat16, torch.float16):
            for window, first, last in ((0, 0, 3), (6, 1, 3), (0, 2, 2)):

                def make(rows=rows, dtype=dtype, window=window, first=first, last=last) -> tuple[Any, ...]:  # type: ignore[no-untyped-def]
                    return (*decoder_case(rows, dtype=dtype, window=window), first, last)

                yield Case(f"{name} {dtype} window {window} layers {first}..{last}", make)
    tree = [0, 0, 1, 2, 1, 4]  # the second row's second and fourth token follow its first
    yield Case("tree", lambda: (*decoder_case([(1, 9), (5, 30)], parents=tree), 0, 3))


_GRIDS = {
    "rms_norm": _rms_norm,
    "rope": _rope,
    "store_kv": _store_kv,
    "move_kv": _move_kv,
    "paged_attention": _paged_attention,
    "silu_mul": _silu_mul,
    "linear_int8": _linear_int8,
    "linear_blocks": _linear_blocks,
    "sample": _sample,
    "verify": _verify,
    "decoder_layers": _decoder_layers,
}
