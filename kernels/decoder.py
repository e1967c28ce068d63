"""What a run of decoder layers is made of, in plain data: the arguments of ``ops.decoder_layers``."""

from collections.abc import Sequence
from typing import Literal, NamedTuple

import torch


class Product(NamedTuple):
    """A packed matrix, and the op that multiplies with it."""

    op: Literal["linear_int8", "linear_blocks"]
    packed: tuple[torch.Tensor, ...]
    num_outputs: int
    bias: torch.Tensor | None


class Layer(NamedTuple):
    """Pre-norm attention and gated MLP; outputs of a part's products stand side by side."""

    qkv: tuple[Product, ...]
    output: tuple[Product, ...]
    gate_up: tuple[Product, ...]
    down: tuple[Product, ...]
    mlp_norm: torch.Tensor
    """[hidden_size]: between attention and MLP."""
    next_norm: torch.Tensor
    """[hidden_size]: behind the MLP, before the next layer."""


class Decoder(NamedTuple):
    """Layers and what they share."""

    layers: Sequence[Layer]
    num_heads: int
    num_kv_heads: int
    head_size: int
    inner_size: int
    eps: float
    """Of the norms."""
    window: int
    """Of attention; 0 = none."""
    cos_sin: torch.Tensor
    """As in ``ops.rope``."""


class Rows(NamedTuple):
    """A step, as ``ops.paged_attention`` has it; pages by layer, in sequences that do not change from step to step."""

    positions: torch.Tensor
    slots: torch.Tensor
    block_tables: torch.Tensor
    query_starts: torch.Tensor
    context_lens: torch.Tensor
    parents: torch.Tensor | None
    k_pages: Sequence[torch.Tensor]
    v_pages: Sequence[torch.Tensor]
