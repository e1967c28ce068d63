"""Small real tokenizers, built in milliseconds and without torch: one for each kind of decoder, and GGUF metadata."""

import os
from functools import cache
from pathlib import Path
from typing import Any

from tokenizers import AddedToken, Tokenizer, decoders, models, pre_tokenizers, trainers

CONTROL = ["<|endoftext|>", "<|im_start|>", "<|im_end|>"]
CHATML = (
    "{% for message in messages %}{{ '<|im_start|>' + message['role'] + '\n' + message['content'] + '<|im_end|>\n' }}"
    "{% endfor %}{% if add_generation_prompt %}{{ '<|im_start|>assistant\n' }}{% endif %}"
)
_CORPUS = [
    "the quick brown fox jumps over the lazy dog, and then it sleeps all day long",
    "def add(left, right):\n    return left + right\n\nprint(add(1, 2))\n",
    "the numbers 0 1 2 3 4 5 6 7 8 9 and 10 are small; stop, go, stop again",
    "déjà vu, naïve café, 你好世界 你好, 🦊🦊 emoji",
]


@cache
def byte_level() -> Tokenizer:
    """Byte-level BPE of some 400 pieces: ids 0 to 2 are ``CONTROL``; ``<think>`` is added but not special."""
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)  # pyright: ignore
    tokenizer.decoder = decoders.ByteLevel()  # pyright: ignore
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    trainer = trainers.BpeTrainer(
        vocab_size=400, special_tokens=CONTROL, initial_alphabet=alphabet, show_progress=False
    )
    tokenizer.train_from_iterator(_CORPUS, trainer)
    tokenizer.add_tokens([AddedToken("<think>", normalized=False)])
    return tokenizer


@cache
def word_pieces() -> Tokenizer:
    """A tokenizer whose decoder has no bytes of single tokens (WordPiece joins words with spaces)."""
    words = ["[UNK]", "[END]", "the", "fox", "jump", "##s", "##ed", "over", "dog", ".", "你", "##好", "\ufffd"]
    tokenizer = Tokenizer(models.WordPiece({w: i for i, w in enumerate(words)}, unk_token="[UNK]"))
    tokenizer.pre_tokenizer = pre_tokenizers.Whitespace()  # pyright: ignore
    tokenizer.decoder = decoders.WordPiece(cleanup=False)  # pyright: ignore
    tokenizer.add_special_tokens(["[END]"])
    return tokenizer


def sentence_piece_metadata(*, add_space_prefix: bool = True) -> dict[str, Any]:
    """GGUF metadata of a SentencePiece vocabulary with bytes as a fallback; scores follow the usual rule, -rank."""
    control = ["<unk>", "<s>", "</s>"]
    single = list("▁abcdefghijklmnopqrstuvwxyz.,!\u4f60")
    words = ["▁t", "he", "▁the", "▁f", "ox", "▁fox", "in", "▁▁", "lo", "hel", "hello", "▁hel", "▁hello", "ing"]
    tokens = [*control, *(f"<0x{b:02X}>" for b in range(256)), *words, *single, "<extra>"]
    types = [2, 3, 3, *[6] * 256, *[1] * (len(words) + len(single)), 4]
    scores = [0.0] * 259 + [-float(i) for i in range(len(words))] + [-1000.0 - i for i in range(len(single))] + [0.0]
    return {
        "tokenizer.ggml.model": "llama",
        "tokenizer.ggml.tokens": tokens,
        "tokenizer.ggml.token_type": types,
        "tokenizer.ggml.scores": scores,
        "tokenizer.ggml.bos_token_id": 1,
        "tokenizer.ggml.eos_token_id": 2,
        "tokenizer.ggml.unknown_token_id": 0,
        "tokenizer.ggml.add_space_prefix": add_space_prefix,
    }


def byte_level_metadata(pre: str = "gpt-2") -> dict[str, Any]:
    """GGUF metadata of ``byte_level``."""
    import json

    model = json.loads(byte_level().to_str())["model"]
    vocab = byte_level().get_vocab()
    tokens = sorted(vocab, key=lambda t: vocab[t])
    return {
        "tokenizer.ggml.model": "gpt2",
        "tokenizer.ggml.pre": pre,
        "tokenizer.ggml.tokens": tokens,
        "tokenizer.ggml.token_type": [3 if t in CONTROL else 4 if t == "<think>" else 1 for t in tokens],
        "tokenizer.ggml.merges": [" ".join(pair) for pair in model["merges"]],
        "tokenizer.ggml.eos_token_id": 2,
    }


@cache
def smollm2_path() -> Path | None:
    """The real model's GGUF file, if it is on this machine: ``PACELINE_TEST_GGUF``, else the store."""
    if path := os.environ.get("PACELINE_TEST_GGUF"):
        return Path(path)
    from paceline.engine.errors import PacelineError
    from paceline.engine.store.resolve import locate

    try:
        return Path(locate("smollm2:135m", download=False).files[0])
    except PacelineError:
        return None
