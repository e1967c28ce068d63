"""Where a model's files are, and what is known of it without loading weights. Plain values; no torch, no I/O."""

from typing import Any, Literal

import msgspec

from ..types import ModelConfig
from .preset import Preset


class Located(msgspec.Struct, frozen=True, kw_only=True):
    """A model's files on this machine, present and verified."""

    name: str
    """As the user wrote it."""
    kind: Literal["safetensors", "gguf"]
    folder: str
    """The folder that holds ``files``; for a GGUF file its parent."""
    files: list[str]
    """Weight files, absolute, in load order."""
    sizes: list[int]
    digests: list[str | None]
    """sha256 in hex where the source knows it."""
    source: str = ""
    """The plug-in that found it."""
    preset: Preset | None = None
    """What the name says beyond its files."""


class TokenizerSource(msgspec.Struct, frozen=True, kw_only=True):
    """From what the tokenizer is built: a ``tokenizer.json`` or the metadata of a GGUF file."""

    kind: Literal["json", "gguf"]
    path: str


class ModelCard(msgspec.Struct, frozen=True, kw_only=True):
    """What we know of a model without loading it."""

    name: str
    model: ModelConfig
    tokenizer: TokenizerSource
    chat_template: str | None
    special_tokens: dict[str, str] = {}
    """bos_token, eos_token, unk_token, pad_token as text, for the chat template."""
    bos_id: int | None = None
    add_bos: bool = False
    """Whether encoding plain text starts with bos."""
    end_ids: list[int] = []
    """Ids that end an answer: eos and end-of-turn."""
    defaults: dict[str, Any] = {}
    """What applies where a client says nothing. generation_config: temperature, top_p, top_k, min_p,
    repetition_penalty; from a ``Preset`` also max_tokens, seed, stop, presence_penalty, frequency_penalty."""
    system: str = ""
    """The system message of conversations that have none."""
    messages: list[dict[str, str]] = []
    """What was said before each conversation; behind its system message."""
    size_bytes: int = 0
    quantization: str = ""
    """Such as BF16 or Q4_1, for people."""
    license: str = ""
    pooling: str = "last"
    """How prompts become vectors: last or mean; anything else is not done here."""
    embedding_dimensions: list[int] = []
    """Sizes to which vectors may be cut, beside their own; [-1] = any."""
    response_template: dict[str, Any] | None = None
    """How its output is to be read, in Hugging Face's format; as its files have it, unchecked."""
    marker_ids: dict[str, int] = {}
    """Tokens that are one text whole, such as ``<tool_call>``: a grammar names them by id, not by their text."""
