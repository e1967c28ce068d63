"""ModelConfig from a Hugging Face ``config.json``, of transformers 4 and 5. No torch."""

from collections.abc import Mapping
from typing import Any

from ...types import ModelConfig, RopeScaling
from .fields import Fields, shown

_FAMILIES = {
    "LlamaForCausalLM": "llama",
    "MistralForCausalLM": "mistral",
    "Qwen2ForCausalLM": "qwen2",
    "TinyForTesting": "tiny",
}
# What transformers assumes where a config.json is silent.
_DEFAULT_EPS = 1e-6
_DEFAULT_THETA = 10000.0


def model_config_from_hf(config: Mapping[str, Any], where: str = "config.json") -> ModelConfig:
    """Sizes of the model that ``config`` describes; ``where`` starts every message.

    Raises:
        BadModelFileError: unknown architecture, a missing or impossible size, or a feature we do not run.
    """
    f = Fields(config, where)
    names = config.get("architectures")
    architecture = names[0] if isinstance(names, list) and names else None
    if not isinstance(architecture, str) or architecture not in _FAMILIES:
        known = ", ".join(_FAMILIES)
        raise f.bad(f"architecture {shown(architecture)} is not supported", f"use a model of one of: {known}")
    _refuse_unsupported(f)
    hidden_size = f.integer("hidden_size")
    num_heads = f.integer("num_attention_heads", most=4096)
    num_kv_heads = f.integer("num_key_value_heads", num_heads, most=4096)
    head_dim = f.integer("head_dim", hidden_size // num_heads or None, most=4096)
    f.check_heads(num_heads, num_kv_heads, head_dim)
    num_layers = f.integer("num_hidden_layers", most=4096)
    max_position = f.integer("max_position_embeddings", most=1 << 30)
    family = _FAMILIES[architecture]
    return ModelConfig(
        architecture=architecture,
        vocab_size=f.integer("vocab_size"),
        hidden_size=hidden_size,
        num_layers=num_layers,
        num_heads=num_heads,
        num_kv_heads=num_kv_heads,
        head_dim=head_dim,
        intermediate_size=f.integer("intermediate_size"),
        max_position=max_position,
        rms_norm_eps=f.number("rms_norm_eps", _DEFAULT_EPS),
        rope_theta=_rope_theta(f),
        rope_scaling=_rope_scaling(f, max_position),
        tie_embeddings=bool(config.get("tie_word_embeddings", False)),
        attention_bias=family == "qwen2" or bool(config.get("attention_bias", False)),
        sliding_window=_sliding_window(f, family, num_layers, max_position),
    )


def _refuse_unsupported(f: Fields) -> None:
    """Settings that change the numbers and that our layers do not follow."""
    if f.table.get("quantization_config") is not None:
        raise f.bad("quantization_config: such checkpoints are not supported", "use the unquantised model or a GGUF")
    for key, wanted in (("hidden_act", "silu"), ("mlp_bias", False), ("partial_rotary_factor", 1.0)):
        value = f.table.get(key)
        if value is not None and value != wanted:
            raise f.bad(f"{key} is {shown(value)}, only {wanted!r} is supported", "use another model")


def _rope(f: Fields) -> Fields:
    """transformers 5 writes ``rope_parameters``; 4 wrote ``rope_scaling`` beside ``rope_theta``."""
    for key in ("rope_parameters", "rope_scaling"):
        table = f.table.get(key)
        if table is not None:
            if not isinstance(table, Mapping):
                raise f.bad(f"{key} is {shown(table)}, not a table")
            return Fields(table, f"{f.where}: {key}")
    return Fields({}, f.where)


def _rope_theta(f: Fields) -> float:
    rope = _rope(f)
    return rope.number("rope_theta", f.number("rope_theta", _DEFAULT_THETA))


def _rope_scaling(f: Fields, max_position: int) -> RopeScaling | None:
    rope = _rope(f)
    kind = rope.table.get("rope_type", rope.table.get("type", "default"))
    if kind == "default":
        return None
    if kind == "linear":
        return RopeScaling(kind="linear", factor=rope.number("factor"))
    if kind != "llama3":
        raise rope.bad(f"rope_type {shown(kind)} is not one of default, linear, llama3", "use another model")
    low, high = rope.number("low_freq_factor"), rope.number("high_freq_factor")
    if low >= high:
        raise rope.bad(f"low_freq_factor {low} is not below high_freq_factor {high}")
    return RopeScaling(
        kind="llama3",
        factor=rope.number("factor"),
        low_freq_factor=low,
        high_freq_factor=high,
        original_max_position=rope.integer("original_max_position_embeddings", max_position, most=1 << 30),
    )


def _sliding_window(f: Fields, family: str, num_layers: int, max_position: int) -> int | None:
    """Mistral slides in every layer; Qwen2 only when told so, and then from ``max_window_layers`` on."""
    if f.table.get("sliding_window") is None or family in ("llama", "tiny"):
        return None
    if family == "qwen2" and not f.table.get("use_sliding_window", False):
        return None
    window = f.integer("sliding_window", most=1 << 30)
    if window >= max_position:
        return None
    first = f.table.get("max_window_layers", 0) if family == "qwen2" else 0
    if type(first) is not int or 0 < first < num_layers:
        raise f.bad(f"max_window_layers {shown(first)} mixes sliding and full attention", "use another model")
    return window if first <= 0 else None
