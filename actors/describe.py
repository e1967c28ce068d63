"""A model card as lines for people; for ``paceline show`` and the conversation's ``/show info``."""

from pathlib import Path

from ..engine.store.download import size_text
from ..engine.store.located import Located, ModelCard
from ..engine.store.preset import Preset
from ..engine.types import ModelConfig

_BRIEF_CHARS = 80


def facts(located: Located, card: ModelCard) -> dict[str, str]:
    """What a model is, in the order to print."""
    m, preset = card.model, located.preset or Preset()
    files = located.files[0] if len(located.files) == 1 else f"{located.folder} ({len(located.files)} files)"
    found = {
        "model": card.name,
        "architecture": m.architecture,
        "parameters": count_text(num_parameters(m)),
        "quantization": card.quantization,
        "size": size_text(card.size_bytes),
        "context": f"{m.max_position} tokens" + (f", window of {m.sliding_window}" if m.sliding_window else ""),
        "layers": f"{m.num_layers}, hidden size {m.hidden_size}, feed-forward {m.intermediate_size}",
        "attention": f"{m.num_heads} heads, {m.num_kv_heads} of keys and values, size {m.head_dim}",
        "KV cache": f"{m.kv_bytes_per_token(2)} bytes a token in bfloat16",
        "vocabulary": f"{m.vocab_size}",
        "chat template": "yes" if card.chat_template else "none: prompts are continued as they are",
        "end ids": ", ".join(map(str, card.end_ids)) or "none",
        "sampling": ", ".join(f"{k} {v}" for k, v in card.defaults.items()) or "the API's defaults",
        "made of": preset.base,
        "system": _brief(card.system),
        "talk": f"begins with {len(card.messages)} messages" if card.messages else "",
        "draft model": preset.draft_model,
        "licence": _brief(card.license) or "not stated",
        "source": f"{located.source}, {Path(files)}",
        "note": "; ".join(preset.notes),
    }
    return {name: text for name, text in found.items() if text}


def lines(found: dict[str, str]) -> str:
    """``facts`` as aligned text."""
    width = max(map(len, found))
    return "".join(f"{name:<{width}}  {text}\n" for name, text in found.items())


def _brief(text: str) -> str:
    """The first line of a text, cut short."""
    line = text.strip().split("\n", 1)[0]
    return f"{line[:_BRIEF_CHARS]} ..." if len(line) > _BRIEF_CHARS or line != text.strip() else line


def num_parameters(m: ModelConfig) -> int:
    """Weights of the decoder as its sizes say, biases left out."""
    attention = m.hidden_size * m.head_dim * (2 * m.num_heads + 2 * m.num_kv_heads)
    layer = attention + 3 * m.hidden_size * m.intermediate_size + 2 * m.hidden_size
    embeddings = m.vocab_size * m.hidden_size * (1 if m.tie_embeddings else 2)
    return m.num_layers * layer + embeddings + m.hidden_size


def count_text(n: int) -> str:
    """``135 M``, ``1.54 B``."""
    return f"{n / 1e9:.2f} B" if n >= 1e9 else f"{n / 1e6:.0f} M" if n >= 1e6 else f"{n / 1e3:.1f} k"
