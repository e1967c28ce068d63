"""A run of decoder layers, op by op."""

import torch

from .. import ops
from ..decoder import Decoder, Product, Rows


def pack(decoder: Decoder) -> Decoder:
    """As it is."""
    return decoder


def run(packed: Decoder, rows: Rows, x: torch.Tensor, residual: torch.Tensor, first: int, last: int) -> None:
    """See ``ops.decoder_layers``."""
    split = [packed.num_heads, packed.num_kv_heads, packed.num_kv_heads]
    for i in range(first, last):
        layer = packed.layers[i]
        heads = _multiply(layer.qkv, x).view(x.shape[0], sum(split), packed.head_size)
        q, k, v = heads.split(split, 1)
        ops.rope(q, k, packed.cos_sin, rows.positions)
        ops.store_kv(k, v, rows.k_pages[i], rows.v_pages[i], rows.slots)
        attended = ops.paged_attention(
            q, rows.k_pages[i], rows.v_pages[i], rows.block_tables, rows.query_starts, rows.context_lens,
            packed.head_size**-0.5, packed.window, parents=rows.parents,
        )  # fmt: skip
        added = _multiply(layer.output, attended.view(-1, packed.num_heads * packed.head_size))
        normed = ops.rms_norm(added, layer.mlp_norm, packed.eps, residual)
        added = _multiply(layer.down, ops.silu_mul(_multiply(layer.gate_up, normed)))
        x.copy_(ops.rms_norm(added, layer.next_norm, packed.eps, residual))


def _multiply(products: tuple[Product, ...], x: torch.Tensor) -> torch.Tensor:
    parts = [getattr(ops, p.op)(x, p.packed, p.num_outputs, p.bias) for p in products]
    return parts[0] if len(parts) == 1 else torch.cat(parts, 1)
