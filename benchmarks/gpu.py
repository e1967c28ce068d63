"""The GPU path on this machine: are the Triton kernels right, how near to the card's limits, and how fast is a model.

    python benchmarks/gpu.py                    # everything, about three minutes on an H100
    python benchmarks/gpu.py --batch 1,8,32 --context 1024 --out gpu.json

Limits are measured in the same run: bytes a second of a copy (read and write counted), operations a second of a bf16
matrix product. Decode is a whole model in bf16 with random weights made on the device, in the shape of Llama 3 8B:
milliseconds of a step, launched op by op and replayed as a CUDA graph, beside the time that reading its weights and KV
takes at the copy's rate.
"""

import argparse
import importlib
import json
import time
from collections.abc import Callable, Collection
from pathlib import Path
from typing import Any

import msgspec
import torch

from paceline.engine.execution.kv_pool import allocate
from paceline.engine.models import llama
from paceline.engine.nn.load import Loader
from paceline.engine.nn.model import Batch, Model
from paceline.engine.quant import none
from paceline.engine.types import ModelConfig
from paceline.kernels import dispatch, testing

OPS = ("rms_norm", "rope", "silu_mul", "store_kv", "sample", "paged_attention")
EXACT = ("sample", "store_kv")
LLAMA_8B = ModelConfig(
    architecture="LlamaForCausalLM", vocab_size=128256, hidden_size=4096, num_layers=32, num_heads=32, num_kv_heads=8,
    head_dim=128, intermediate_size=14336, max_position=8192, rope_theta=500000.0,
)  # fmt: skip
TINY = ModelConfig(
    architecture="LlamaForCausalLM", vocab_size=512, hidden_size=128, num_layers=2, num_heads=4, num_kv_heads=2,
    head_dim=32, intermediate_size=256, max_position=1024,
)  # fmt: skip
BLOCK = 16
Figures = dict[str, Any]


class DeviceWeights:
    """A WeightSource of random numbers made where they are used."""

    where = "random weights"

    def __init__(self, config: ModelConfig, device: str) -> None:
        hidden, inner, q, kv = (
            config.hidden_size, config.intermediate_size, config.num_heads * config.head_dim,
            config.num_kv_heads * config.head_dim,
        )  # fmt: skip
        self._device = device
        self.shapes: dict[str, tuple[int, ...]] = {
            "model.embed_tokens.weight": (config.vocab_size, hidden), "lm_head.weight": (config.vocab_size, hidden),
            "model.norm.weight": (hidden,),
        }  # fmt: skip
        for i in range(config.num_layers):
            at = f"model.layers.{i}"
            self.shapes |= {
                f"{at}.self_attn.q_proj.weight": (q, hidden), f"{at}.self_attn.k_proj.weight": (kv, hidden),
                f"{at}.self_attn.v_proj.weight": (kv, hidden), f"{at}.self_attn.o_proj.weight": (hidden, q),
                f"{at}.mlp.gate_proj.weight": (inner, hidden), f"{at}.mlp.up_proj.weight": (inner, hidden),
                f"{at}.mlp.down_proj.weight": (hidden, inner), f"{at}.input_layernorm.weight": (hidden,),
                f"{at}.post_attention_layernorm.weight": (hidden,),
            }  # fmt: skip

    @property
    def names(self) -> Collection[str]:
        return self.shapes.keys()

    def shape(self, name: str) -> tuple[int, ...]:
        return self.shapes[name]

    def read(self, name: str) -> torch.Tensor:
        shape = self.shapes[name]
        if len(shape) == 1:
            return torch.ones(shape, device=self._device)
        made = torch.Generator(self._device).manual_seed(sum(map(ord, name)))
        return torch.randn(shape, generator=made, device=self._device, dtype=torch.bfloat16) * shape[1] ** -0.5

    def close(self) -> None:
        """Nothing is held."""


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--batch", default="1,8,32", help="requests that decode together, comma separated")
    parser.add_argument("--context", type=int, default=1024, help="tokens of each request's context")
    parser.add_argument("--tiny", action="store_true", help="a small model, to try the script itself")
    parser.add_argument("--out", type=Path, help="write all figures as JSON")
    args = parser.parse_args()
    if not torch.cuda.is_available():
        raise SystemExit("no GPU that torch can use; tests/kernels/test_triton.py checks the kernels without one")
    figures: Figures = {"card": torch.cuda.get_device_name(), "torch": torch.__version__}
    figures["backends"] = dispatch.why("cuda")
    figures["limits"] = limits()
    figures["right"] = {op: check(op) for op in OPS}
    figures["kernels"] = speeds()
    batches = [int(b) for b in args.batch.split(",")]
    copy_gb_s = figures["limits"]["copy_gb_s"]
    figures["decode"] = decode(TINY if args.tiny else LLAMA_8B, batches, args.context, copy_gb_s)
    if args.out:
        args.out.write_text(json.dumps(figures, indent=1))
    tell(figures)


def seconds(run: Callable[[], object], budget_s: float = 0.2) -> float:
    """Median time of a call on the device, with a second-level cache that holds nothing of it."""
    flush = torch.empty(128 << 20, dtype=torch.int8, device="cuda")
    for _ in range(3):
        run()
    times: list[float] = []
    began_s = time.monotonic()
    while len(times) < 10 or (time.monotonic() - began_s < budget_s and len(times) < 200):
        flush.zero_()
        start, end = torch.cuda.Event(enable_timing=True), torch.cuda.Event(enable_timing=True)
        start.record()
        run()
        end.record()
        torch.cuda.synchronize()
        times.append(start.elapsed_time(end) / 1e3)
    return sorted(times)[len(times) // 2]


def limits() -> Figures:
    """GB/s of a copy and TFLOP/s of a bf16 product."""
    source = torch.empty(1 << 30, dtype=torch.int8, device="cuda")
    target = torch.empty_like(source)
    a, b = (torch.randn(8192, 8192, device="cuda", dtype=torch.bfloat16) for _ in range(2))
    copy_s, product_s = seconds(lambda: target.copy_(source)), seconds(lambda: a @ b)
    return {"copy_gb_s": 2 * source.numel() / copy_s / 1e9, "matrix_tflop_s": 2 * 8192**3 / product_s / 1e12}


def check(op: str) -> Figures:
    """Cases over the op's whole grid, and the largest difference from the reference."""
    worst, num = 0.0, 0
    for case in testing.cases(op):
        law = case.make()
        ours = tuple(x.cuda() if isinstance(x, torch.Tensor) else x for x in case.make())
        result = importlib.import_module(f"paceline.kernels.{op}.triton").run(*ours)
        expected = testing.call(op, "reference", law)
        for got, want in zip((result, *ours), (expected, *law), strict=True):
            if isinstance(want, torch.Tensor) and want.numel():
                gap = (got.cpu().double() - want.double()).nan_to_num().abs() / (1 + want.double().nan_to_num().abs())
                worst = max(worst, float(gap.max()))
        num += 1
    return {"cases": num, "worst": worst, "is_right": worst <= (0.0 if op in EXACT else 1e-4)}


def speeds() -> list[Figures]:
    """Each kernel on Llama 3 8B's sizes, bf16, beside the bytes that it must move."""
    c, lines = LLAMA_8B, []

    def add(name: str, num_bytes: float, run: Callable[[], object]) -> None:
        taken_s = seconds(run)
        lines.append({"name": name, "us": taken_s * 1e6, "gb_s": num_bytes / taken_s / 1e9})

    def backend(op: str) -> Callable[..., Any]:
        return importlib.import_module(f"paceline.kernels.{op}.triton").run

    def draw(*shape: int) -> torch.Tensor:
        return torch.randn(*shape, device="cuda", dtype=torch.bfloat16)

    for t in (32, 4096):
        args = (draw(t, c.hidden_size), torch.ones(c.hidden_size, device="cuda"), 1e-5, draw(t, c.hidden_size))
        add(f"rms_norm + residual, {t} tokens", 8 * args[0].numel(), lambda args=args: backend("rms_norm")(*args))
        gate = draw(t, 2 * c.intermediate_size)
        add(f"silu_mul, {t} tokens", 3 * gate.numel(), lambda gate=gate: backend("silu_mul")(gate))
    for rows, context in ((1, 1024), (1, 8192), (32, 1024), (32, 4096), (128, 1024)):
        batch = rows_of(c, rows, context)
        kv = allocate(one_layer(c), rows * -(-context // BLOCK), BLOCK, torch.bfloat16, torch.device("cuda"))
        q = draw(rows, c.num_heads, c.head_dim)
        num_bytes = rows * context * c.num_kv_heads * c.head_dim * 4
        add(
            f"paged_attention, {rows} rows of {context}", num_bytes,
            lambda q=q, kv=kv, b=batch: backend("paged_attention")(
                q, kv.k[0], kv.v[0], b.block_tables, b.query_starts, b.context_lens, c.head_dim**-0.5
            ),
        )  # fmt: skip
    logits = torch.randn(32, c.vocab_size, device="cuda")
    ones, keys = torch.ones(32, device="cuda"), torch.arange(32, device="cuda")
    add("sample, 32 rows", 4 * logits.numel(), lambda: backend("sample")(logits, ones, keys, keys))
    return lines


def one_layer(config: ModelConfig) -> ModelConfig:
    return msgspec.structs.replace(config, num_layers=1)


def rows_of(config: ModelConfig, num_rows: int, context: int) -> Batch:
    """A step in which each row decodes the last token of its context."""
    blocks = -(-context // BLOCK)
    tables = torch.arange(num_rows * blocks, dtype=torch.int32).view(num_rows, blocks)

    def ints(values: torch.Tensor) -> torch.Tensor:
        return values.to(torch.int32).cuda()

    slots = tables[:, -1].long() * BLOCK + (context - 1) % BLOCK
    ids = torch.arange(num_rows) % config.vocab_size
    position = torch.full((num_rows,), context - 1)
    starts = torch.arange(num_rows + 1)
    return Batch(ints(ids), ints(position), ints(slots), ints(starts), ints(position + 1), ints(tables))


@torch.inference_mode()
def decode(config: ModelConfig, batches: list[int], context: int, copy_gb_s: float) -> list[Figures]:
    """Steps of a whole model, head included, greedy."""
    with Loader(DeviceWeights(config, "cuda"), none, "bfloat16", torch.device("cuda")) as loader:
        model: Model = llama.build(config, loader)
    shapes = DeviceWeights(config, "cuda").shapes
    num_weights = sum(shape[0] * shape[1] for name, shape in shapes.items() if len(shape) == 2 and "embed" not in name)
    lines: list[Figures] = []
    for num_rows in batches:
        kv = allocate(config, num_rows * -(-context // BLOCK), BLOCK, torch.bfloat16, torch.device("cuda"))
        batch = rows_of(config, num_rows, context)

        def step(batch: Batch = batch, kv: Any = kv) -> torch.Tensor:
            return model.logits(model.forward(batch, kv)).argmax(-1)

        eager_s = seconds(step)
        graph = torch.cuda.CUDAGraph()
        with torch.cuda.graph(graph):
            step()
        graph_s = seconds(graph.replay)
        num_bytes = 2 * num_weights + num_rows * context * config.kv_bytes_per_token(2)
        floor_s = num_bytes / copy_gb_s / 1e9
        line: Figures = {"rows": num_rows, "context": context, "eager_ms": eager_s * 1e3, "graph_ms": graph_s * 1e3}
        lines.append({**line, "floor_ms": floor_s * 1e3, "share": floor_s / graph_s, "tok_s": num_rows / graph_s})
        del kv
    return lines


def tell(figures: Figures) -> None:
    limit = figures["limits"]
    print(f"{figures['card']}, torch {figures['torch']}: copy {limit['copy_gb_s']:.0f} GB/s, bf16 product", end=" ")
    print(f"{limit['matrix_tflop_s']:.0f} TFLOP/s")
    for op, line in figures["right"].items():
        verdict = "right" if line["is_right"] else "WRONG"
        print(f"{op:16s} {verdict}: {line['cases']} cases, worst difference {line['worst']:.2g}")
    for line in figures["kernels"]:
        share = line["gb_s"] / limit["copy_gb_s"]
        print(f"{line['name']:36s} {line['us']:8.1f} us  {line['gb_s']:6.0f} GB/s  {share:4.0%} of a copy")
    for line in figures["decode"]:
        print(f"decode, {line['rows']:3d} rows of {line['context']}: {line['eager_ms']:6.2f} ms op by op,", end=" ")
        print(f"{line['graph_ms']:6.2f} ms as a graph, floor {line['floor_ms']:.2f} ms: {line['share']:.0%},", end=" ")
        print(f"{line['tok_s']:.0f} tok/s")


if __name__ == "__main__":
    main()
