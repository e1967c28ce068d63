"""tokenizer.json, or a GGUF file's metadata -> tokenizer, and the tokenizer at work on text that clients send."""

import json
from typing import Any

from fuzzing.scratch import write
from fuzzing.target import Target
from fuzzing.tree_mutator import json_mutator
from tiny_cards import card
from tiny_tokenizers import byte_level, byte_level_metadata, sentence_piece_metadata, word_pieces

from paceline.actors.text import load_tokenizer
from paceline.actors.text.detokenize import Detokenizer
from paceline.actors.text.prompt import PromptEncoder
from paceline.actors.text.token_bytes import TokenBytes
from paceline.engine.errors import BadModelFileError

_TEXT = "Hello fox, 1234 \u4f60\u597d <|im_end|> <think>\x00"


def run(data: bytes) -> None:
    """A first byte below 64: GGUF metadata as JSON; else a tokenizer.json."""
    try:
        _run(data)
    except BadModelFileError as e:
        assert "\n" not in str(e), str(e)
        raise


def _run(data: bytes) -> None:
    if data[:1] < b"\x40":
        try:
            metadata = json.loads(data[1:])
        except (ValueError, RecursionError):
            return
        tokenizer = load_tokenizer.from_gguf(metadata if isinstance(metadata, dict) else {})
    else:
        tokenizer = load_tokenizer.from_json(write("tokenizer.json", data[1:]))
    tokens = TokenBytes(tokenizer)
    encoder = PromptEncoder(tokenizer, card(chat_template=None))
    encoder.warm_up()
    try:
        ids = encoder.encode_text(_TEXT, True)
    except Exception:  # ends one call, with a 500: the actor's own boundary
        return
    detokenizer = Detokenizer(tokens, ids[:3])
    for i in [*ids, 0, 1, 5_000_000]:
        detokenizer.feed(i)
    detokenizer.flush()


def _small(tokenizer: Any, most: int) -> bytes:
    """A tokenizer.json whose vocabulary is short, so that most changes hit something else."""
    whole = json.loads(tokenizer.to_str())
    vocab = whole["model"]["vocab"]
    whole["model"]["vocab"] = {t: i for t, i in vocab.items() if i < most}
    if "merges" in whole["model"]:
        whole["model"]["merges"] = [m for m in whole["model"]["merges"] if vocab.get("".join(m), most) < most]
    return b"\xff" + json.dumps(whole).encode()


def _metadata(metadata: dict[str, Any]) -> bytes:
    return b"\x00" + json.dumps(metadata).encode()


_seeds = [
    _small(byte_level(), 262), _small(word_pieces(), 99), _metadata(sentence_piece_metadata()),
    _metadata(byte_level_metadata()), _metadata(byte_level_metadata("llama-bpe")),
]  # fmt: skip
TARGET = Target(run=run, seeds=_seeds, mutate=json_mutator(head=1), expected=(BadModelFileError,))
