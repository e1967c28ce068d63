"""Model: Llama and what is built like it: SmolLM2, Llama 3.x, Mistral. Pre-norm blocks of attention and gated MLP."""

from dataclasses import dataclass
from functools import partial

import torch

from ..nn.fused import FusedLayers, fuse
from ..nn.layers import MLP, Attention, Embedding, Linear, RMSNorm, rope_table
from ..nn.load import Loader
from ..nn.model import Batch, KVCache
from ..types import ModelConfig

ARCHITECTURES = ("LlamaForCausalLM", "MistralForCausalLM")


def build(config: ModelConfig, loader: Loader) -> "Decoder":
    """The model with the weights that ``loader`` reads. With ``attention_bias``, Llama has one on the output too."""
    return build_decoder(config, loader, output_bias=config.attention_bias)


@dataclass(slots=True)
class Block:
    """One layer; the norm before it belongs to the block before, which adds its output to the residual there."""

    attention: Attention
    mlp_norm: RMSNorm
    mlp: MLP
    next_norm: RMSNorm


@dataclass(slots=True)
class Decoder:
    """``nn.model.Model`` of the Llama kind."""

    config: ModelConfig
    embed: Embedding
    first_norm: RMSNorm
    blocks: list[Block]
    head: Linear
    fused: FusedLayers | None = None
    """``blocks`` in one call; the same bits."""

    def forward(self, batch: Batch, kv: KVCache, layers: dict[int, torch.Tensor] | None = None) -> torch.Tensor:
        """See ``nn.model.Model``."""
        residual = self.embed(batch.token_ids)
        x = self.first_norm(residual)
        if self.fused is not None:
            self.fused(x, residual, batch, kv, layers)
            return x
        for layer, (block, k_pages, v_pages) in enumerate(zip(self.blocks, kv.k, kv.v, strict=True)):
            x = block.attention(x, batch, k_pages, v_pages)
            x = block.mlp_norm(x, residual)
            x = block.mlp(x)
            x = block.next_norm(x, residual)
            if layers and layer in layers:
                layers[layer] = residual.clone()
        return x

    def logits(self, hidden: torch.Tensor) -> torch.Tensor:
        """[S, hidden_size] -> fp32 [S, vocab_size]."""
        return self.head(hidden).float()


def build_decoder(config: ModelConfig, loader: Loader, *, output_bias: bool) -> Decoder:
    """Read all parts; ``output_bias`` is for attention's last product, q, k and v follow ``config.attention_bias``."""
    hidden, inner = config.hidden_size, config.intermediate_size
    q, kv = config.num_heads * config.head_dim, config.num_kv_heads * config.head_dim
    cos_sin = loader.place(rope_table(config, loader.optional("rope_freqs.weight", (config.head_dim // 2,))))

    def norm(name: str) -> RMSNorm:
        return RMSNorm(loader.vector(f"{name}.weight", hidden), config.rms_norm_eps)

    def block(layer: int) -> Block:
        at = f"model.layers.{layer}"
        last = layer + 1 == config.num_layers
        qkv = {f"{at}.self_attn.q_proj": q, f"{at}.self_attn.k_proj": kv, f"{at}.self_attn.v_proj": kv}
        output = loader.linear({f"{at}.self_attn.o_proj": hidden}, q, bias=output_bias)
        gate_up = loader.linear({f"{at}.mlp.gate_proj": inner, f"{at}.mlp.up_proj": inner}, hidden)
        return Block(
            attention=Attention(config, loader.linear(qkv, hidden, bias=config.attention_bias), output, cos_sin),
            mlp_norm=norm(f"{at}.post_attention_layernorm"),
            mlp=MLP(gate_up, loader.linear({f"{at}.mlp.down_proj": hidden}, inner)),
            next_norm=norm("model.norm" if last else f"model.layers.{layer + 1}.input_layernorm"),
        )

    table = "model.embed_tokens"
    # The two biggest parts first, so that no thread is left alone with one at the end.
    last = {table if config.tie_embeddings else "lm_head": config.vocab_size}
    head = loader.start(lambda: loader.linear(last, hidden))
    embed = loader.start(lambda: loader.embedding(f"{table}.weight", config.vocab_size, hidden))
    blocks = [loader.start(partial(block, layer)) for layer in range(config.num_layers)]
    built = [part.result() for part in blocks]
    return Decoder(
        config=config,
        embed=embed.result(),
        first_norm=norm("model.layers.0.input_layernorm"),
        blocks=built,
        head=head.result(),
        fused=fuse(config, built),
    )
