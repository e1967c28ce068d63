"""All layers of a model in one call, where its quant allows it. Knows no kernel: that is ``ops.decoder_layers``."""

from collections.abc import Sequence
from typing import Protocol

import torch

from ...kernels import ops
from ...kernels.decoder import Decoder, Layer, Rows
from ..types import ModelConfig
from .layers import MLP, Attention, RMSNorm
from .model import Batch, KVCache


class Block(Protocol):
    """One layer; the norm before it belongs to the block before, which adds its output to the residual there."""

    attention: Attention
    mlp_norm: RMSNorm
    mlp: MLP
    next_norm: RMSNorm


class FusedLayers:
    """The layers of ``blocks``, packed."""

    def __init__(self, packed: object, num_layers: int) -> None:
        self._packed = packed
        self._num_layers = num_layers

    def __call__(
        self,
        x: torch.Tensor,
        residual: torch.Tensor,
        batch: Batch,
        kv: KVCache,
        layers: dict[int, torch.Tensor] | None = None,
    ) -> None:
        """x [T, hidden_size], normed for the first layer, becomes the last one's normed output; residual grows.

        ``layers`` as in ``nn.model.Model.forward``.
        """
        rows = Rows(
            batch.positions, batch.slots, batch.block_tables, batch.query_starts, batch.context_lens, batch.parents,
            kv.k, kv.v,
        )  # fmt: skip
        first = 0
        for layer in sorted(layers or ()):
            ops.decoder_layers(self._packed, rows, x, residual, first, layer + 1)
            first = layer + 1
            if layers is not None:
                layers[layer] = residual.clone()
        ops.decoder_layers(self._packed, rows, x, residual, first, self._num_layers)


def fuse(config: ModelConfig, blocks: Sequence[Block]) -> FusedLayers | None:
    """``blocks`` in one call, or None where their quant is none that the op knows, or they lie on no CPU."""
    if not blocks or blocks[0].mlp_norm.weight.device.type != "cpu":
        return None
    layers: list[Layer] = []
    for block in blocks:
        parts = (block.attention.qkv, block.attention.output, block.mlp.gate_up, block.mlp.down)
        qkv, output, gate_up, down = (part.products() for part in parts)
        if qkv is None or output is None or gate_up is None or down is None:
            return None
        layers.append(Layer(qkv, output, gate_up, down, block.mlp_norm.weight, block.next_norm.weight))
    decoder = Decoder(
        layers,
        config.num_heads,
        config.num_kv_heads,
        config.head_dim,
        config.intermediate_size,
        config.rms_norm_eps,
        config.sliding_window or 0,
        blocks[0].attention.cos_sin,
    )
    return FusedLayers(ops.pack_decoder_layers(decoder), len(layers))
