"""Run a Model over one sequence with plain means: every logit, or greedy tokens."""

import json
from pathlib import Path

import torch
from tiny_models import located

from paceline.engine.formats.headers import gguf
from paceline.engine.formats.headers.gguf_config import model_config_from_gguf
from paceline.engine.formats.headers.hf_config import model_config_from_hf
from paceline.engine.nn.load import load_model
from paceline.engine.nn.model import Batch, KVCache, Model
from paceline.engine.types import ModelConfig


def config_of(path: Path) -> ModelConfig:
    """Sizes of a model folder or GGUF file."""
    if path.suffix == ".gguf":
        return model_config_from_gguf(gguf.read_header(path))
    return model_config_from_hf(json.loads((path / "config.json").read_text()))


def load(path: Path, dtype: str = "float32") -> Model:
    """The model of a folder or GGUF file made by ``tiny_models``."""
    return load_model(config_of(path), located(path), dtype=dtype)


def fresh_cache(model: Model, num_tokens: int, block_size: int = 16, dtype: torch.dtype = torch.float32) -> KVCache:
    """Empty pages for one sequence."""
    c = model.config
    shape = (-(-num_tokens // block_size), block_size, c.num_kv_heads, c.head_dim)
    k, v = ([torch.zeros(shape, dtype=dtype) for _ in range(c.num_layers)] for _ in "kv")
    return KVCache(k, v, block_size)


def feed(
    model: Model, cache: KVCache, token_ids: list[int], start: int, layers: dict[int, torch.Tensor] | None = None
) -> torch.Tensor:
    """Compute ``token_ids`` at positions ``start ..`` of the only sequence -> hidden states."""

    def ints(values: list[int]) -> torch.Tensor:
        return torch.tensor(values, dtype=torch.int32)

    end = start + len(token_ids)
    where = ints(list(range(start, end)))
    blocks = ints(list(range(cache.k[0].shape[0]))).view(1, -1)
    return model.forward(
        Batch(ints(token_ids), where, where.clone(), ints([0, len(token_ids)]), ints([end]), blocks), cache, layers
    )


@torch.inference_mode()
def all_logits(model: Model, token_ids: list[int]) -> torch.Tensor:
    """Logits behind every token, computed in one chunk: [T, vocab_size]."""
    return model.logits(feed(model, fresh_cache(model, len(token_ids)), token_ids, 0))


@torch.inference_mode()
def greedy(model: Model, token_ids: list[int], num_tokens: int) -> list[int]:
    """The most likely continuation, token by token."""
    cache = fresh_cache(model, len(token_ids) + num_tokens)
    hidden = feed(model, cache, token_ids, 0)
    out: list[int] = []
    for position in range(len(token_ids), len(token_ids) + num_tokens):
        out.append(int(model.logits(hidden[-1:]).argmax()))
        hidden = feed(model, cache, out[-1:], position)
    return out
