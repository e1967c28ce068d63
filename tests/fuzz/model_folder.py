"""config.json and its neighbours -> model card, vocabulary."""

import json
from typing import Any

from fuzzing.scratch import folder, write
from fuzzing.target import Target
from fuzzing.tree_mutator import json_mutator
from tiny_tokenizers import byte_level

from paceline.engine.errors import PacelineError
from paceline.engine.store import card_hf, vocabulary
from paceline.engine.store.located import Located, TokenizerSource

_FILES = [
    "config.json", "tokenizer_config.json", "generation_config.json", "special_tokens_map.json", "tokenizer.json",
    "chat_template.json", "chat_template.jinja", "1_Pooling/config.json", "README.md",
]  # fmt: skip


def run(data: bytes) -> None:
    """A JSON table of file name to content; what is text is written as it is."""
    try:
        tree = json.loads(data)
    except (ValueError, RecursionError):
        tree = {"config.json": data.decode(errors="replace")}
    (folder() / "1_Pooling").mkdir(exist_ok=True)
    for name in _FILES:
        path = folder() / name
        path.unlink(missing_ok=True)
        if isinstance(tree, dict) and name in tree:
            content = tree[name]
            raw = content if isinstance(content, str) else json.dumps(content)
            write(name, raw.encode("utf-8", "surrogatepass"))
    located = Located(name="x", kind="safetensors", folder=str(folder()), files=[], sizes=[], digests=[])
    try:
        card = card_hf.read(located)
        assert card.model.vocab_size > 0 and all(i >= 0 for i in card.end_ids)
    except PacelineError as e:
        assert "\n" not in str(e), str(e)
        raise
    finally:
        vocabulary.read(TokenizerSource(kind="json", path=str(folder() / "tokenizer.json")))


def _tokenizer() -> Any:
    whole = json.loads(byte_level().to_str())
    whole["model"]["vocab"] = {t: i for t, i in whole["model"]["vocab"].items() if i < 40}
    whole["model"]["merges"] = []
    return whole


_CONFIG = {
    "architectures": ["LlamaForCausalLM"], "hidden_size": 32, "num_attention_heads": 2, "num_key_value_heads": 1,
    "num_hidden_layers": 1, "max_position_embeddings": 128, "vocab_size": 400, "intermediate_size": 64,
    "rope_scaling": {"rope_type": "llama3", "factor": 8.0, "low_freq_factor": 1.0, "high_freq_factor": 4.0,
                     "original_max_position_embeddings": 64},
    "bos_token_id": 1, "eos_token_id": [2, 0], "matryoshka_dimensions": [8, 16], "rms_norm_eps": 1e-5,
}  # fmt: skip
_SETTINGS = {
    "bos_token": {"content": "<|im_start|>"}, "eos_token": "<|im_end|>", "response_template": {"x": 1},
    "chat_template": [{"name": "default", "template": "{{ messages }}"}, {"name": "tool_use", "template": "x"}],
}  # fmt: skip
_seed = {
    "config.json": _CONFIG, "tokenizer_config.json": _SETTINGS, "tokenizer.json": _tokenizer(),
    "generation_config.json": {"temperature": 0.6, "top_p": 0.9, "top_k": 20, "eos_token_id": 2},
    "special_tokens_map.json": {"eos_token": "<|im_end|>"}, "chat_template.json": {"chat_template": "{{ messages }}"},
    "1_Pooling/config.json": {"pooling_mode_mean_tokens": True}, "README.md": "---\nlicense: mit\n---\n",
}  # fmt: skip
TARGET = Target(run=run, seeds=[json.dumps(_seed).encode()], mutate=json_mutator(), expected=(PacelineError,))
