"""What each token id means, in a form that no longer shows which kind of file told it. No torch.

Models can draft for one another when every id stands for the same text in both. A ``tokenizer.json`` and a GGUF file
write the same vocabulary in other bytes, with other padding and other notes on special tokens; merges and normalisation
play no part, for ids travel, not text.
"""

import hashlib
from pathlib import Path
from typing import Any

import msgspec

from ..errors import BadModelFileError
from ..formats.headers import gguf
from .located import TokenizerSource

MAX_IDS = 1 << 22
"""Far above any published vocabulary."""
_UNUSED = 5
"""The kind of a GGUF token that only fills up the table."""


class Vocabulary(msgspec.Struct, frozen=True):
    """Of one tokenizer."""

    fingerprint: str
    """sha256, in hex, of the text of each id; equal for models that can draft for one another."""
    num_ids: int
    """Ids from here on mean nothing, though logits may be wider."""


class _Added(msgspec.Struct):
    id: int
    content: str


class _Model(msgspec.Struct):
    vocab: dict[str, int] | list[list[Any]]


class _File(msgspec.Struct):
    model: _Model
    added_tokens: list[_Added] = []


def read(source: TokenizerSource) -> Vocabulary:
    """The vocabulary of a tokenizer; tenths of a second at 150 000 ids.

    Raises:
        BadModelFileError: the file cannot be read, or is no tokenizer.
    """
    texts = _from_json(source.path) if source.kind == "json" else _from_gguf(source.path)
    while texts and texts[-1] is None:
        texts.pop()
    return Vocabulary(hashlib.sha256(msgspec.msgpack.encode(texts)).hexdigest(), len(texts))


def _from_json(path: str) -> list[str | None]:
    try:
        found = msgspec.json.decode(Path(path).read_bytes(), type=_File)
        vocab = found.model.vocab
        pairs = list(vocab.items()) if isinstance(vocab, dict) else [(str(item[0]), i) for i, item in enumerate(vocab)]
    except (OSError, ValueError, IndexError, RecursionError) as e:
        raise BadModelFileError(f"{path}: no vocabulary can be read: {e}; fetch the model again") from e
    pairs += [(added.content, added.id) for added in found.added_tokens]
    least, most = min((i for _, i in pairs), default=0), max((i for _, i in pairs), default=-1)
    if least < 0 or most >= MAX_IDS:
        raise BadModelFileError(f"{path}: token ids {least} to {most} are not within 0..{MAX_IDS - 1}; fetch it again")
    texts: list[str | None] = [None] * (most + 1)
    for text, token in pairs:
        texts[token] = text
    return texts


def _from_gguf(path: str) -> list[str | None]:
    metadata = gguf.read_header(path).metadata
    tokens, kinds = metadata.get("tokenizer.ggml.tokens"), metadata.get("tokenizer.ggml.token_type")
    if not isinstance(tokens, list):
        raise BadModelFileError(f"{path}: tokenizer.ggml.tokens is missing; use a file with a tokenizer")
    if not isinstance(kinds, list) or len(kinds) != len(tokens):
        return list(tokens)
    return [None if kind == _UNUSED else text for text, kind in zip(tokens, kinds, strict=True)]
