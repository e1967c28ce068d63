"""Small heads for small targets, fitted in closed form to texts that the target wrote, in the published layouts.

They are right often enough on those texts that accepted drafts can be asserted, and wrong often enough to be refused.
"""

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file

from paceline.engine.execution.kv_pool import allocate
from paceline.engine.nn.model import Batch, Model

Texts = Sequence[list[int]]


@torch.inference_mode()
def states(model: Model, ids: list[int], layer_ids: Sequence[int] = ()) -> tuple[torch.Tensor, dict[int, torch.Tensor]]:
    """Last hidden states [n, H] of a text, and the residual streams behind so many layers."""
    kv = allocate(model.config, 1, len(ids), torch.bfloat16)

    def ints(values: list[int]) -> torch.Tensor:
        return torch.tensor(values, dtype=torch.int32)

    where = ints(list(range(len(ids))))
    batch = Batch(ints(ids), where, where.clone(), ints([0, len(ids)]), ints([len(ids)]), ints([0]).view(1, 1))
    layers = dict.fromkeys((i - 1 for i in layer_ids), where)
    hidden = model.forward(batch, kv, layers)
    return hidden, {layer + 1: states for layer, states in layers.items()}


def fit(x: torch.Tensor, y: torch.Tensor, ridge: float = 1e-3) -> torch.Tensor:
    """W [outputs, inputs] with x W^T near y."""
    x, y = x.double(), y.double()
    return torch.linalg.solve(x.T @ x + ridge * len(x) * torch.eye(x.shape[1]), x.T @ y).T.float().contiguous()


def one_hot(ids: Sequence[int], size: int) -> torch.Tensor:
    """Rows that are high at ``ids``."""
    return 12.0 * torch.nn.functional.one_hot(torch.tensor(ids), size).float()


def make_medusa(path: Path, model: Model, texts: Texts, num_heads: int = 3, layout: str = "published") -> Path:
    """A folder of Medusa heads: ``published`` (0.0.linear.weight ...) or ``blocks`` (blocks.0.layers.0.weight ...)."""
    hidden, size = model.config.hidden_size, model.config.vocab_size
    seen = [states(model, ids)[0] for ids in texts]
    tensors: dict[str, torch.Tensor] = {}
    for head in range(num_heads):
        shift = 2 + head
        x = torch.cat([rows[: max(0, len(rows) - shift)] for rows in seen])
        # A block that does something: the fit is behind it.
        block = torch.randn(hidden, hidden, generator=torch.Generator().manual_seed(head)) * hidden**-0.5
        bias = torch.full((hidden,), 0.1 * head)
        x = x + torch.nn.functional.silu(x @ block.T + bias)
        out = fit(x, one_hot([i for ids in texts for i in ids[shift:]], size))
        if layout == "published":
            names = f"{head}.0.linear.weight", f"{head}.0.linear.bias", f"{head}.1.weight"
        else:
            names = f"blocks.{head}.layers.0.weight", f"blocks.{head}.layers.0.bias", f"lm_heads.{head}.weight"
        tensors |= dict(zip(names, (block, bias, out), strict=True))
    return write(path, tensors, {"medusa_num_heads": num_heads, "medusa_num_layers": 1})


def make_eagle(path: Path, model: Any, texts: Texts, *, third: bool = False, draft_ids: int = 0) -> Path:
    """An EAGLE-1 folder, or with ``third`` an EAGLE-3 one, whose LM head knows ``draft_ids`` ids where that is not 0.

    The layer's attention and MLP are small and random, so that a wrong position or page shows; ``fc`` is fitted.
    """
    config = model.config
    hidden = config.hidden_size
    layer_ids = [1, 1, config.num_layers] if third else []
    rng = torch.Generator().manual_seed(5)
    inputs = 2 * hidden if third else hidden
    width, kv_width = config.num_heads * config.head_dim, config.num_kv_heads * config.head_dim
    inner = config.intermediate_size
    at = "midlayer" if third else "layers.0"
    shapes = {
        "self_attn.q_proj": (width, inputs), "self_attn.k_proj": (kv_width, inputs),
        "self_attn.v_proj": (kv_width, inputs), "self_attn.o_proj": (hidden, width),
        "mlp.gate_proj": (inner, hidden), "mlp.up_proj": (inner, hidden), "mlp.down_proj": (hidden, inner),
    }  # fmt: skip
    tensors = {
        f"{at}.{name}.weight": torch.randn(shape, generator=rng) * (0.3 if "o_proj" in name or "down" in name else 1)
        * shape[1] ** -0.5
        for name, shape in shapes.items()
    }  # fmt: skip
    tensors[f"{at}.post_attention_layernorm.weight"] = torch.ones(hidden)
    x: list[torch.Tensor] = []
    y: list[torch.Tensor] = []
    targets: list[int] = []
    for ids in texts:
        last, layers = states(model, ids, layer_ids)
        if third:
            x.append(torch.cat([layers[i] for i in layer_ids], 1)[:-2])
        else:
            embedded = model.embed(torch.tensor(ids, dtype=torch.int32))
            x.append(torch.cat((embedded[1:], last[:-1]), 1)[:-1])
            y.append(last[1:-1])
        targets += ids[2:]
    if third:
        vocab_size = draft_ids or config.vocab_size
        known = sorted(set(targets))[:vocab_size]
        known += [i for i in range(config.vocab_size) if i not in set(known)][: vocab_size - len(known)]
        known.sort()
        tensors["fc.weight"] = torch.randn(hidden, 3 * hidden, generator=rng) * hidden**-0.5
        features = torch.cat(x) @ tensors["fc.weight"].T
        normed = features * torch.rsqrt(features.pow(2).mean(-1, keepdim=True) + config.rms_norm_eps)
        places = {token: place for place, token in enumerate(known)}
        kept = [row for row, token in enumerate(targets) if token in places]
        tensors["lm_head.weight"] = fit(normed[kept], one_hot([places[targets[row]] for row in kept], vocab_size))
        tensors |= {name: torch.ones(hidden) for name in ("norm.weight", f"{at}.hidden_norm.weight")}
        tensors[f"{at}.input_layernorm.weight"] = torch.ones(hidden)
        if draft_ids:
            tensors["d2t"] = torch.tensor(known) - torch.arange(vocab_size)
            tensors["t2d"] = torch.tensor([i in places for i in range(config.vocab_size)])
    else:
        tensors["fc.weight"] = fit(torch.cat(x), torch.cat(y))
        tensors["embed_tokens.weight"] = torch.zeros(2, 2)  # never read: the target's is used
    settings: dict[str, Any] = {
        "hidden_size": hidden, "num_attention_heads": config.num_heads, "num_key_value_heads": config.num_kv_heads,
        "head_dim": config.head_dim, "intermediate_size": inner, "rope_theta": config.rope_theta,
        "rms_norm_eps": config.rms_norm_eps,
    }  # fmt: skip
    if third:
        settings["eagle_config"] = {"eagle_aux_hidden_state_layer_ids": layer_ids}
    return write(path, tensors, settings)


def write(path: Path, tensors: dict[str, torch.Tensor], settings: dict[str, Any]) -> Path:
    """A head's folder."""
    path.mkdir(parents=True, exist_ok=True)
    save_file({name: t.contiguous() for name, t in tensors.items()}, path / "model.safetensors")
    (path / "config.json").write_text(json.dumps(settings))
    return path
