"""What model files are written with. Each call is a kernel call and as little Python around it as can be.

T tokens of a step, packed end to end. Activations are fp32 on a CPU. A layer holds its weights and nothing of a batch.
Knows no file and no quant: those were settled when the loader made the ``Weight``.
"""

import math
from collections.abc import Callable
from dataclasses import dataclass

import torch

from ...kernels import ops
from ...kernels.decoder import Product
from ..types import ModelConfig, RopeScaling
from .model import Batch
from .weights import Weight


class Linear:
    """x [T, num_inputs] -> [T, num_outputs], plus bias; outputs of several weights stand side by side."""

    __slots__ = ("_bias", "_multiply", "_num_outputs", "_op", "_others", "_tensors")

    def __init__(self, weight: Weight, bias: torch.Tensor | None = None, *others: Weight) -> None:
        # Looked up once here rather than 4 times a layer and step.
        self._multiply = weight.quant.linear
        self._op = getattr(weight.quant, "OP", None)
        self._tensors = weight.tensors
        self._num_outputs = weight.num_outputs
        self._bias = bias if bias is None else bias[: weight.num_outputs]
        rest = bias if bias is None else bias[weight.num_outputs :]
        self._others = Linear(others[0], rest, *others[1:]) if others else None

    def __call__(self, x: torch.Tensor) -> torch.Tensor:
        y = self._multiply(x, self._tensors, self._num_outputs, self._bias)
        return y if self._others is None else torch.cat((y, self._others(x)), 1)

    def products(self) -> tuple[Product, ...] | None:
        """The same as plain data for ``ops.decoder_layers``; None where a quant multiplies by no op of its own."""
        if self._op is None:
            return None
        own = Product(self._op, self._tensors, self._num_outputs, self._bias)
        others = self._others.products() if self._others is not None else ()
        return None if others is None else (own, *others)


@dataclass(slots=True)
class Embedding:
    """Token ids int32 [T] -> rows of ``table`` [vocab_size, hidden_size], as ``dtype``.

    With ``decode`` the table holds the rows as the file stores them, uint8 [vocab_size, row bytes], and numbers are
    made of those that are looked up.
    """

    table: torch.Tensor
    dtype: torch.dtype
    decode: Callable[[torch.Tensor], torch.Tensor] | None = None

    def __call__(self, token_ids: torch.Tensor) -> torch.Tensor:
        rows = self.table.index_select(0, token_ids)
        return (rows if self.decode is None else self.decode(rows)).to(self.dtype)


@dataclass(slots=True)
class RMSNorm:
    """x [T, hidden_size] -> normed; with ``residual``, which first takes x in place, the sum is normed."""

    weight: torch.Tensor
    eps: float

    def __call__(self, x: torch.Tensor, residual: torch.Tensor | None = None) -> torch.Tensor:
        return ops.rms_norm(x, self.weight, self.eps, residual)


class Attention:
    """Causal self-attention over the paged cache, q, k and v from one product; grouped queries; optional window."""

    __slots__ = ("_num_heads", "_scale", "_split", "_width", "_window", "cos_sin", "output", "qkv")

    def __init__(self, config: ModelConfig, qkv: Linear, output: Linear, cos_sin: torch.Tensor) -> None:
        self.qkv = qkv
        self.output = output
        self.cos_sin = cos_sin
        self._split = [config.num_heads, config.num_kv_heads, config.num_kv_heads]
        self._num_heads = sum(self._split)
        self._width = config.num_heads * config.head_dim
        self._scale = config.head_dim**-0.5
        self._window = config.sliding_window or 0

    def __call__(self, x: torch.Tensor, batch: Batch, k_pages: torch.Tensor, v_pages: torch.Tensor) -> torch.Tensor:
        """x [T, hidden_size] -> [T, hidden_size]; writes K and V of the T tokens into the pages."""
        heads = self.qkv(x).view(x.shape[0], self._num_heads, -1)
        q, k, v = heads.split(self._split, 1)
        ops.rope(q, k, self.cos_sin, batch.positions)
        ops.store_kv(k, v, k_pages, v_pages, batch.slots)
        y = ops.paged_attention(
            q, k_pages, v_pages, batch.block_tables, batch.query_starts, batch.context_lens, self._scale, self._window,
            parents=batch.parents,
        )  # fmt: skip
        return self.output(y.view(-1, self._width).to(x.dtype))


@dataclass(slots=True)
class MLP:
    """Gated feed-forward, gate and up from one product: down(silu(gate) * up)."""

    gate_up: Linear
    down: Linear

    def __call__(self, x: torch.Tensor) -> torch.Tensor:
        return self.down(ops.silu_mul(self.gate_up(x)))


def rope_table(config: ModelConfig, divisors: torch.Tensor | None = None) -> torch.Tensor:
    """Cosines, then sines, of every position: fp32 [max_position, head_dim].

    ``divisors`` [head_dim / 2], where a checkpoint brings them, divide the frequencies (Llama 3 models as GGUF).
    Frequencies and angles are rounded to fp32 as ``transformers`` does it, since models are judged by that.
    """
    half = torch.arange(0, config.head_dim, 2, dtype=torch.float32)
    frequencies = 1.0 / config.rope_theta ** (half / config.head_dim)
    if config.rope_scaling is not None:
        frequencies = _scale_frequencies(frequencies, config.rope_scaling)
    if divisors is not None:
        frequencies = frequencies / divisors
    angles = torch.outer(torch.arange(config.max_position, dtype=torch.float32), frequencies)
    return torch.cat((angles.cos(), angles.sin()), dim=1)


def _scale_frequencies(frequencies: torch.Tensor, scaling: RopeScaling) -> torch.Tensor:
    """Linear: all divided. llama3: slow ones divided, fast ones kept, a ramp between (Llama 3.1's reference code)."""
    if scaling.kind == "linear":
        return frequencies / scaling.factor
    turns = scaling.original_max_position * frequencies / (2 * math.pi)
    smooth = (turns - scaling.low_freq_factor) / (scaling.high_freq_factor - scaling.low_freq_factor)
    smooth = smooth.clamp(0, 1)
    return (1 - smooth) * frequencies / scaling.factor + smooth * frequencies
