"""EAGLE's network: one decoder layer that guesses the target's next hidden state, and from it the next token.

Entry i of a request joins the embedding of token i + 1 with the feature of position i; its output stands for the
feature of position i + 1, from which token i + 2 is read. Two published shapes, told apart by their tensors::

    EAGLE-1 (arXiv 2401.15077)   feature = the target's hidden state behind its final norm
        fc.weight [H, 2H], layers.0.*; logits by the target's own LM head
    EAGLE-3 (arXiv 2503.01840)   feature = fc(three layers' hidden states); later ones are the layer's own output
        fc.weight [H, 3H], midlayer.* (or layers.0.*) with hidden_norm.weight and q, k, v over 2H,
        norm.weight, lm_head.weight [draft ids, H], d2t: draft id + d2t[draft id] = the target's id

The embedding is always the target's: heads are trained with it frozen.
"""

import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import msgspec
import torch

from ...engine.errors import ConfigError
from ...engine.nn.layers import MLP, Attention, Linear, RMSNorm, rope_table
from ...engine.nn.load import Loader
from ...engine.nn.model import Batch, KVCache
from ...engine.types import ModelConfig
from .files import UNUSED, HeadFiles

_PREFIX = re.compile(r"^(model\.)?(ea_layer\.)?")
_LAYER = re.compile(r"^(midlayer|layers\.0)\.")
_TENSOR = re.compile(
    r"^(fc|norm|lm_head|layer\.(input_layernorm|hidden_norm|post_attention_layernorm)|layer\.self_attn\.[qkvo]_proj"
    r"|layer\.mlp\.(gate|up|down)_proj)\.(weight|bias)$|^d2t$"
)
_UNUSED = ("embed_tokens.weight", "t2d")


def rename(name: str) -> str | None:
    """A published name -> ours, in which the layer is called ``layer``."""
    bare = _PREFIX.sub("", name)
    if bare in _UNUSED or bare.endswith(".rotary_emb.inv_freq"):
        return UNUSED
    ours = _LAYER.sub("layer.", bare)
    return ours if _TENSOR.match(ours) else None


@dataclass(slots=True)
class EagleNet:
    """The layer and what stands around it."""

    config: ModelConfig
    """Of the one layer; ``vocab_size`` is the target's."""
    layer_ids: tuple[int, ...]
    """Feature layers, as published: i = the residual stream behind the first i layers, i > 0. () = the target's last
    hidden state."""
    fc: Linear
    attention: Attention
    embedding_norm: RMSNorm | None
    feature_norm: RMSNorm | None
    """EAGLE-3's own; without it ``fc`` joins embedding and feature."""
    mlp_norm: RMSNorm
    mlp: MLP
    head_norm: RMSNorm | None
    head: Linear | None
    """None = the target's."""
    ids: torch.Tensor | None
    """int64 [draft ids]: the target's id of each; None = the same."""

    def features(self, hidden: torch.Tensor, layers: Sequence[torch.Tensor]) -> torch.Tensor:
        """Last hidden states [n, H] and those of ``layer_ids`` [n, H] each -> features [n, H]."""
        return self.fc(torch.cat(list(layers), 1)) if self.layer_ids else hidden

    def __call__(self, embedded: torch.Tensor, features: torch.Tensor, batch: Batch, kv: KVCache) -> torch.Tensor:
        """Entries [T, H] -> their outputs [T, H], features of the next positions; writes K and V."""
        if self.feature_norm is not None and self.embedding_norm is not None:
            residual = features.clone()
            x = torch.cat((self.embedding_norm(embedded), self.feature_norm(features)), 1)
        else:
            residual = self.fc(torch.cat((embedded, features), 1))
            x = residual.clone() if self.embedding_norm is None else self.embedding_norm(residual)
        x = self.attention(x, batch, kv.k[0], kv.v[0])
        x = self.mlp_norm(x, residual)
        return self.mlp(x) + residual

    def logits(self, outputs: torch.Tensor, target_logits: Callable[[torch.Tensor], torch.Tensor]) -> torch.Tensor:
        """fp32 [S, vocab_size], ids that it does not know at -inf; ``target_logits``: the target's LM head."""
        x = outputs if self.head_norm is None else self.head_norm(outputs)
        if self.head is None:
            return target_logits(x)
        logits = self.head(x).float()
        if self.ids is None:
            return logits
        whole = torch.full((len(x), self.config.vocab_size), -torch.inf, device=x.device)
        return whole.index_copy_(1, self.ids, logits)


def read(files: HeadFiles, loader: Loader, target: ModelConfig, layer_ids: Sequence[int]) -> EagleNet:
    """The head in memory. ``layer_ids``: EAGLE-3's feature layers; () = those the file or the paper names.

    Raises:
        ConfigError: it is incomplete, or was trained for another target.
    """
    hidden = target.hidden_size
    is_third = "layer.hidden_norm.weight" in files.names
    config = _config(files, target)
    why = f"a target of hidden size {hidden} and {target.vocab_size} ids"
    layers = _layer_ids(files, target, layer_ids) if is_third else ()
    files.expect("fc.weight", (hidden, (len(layers) if is_third else 2) * hidden), why)
    _expect_layer(files, config, 2 * hidden if is_third else hidden)
    head, ids = _head(files, loader, config, why) if is_third else (None, None)

    def norm(name: str) -> RMSNorm | None:
        name = f"{name}.weight"
        if name not in files.names:
            return None
        files.expect(name, (hidden,), why)
        return RMSNorm(loader.vector(name, hidden), config.rms_norm_eps)

    mlp_norm = norm("layer.post_attention_layernorm")
    assert mlp_norm is not None, "checked with the layer"
    width, kv_width = config.num_heads * config.head_dim, config.num_kv_heads * config.head_dim
    inner = config.intermediate_size
    at = "layer.self_attn"
    qkv = {f"{at}.q_proj": width, f"{at}.k_proj": kv_width, f"{at}.v_proj": kv_width}
    gate_up = loader.linear({"layer.mlp.gate_proj": inner, "layer.mlp.up_proj": inner}, hidden)
    return EagleNet(
        config=config,
        layer_ids=layers,
        fc=loader.linear(
            {"fc": hidden}, (len(layers) if is_third else 2) * hidden, bias="fc.bias" in files.names
        ),
        attention=Attention(
            config,
            loader.linear(qkv, 2 * hidden if is_third else hidden, bias=config.attention_bias),
            loader.linear({f"{at}.o_proj": hidden}, width),
            loader.place(rope_table(config)),
        ),
        embedding_norm=norm("layer.input_layernorm"),
        feature_norm=norm("layer.hidden_norm"),
        mlp_norm=mlp_norm,
        mlp=MLP(gate_up, loader.linear({"layer.mlp.down_proj": hidden}, inner)),
        head_norm=norm("norm") if is_third else None,
        head=head,
        ids=ids,
    )


def _config(files: HeadFiles, target: ModelConfig) -> ModelConfig:
    """The layer's sizes; what config.json leaves out is the target's."""
    hidden = files.size("hidden_size", default=target.hidden_size)
    if hidden != target.hidden_size:
        raise ConfigError(
            f"{files.where}/config.json: hidden_size = {hidden}, the target's is {target.hidden_size}; "
            "use a head that was trained for this target"
        )
    num_heads = files.size("num_attention_heads", default=target.num_heads)
    return msgspec.structs.replace(
        target,
        num_layers=1,
        num_heads=num_heads,
        num_kv_heads=files.size("num_key_value_heads", default=num_heads, most=num_heads),
        head_dim=files.size("head_dim", default=hidden // num_heads),
        intermediate_size=files.size("intermediate_size", default=target.intermediate_size),
        rms_norm_eps=files.number("rms_norm_eps", target.rms_norm_eps),
        rope_theta=files.number("rope_theta", target.rope_theta),
        rope_scaling=target.rope_scaling if files.settings.get("rope_scaling") else None,
        attention_bias="layer.self_attn.q_proj.bias" in files.names,
        sliding_window=None,
    )


def _layer_ids(files: HeadFiles, target: ModelConfig, asked: Sequence[int]) -> tuple[int, ...]:
    """Low, middle and high, as the EAGLE-3 code takes them where nothing else is said."""
    named = files.settings.get("eagle_config")
    told = named.get("eagle_aux_hidden_state_layer_ids") if isinstance(named, dict) else None
    count = target.num_layers
    found = list(asked) or told or [min(2, count), max(1, count // 2), max(1, count - 3)]
    if not isinstance(found, list) or not all(isinstance(i, int) and 1 <= i <= count for i in found):
        raise ConfigError(f"{files.where}: feature layers {found!r} are not all of 1 to {count}; set layer_ids")
    return tuple(found)


def _expect_layer(files: HeadFiles, config: ModelConfig, num_inputs: int) -> None:
    hidden, inner = config.hidden_size, config.intermediate_size
    width, kv_width = config.num_heads * config.head_dim, config.num_kv_heads * config.head_dim
    why = f"{files.where}/config.json"
    shapes = {
        "post_attention_layernorm": (hidden,),
        "self_attn.q_proj": (width, num_inputs),
        "self_attn.k_proj": (kv_width, num_inputs),
        "self_attn.v_proj": (kv_width, num_inputs),
        "self_attn.o_proj": (hidden, width),
        "mlp.gate_proj": (inner, hidden),
        "mlp.up_proj": (inner, hidden),
        "mlp.down_proj": (hidden, inner),
    }
    for name, shape in shapes.items():
        files.expect(f"layer.{name}.weight", shape, why)


def _head(
    files: HeadFiles, loader: Loader, config: ModelConfig, why: str
) -> tuple[Linear | None, torch.Tensor | None]:
    """EAGLE-3's own LM head, and the target's id of each of its outputs."""
    if "lm_head.weight" not in files.names:
        return None, None
    num_ids = files.shape("lm_head.weight")[0]
    files.expect("lm_head.weight", (num_ids, config.hidden_size), why)
    head = loader.linear({"lm_head": num_ids}, config.hidden_size)
    if "d2t" not in files.names:
        files.expect("lm_head.weight", (config.vocab_size, config.hidden_size), f"{why}, without d2t,")
        return head, None
    files.expect("d2t", (num_ids,), "lm_head.weight")
    ids = torch.arange(num_ids) + files.integers("d2t")
    if int(ids.min()) < 0 or int(ids.max()) >= config.vocab_size or len(ids.unique()) < num_ids:
        raise ConfigError(
            f"{files.where}: tensor 'd2t' leads to ids {int(ids.min())}..{int(ids.max())} of a target with "
            f"{config.vocab_size}, or twice to one; use a head that was trained for this target"
        )
    return head, loader.place(ids)
