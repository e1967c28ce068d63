"""ModelConfig from the metadata of a GGUF file. No torch."""

from ...types import ModelConfig, RopeScaling
from .fields import Fields, shown
from .gguf import GGUFHeader

# general.architecture -> our plug-in key. Mistral files call themselves llama.
ARCHITECTURES = {"llama": "LlamaForCausalLM", "qwen2": "Qwen2ForCausalLM"}


def model_config_from_gguf(header: GGUFHeader) -> ModelConfig:
    """Sizes of the model in ``header``, which may have been read with ``skip_arrays``.

    Llama 3 rope scaling is not in the metadata: it comes as the tensor ``rope_freqs.weight``, which the loader applies.

    Raises:
        BadModelFileError: unknown architecture, a missing or impossible size, or a feature we do not run.
    """
    meta = header.metadata
    kind = meta.get("general.architecture")
    if not isinstance(kind, str) or kind not in ARCHITECTURES:
        known = ", ".join(ARCHITECTURES)
        raise Fields(meta, header.path).bad(
            f"general.architecture is {shown(kind)}", f"use a model of one of: {known}"
        )
    f = Fields(meta, header.path)
    hidden_size = f.integer(f"{kind}.embedding_length")
    num_heads = f.integer(f"{kind}.attention.head_count", most=4096)
    num_kv_heads = f.integer(f"{kind}.attention.head_count_kv", num_heads, most=4096)
    head_dim = f.integer(f"{kind}.attention.key_length", hidden_size // num_heads or None, most=4096)
    f.check_heads(num_heads, num_kv_heads, head_dim)
    for key, wanted in (("attention.value_length", head_dim), ("rope.dimension_count", head_dim), ("expert_count", 0)):
        value = meta.get(f"{kind}.{key}", wanted)
        if value != wanted:
            raise f.bad(f"{kind}.{key} is {shown(value)}, only {wanted} is supported", "use another model")
    embedding = header.tensors.get("token_embd.weight")
    if embedding is None or len(embedding.shape) != 2 or embedding.shape[1] != hidden_size:
        raise f.bad(f"token_embd.weight with rows of {hidden_size} is missing")
    sliding_window = f"{kind}.attention.sliding_window"
    return ModelConfig(
        architecture=ARCHITECTURES[kind],
        vocab_size=embedding.shape[0],
        hidden_size=hidden_size,
        num_layers=f.integer(f"{kind}.block_count", most=4096),
        num_heads=num_heads,
        num_kv_heads=num_kv_heads,
        head_dim=head_dim,
        intermediate_size=f.integer(f"{kind}.feed_forward_length"),
        max_position=f.integer(f"{kind}.context_length", most=1 << 30),
        rms_norm_eps=f.number(f"{kind}.attention.layer_norm_rms_epsilon"),
        rope_theta=f.number(f"{kind}.rope.freq_base", 10000.0),
        rope_scaling=_rope_scaling(f, kind),
        tie_embeddings="output.weight" not in header.tensors,
        attention_bias="blk.0.attn_q.bias" in header.tensors,
        sliding_window=f.integer(sliding_window, most=1 << 30) if meta.get(sliding_window) else None,
    )


def _rope_scaling(f: Fields, kind: str) -> RopeScaling | None:
    method = f.table.get(f"{kind}.rope.scaling.type", "none")
    if method == "none":
        return None
    if method != "linear":
        raise f.bad(f"{kind}.rope.scaling.type is {shown(method)}, not none or linear", "use another model")
    return RopeScaling(kind="linear", factor=f.number(f"{kind}.rope.scaling.factor"))
