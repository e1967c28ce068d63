"""Model: a Llama whose weights come from its own sizes instead of a file. For tests that need no checkpoint."""

import hashlib
from collections.abc import Collection

import torch

from ..nn.load import Loader
from ..types import ModelConfig
from .llama import Decoder, build_decoder

ARCHITECTURES = ("TinyForTesting",)


def build(config: ModelConfig, loader: Loader) -> Decoder:
    """The model with the weights of ``source(config)``."""
    return build_decoder(config, loader, output_bias=False)


def source(config: ModelConfig) -> "RandomWeights":
    """What the loader reads in place of files."""
    return RandomWeights(config)


class RandomWeights:
    """WeightSource of normal random numbers; a tensor depends on its name and shape alone."""

    where = "TinyForTesting"

    def __init__(self, config: ModelConfig) -> None:
        self._shapes = _shapes(config)

    @property
    def names(self) -> Collection[str]:
        return self._shapes.keys()

    def shape(self, name: str) -> tuple[int, ...]:
        return self._shapes[name]

    def read(self, name: str) -> torch.Tensor:
        shape = self._shapes[name]
        seed = int.from_bytes(hashlib.sha256(name.encode()).digest()[:6], "little")
        values = torch.randn(shape, generator=torch.Generator().manual_seed(seed))
        if len(shape) == 1:
            return 1 + 0.1 * values if name.endswith("weight") else 0.1 * values
        # A small embedding beside large layers: else the tied head repeats the token just read.
        return values * (0.25 if "embed" in name else 2 * shape[1] ** -0.5)

    def close(self) -> None:
        """Nothing is held."""


def _shapes(config: ModelConfig) -> dict[str, tuple[int, ...]]:
    hidden, inner = config.hidden_size, config.intermediate_size
    q, kv = config.num_heads * config.head_dim, config.num_kv_heads * config.head_dim
    shapes: dict[str, tuple[int, ...]] = {
        "model.embed_tokens.weight": (config.vocab_size, hidden),
        "model.norm.weight": (hidden,),
    }
    if not config.tie_embeddings:
        shapes["lm_head.weight"] = (config.vocab_size, hidden)
    for layer in range(config.num_layers):
        at = f"model.layers.{layer}."
        for name, rows in (("q", q), ("k", kv), ("v", kv)):
            shapes[f"{at}self_attn.{name}_proj.weight"] = (rows, hidden)
            if config.attention_bias:
                shapes[f"{at}self_attn.{name}_proj.bias"] = (rows,)
        shapes[f"{at}self_attn.o_proj.weight"] = (hidden, q)
        shapes[f"{at}mlp.gate_proj.weight"] = shapes[f"{at}mlp.up_proj.weight"] = (inner, hidden)
        shapes[f"{at}mlp.down_proj.weight"] = (hidden, inner)
        shapes[f"{at}input_layernorm.weight"] = shapes[f"{at}post_attention_layernorm.weight"] = (hidden,)
    return shapes
