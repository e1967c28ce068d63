"""Small random models on disk: Hugging Face folders and GGUF files. Seeded: the same arguments give the same bytes.

Weights are large enough that greedy text varies, small enough that a test runs in milliseconds. The tokenizer is a real
byte-level BPE, trained here on a few sentences, with the chat template and special tokens of ChatML.
"""

import json
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors.torch import save_file
from tokenizers import AddedToken, Tokenizer, decoders, models, pre_tokenizers, trainers

from paceline.engine.store.located import Located

VOCAB_SIZE = 512
SPECIAL_TOKENS = ["<|endoftext|>", "<|im_start|>", "<|im_end|>"]
EOS_ID = 2
CHAT_TEMPLATE = (
    "{% for message in messages %}"
    "{{ '<|im_start|>' + message['role'] + '\\n' + message['content'] + '<|im_end|>' + '\\n' }}"
    "{% endfor %}{% if add_generation_prompt %}{{ '<|im_start|>assistant\\n' }}{% endif %}"
)
LLAMA3_SCALING = {
    "rope_type": "llama3",
    "factor": 4.0,
    "low_freq_factor": 1.0,
    "high_freq_factor": 4.0,
    "original_max_position_embeddings": 32,
}
_SENTENCES = [
    "The scheduler hands each request a share of the step, and the model turns it into tokens.",
    "Once upon a time there was a small town near the sea, where every house had a red roof.",
    "def add(a: int, b: int) -> int:\n    return a + b\n",
    "Counting: one, two, three, four, five, six, seven, eight, nine, ten; 0123456789.",
    "Größe, naïve, façade, 東京, Привет, 🙂🚀 - text is not only ASCII.",
    "What is the capital of France? The capital of France is Paris.",
    "Please write a short story about a clever fox who learned to share bread with her neighbours in winter.",
]
_GGUF_TYPES = {"F32": 0, "F16": 1, "Q4_0": 2, "Q4_1": 3, "Q5_0": 6, "Q5_1": 7, "Q8_0": 8, "BF16": 30}


def make_llama(path: Path | str, *, architecture: str = "LlamaForCausalLM", **sizes: Any) -> Path:
    """A Llama (or Mistral) folder: config.json, weights, tokenizer.

    ``sizes`` sets any key of config.json, and ``seed``, ``dtype`` ("float32" or "bfloat16") and ``num_shards``.
    """
    return _make(Path(path), architecture, "mistral" if "Mistral" in architecture else "llama", sizes)


def make_qwen2(path: Path | str, **sizes: Any) -> Path:
    """A Qwen2 folder: as Llama, with biases on q, k and v."""
    return _make(Path(path), "Qwen2ForCausalLM", "qwen2", sizes)


def make_gguf(path: Path | str, *, kind: str = "llama", ggml_type: str = "F32", **sizes: Any) -> Path:
    """The model that ``make_llama`` (for kind "qwen2" ``make_qwen2``) makes from ``sizes``, as one GGUF file.

    Tokenizer and chat template are in its metadata. Matrices are stored as ``ggml_type``, everything else as F32.
    """
    from gguf import GGMLQuantizationType, GGUFWriter, quants

    path = Path(path)
    config, seed, _, _ = _config("Qwen2ForCausalLM" if kind == "qwen2" else "LlamaForCausalLM", kind, sizes)
    writer = GGUFWriter(path, kind)
    _write_gguf_metadata(writer, config, kind)
    for name, tensor in random_weights(config, seed).items():
        value = tensor.numpy()
        if kind == "llama" and name.split(".")[-2] in ("q_proj", "k_proj"):
            value = _permute(value, config["num_attention_heads" if "q_proj" in name else "num_key_value_heads"])
        stored = GGMLQuantizationType(_GGUF_TYPES[ggml_type] if value.ndim == 2 else 0)
        data = quants.quantize(np.ascontiguousarray(value), stored)
        writer.add_tensor(_gguf_name(name), data, raw_dtype=stored)
    if config["rope_parameters"]["rope_type"] == "llama3":
        writer.add_tensor("rope_freqs.weight", _llama3_divisors(config))
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return path


def located(path: Path | str) -> Located:
    """The ``Located`` of a folder made here, or of a ``.gguf`` file."""
    path = Path(path)
    files = [path] if path.suffix == ".gguf" else sorted(path.glob("*.safetensors"))
    return Located(
        name=str(path),
        kind="gguf" if path.suffix == ".gguf" else "safetensors",
        folder=str(path.parent if path.suffix == ".gguf" else path),
        files=[str(file) for file in files],
        sizes=[file.stat().st_size for file in files],
        digests=[None] * len(files),
        source="test",
    )


def random_weights(config: dict[str, Any], seed: int) -> dict[str, torch.Tensor]:
    """All tensors of the model that ``config`` (a config.json) describes, fp32, by Hugging Face name."""
    rng = torch.Generator().manual_seed(seed)
    hidden, inner, head_dim = config["hidden_size"], config["intermediate_size"], config["head_dim"]
    q, kv = config["num_attention_heads"] * head_dim, config["num_key_value_heads"] * head_dim
    biased = config["model_type"] == "qwen2" or config.get("attention_bias")

    def matrix(rows: int, columns: int, scale: float = 1.0) -> torch.Tensor:
        return torch.randn(rows, columns, generator=rng) * (scale / columns**0.5)

    def norm() -> torch.Tensor:
        return 1 + 0.2 * torch.randn(hidden, generator=rng)

    # Small beside what the layers add: else the tied head finds the token just read most likely, for ever.
    weights = {"model.embed_tokens.weight": 0.25 * torch.randn(config["vocab_size"], hidden, generator=rng)}
    for layer in range(config["num_hidden_layers"]):
        at = f"model.layers.{layer}."
        weights[at + "input_layernorm.weight"] = norm()
        for name, rows in (("q", q), ("k", kv), ("v", kv)):
            # Sharper queries and keys than at initialisation, so that attention is not a plain mean.
            weights[at + f"self_attn.{name}_proj.weight"] = matrix(rows, hidden, 1.0 if name == "v" else 2.0)
            if biased:
                weights[at + f"self_attn.{name}_proj.bias"] = 0.5 * torch.randn(rows, generator=rng)
        weights[at + "self_attn.o_proj.weight"] = matrix(hidden, q, 2.0)
        if config.get("attention_bias"):
            weights[at + "self_attn.o_proj.bias"] = 0.5 * torch.randn(hidden, generator=rng)
        weights[at + "post_attention_layernorm.weight"] = norm()
        weights[at + "mlp.gate_proj.weight"] = matrix(inner, hidden)
        weights[at + "mlp.up_proj.weight"] = matrix(inner, hidden)
        weights[at + "mlp.down_proj.weight"] = matrix(hidden, inner, 2.0)
    weights["model.norm.weight"] = norm()
    if not config["tie_word_embeddings"]:
        weights["lm_head.weight"] = matrix(config["vocab_size"], hidden, 4.0)
    return weights


@lru_cache(maxsize=1)
def tokenizer() -> Tokenizer:
    """The byte-level BPE that all models here share: 3 special tokens, 256 bytes, then merges; 512 in all."""
    bpe = Tokenizer(models.BPE())
    bpe.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)  # pyright: ignore[reportAttributeAccessIssue]
    bpe.decoder = decoders.ByteLevel()  # pyright: ignore[reportAttributeAccessIssue]
    trainer = trainers.BpeTrainer(
        vocab_size=VOCAB_SIZE,
        special_tokens=[AddedToken(token, special=True, normalized=False) for token in SPECIAL_TOKENS],  # type: ignore
        initial_alphabet=sorted(pre_tokenizers.ByteLevel.alphabet()),
        show_progress=False,
    )
    bpe.train_from_iterator(_SENTENCES, trainer)
    return bpe


def _config(architecture: str, model_type: str, sizes: dict[str, Any]) -> tuple[dict[str, Any], int, str, int]:
    """config.json, seed, dtype and number of shards from the arguments of a ``make_`` function."""
    sizes = dict(sizes)
    seed, dtype, num_shards = sizes.pop("seed", 0), sizes.pop("dtype", "float32"), sizes.pop("num_shards", 1)
    rope = {"rope_theta": sizes.pop("rope_theta", 10000.0), **(sizes.pop("rope_scaling", None) or {})}
    config: dict[str, Any] = {
        "architectures": [architecture],
        "model_type": model_type,
        "vocab_size": VOCAB_SIZE,
        "hidden_size": 64,
        "num_hidden_layers": 2,
        "num_attention_heads": 4,
        "num_key_value_heads": 2,
        "intermediate_size": 96,
        "max_position_embeddings": 512,
        "rms_norm_eps": 1e-5,
        "hidden_act": "silu",
        "tie_word_embeddings": True,
        "rope_parameters": {"rope_type": "default", **rope},
        "bos_token_id": 1,
        "eos_token_id": EOS_ID,
        "dtype": dtype,
    }
    config.update(sizes)
    config.setdefault("head_dim", config["hidden_size"] // config["num_attention_heads"])
    return config, seed, dtype, num_shards


def _make(path: Path, architecture: str, model_type: str, sizes: dict[str, Any]) -> Path:
    config, seed, dtype, num_shards = _config(architecture, model_type, sizes)
    path.mkdir(parents=True, exist_ok=True)
    weights = {k: v.to(getattr(torch, dtype)) for k, v in random_weights(config, seed).items()}
    _write_json(path / "config.json", config)
    _write_json(path / "generation_config.json", {"bos_token_id": 1, "eos_token_id": [EOS_ID, 0], "temperature": 0.7})
    _write_tokenizer(path)
    if num_shards == 1:
        save_file(weights, path / "model.safetensors", metadata={"format": "pt"})
        return path
    weight_map: dict[str, str] = {}
    for shard in range(num_shards):
        file = f"model-{shard + 1:05}-of-{num_shards:05}.safetensors"
        part = {name: weights[name] for name in list(weights)[shard::num_shards]}
        save_file(part, path / file, metadata={"format": "pt"})
        weight_map.update(dict.fromkeys(part, file))
    size = sum(t.nbytes for t in weights.values())
    _write_json(path / "model.safetensors.index.json", {"metadata": {"total_size": size}, "weight_map": weight_map})
    return path


def _write_tokenizer(path: Path) -> None:
    tokenizer().save(str(path / "tokenizer.json"))
    names = {"bos_token": "<|im_start|>", "eos_token": "<|im_end|>", "unk_token": "<|endoftext|>"}
    added = {str(i): {"content": token, "special": True} for i, token in enumerate(SPECIAL_TOKENS)}
    table = {"tokenizer_class": "PreTrainedTokenizerFast", "added_tokens_decoder": added, "add_bos_token": False}
    _write_json(path / "tokenizer_config.json", {**table, **names, "chat_template": CHAT_TEMPLATE})


def _write_json(path: Path, value: Any) -> None:
    path.write_text(json.dumps(value, indent=1, ensure_ascii=False), encoding="utf-8")


def _write_gguf_metadata(writer: Any, config: dict[str, Any], kind: str) -> None:
    writer.add_name(f"tiny {kind}")
    writer.add_block_count(config["num_hidden_layers"])
    writer.add_context_length(config["max_position_embeddings"])
    writer.add_embedding_length(config["hidden_size"])
    writer.add_feed_forward_length(config["intermediate_size"])
    writer.add_head_count(config["num_attention_heads"])
    writer.add_head_count_kv(config["num_key_value_heads"])
    writer.add_key_length(config["head_dim"])
    writer.add_value_length(config["head_dim"])
    writer.add_layer_norm_rms_eps(config["rms_norm_eps"])
    rope = config["rope_parameters"]
    writer.add_rope_freq_base(rope["rope_theta"])
    writer.add_rope_dimension_count(config["head_dim"])
    writer.add_vocab_size(config["vocab_size"])
    if rope["rope_type"] == "linear":
        writer.add_string(f"{kind}.rope.scaling.type", "linear")
        writer.add_float32(f"{kind}.rope.scaling.factor", rope["factor"])
    if config.get("sliding_window"):
        writer.add_sliding_window(config["sliding_window"])
    if config.get("pooling_type"):
        pooling = config["pooling_type"]  # a list of them is a damaged file
        (writer.add_array if isinstance(pooling, list) else writer.add_uint32)(f"{kind}.pooling_type", pooling)
    table = json.loads(tokenizer().to_str())["model"]
    tokens = sorted(table["vocab"], key=table["vocab"].__getitem__)
    writer.add_tokenizer_model("gpt2")
    writer.add_tokenizer_pre("gpt-2")
    writer.add_token_list(tokens)
    writer.add_token_types([3 if token in SPECIAL_TOKENS else 1 for token in tokens])
    writer.add_token_merges([merge if isinstance(merge, str) else " ".join(merge) for merge in table["merges"]])
    writer.add_bos_token_id(1)
    writer.add_eos_token_id(EOS_ID)
    writer.add_unk_token_id(0)
    writer.add_add_bos_token(False)
    writer.add_chat_template(CHAT_TEMPLATE)


def _permute(weight: Any, num_heads: int) -> Any:
    """Rows in the order the ``llama`` architecture of GGUF keeps them: rotary pairs side by side."""
    halves = weight.reshape(num_heads, 2, weight.shape[0] // num_heads // 2, -1)
    return halves.swapaxes(1, 2).reshape(weight.shape)


def _llama3_divisors(config: dict[str, Any]) -> Any:
    """By how much Llama 3 scaling divides each rotary frequency, as converters write it into ``rope_freqs.weight``."""
    rope = config["rope_parameters"]
    low, high, factor = rope["low_freq_factor"], rope["high_freq_factor"], rope["factor"]
    divisors = []
    for i in range(config["head_dim"] // 2):
        wavelength = 2 * np.pi * rope["rope_theta"] ** (2 * i / config["head_dim"])
        turns = rope["original_max_position_embeddings"] / wavelength
        smooth = min(max((turns - low) / (high - low), 0.0), 1.0)
        divisors.append(1 / ((1 - smooth) / factor + smooth))
    return np.array(divisors, dtype=np.float32)


def _gguf_name(name: str) -> str:
    outer = {"model.embed_tokens": "token_embd", "model.norm": "output_norm", "lm_head": "output"}
    inner = {
        "input_layernorm": "attn_norm",
        "self_attn.q_proj": "attn_q",
        "self_attn.k_proj": "attn_k",
        "self_attn.v_proj": "attn_v",
        "self_attn.o_proj": "attn_output",
        "post_attention_layernorm": "ffn_norm",
        "mlp.gate_proj": "ffn_gate",
        "mlp.up_proj": "ffn_up",
        "mlp.down_proj": "ffn_down",
    }
    stem, _, leaf = name.rpartition(".")
    if stem in outer:
        return f"{outer[stem]}.{leaf}"
    layer, _, stem = stem.removeprefix("model.layers.").partition(".")
    return f"blk.{layer}.{inner[stem]}.{leaf}"
