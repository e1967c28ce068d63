"""The card of a GGUF file, from its key-values. Keys: ggml's docs/gguf.md."""

from collections.abc import Iterable, Iterator
from itertools import islice
from math import isfinite
from typing import Any

from ..errors import BadModelFileError
from ..formats.headers import gguf
from ..formats.headers.gguf_config import model_config_from_gguf
from .located import Located, ModelCard, TokenizerSource

# llama.cpp's llama_ftype -> the name people know.
FILE_TYPES: dict[Any, str] = {
    0: "F32", 1: "F16", 2: "Q4_0", 3: "Q4_1", 7: "Q8_0", 8: "Q5_0", 9: "Q5_1", 10: "Q2_K", 11: "Q3_K_S", 12: "Q3_K_M",
    13: "Q3_K_L", 14: "Q4_K_S", 15: "Q4_K_M", 16: "Q5_K_S", 17: "Q5_K_M", 18: "Q6_K", 24: "IQ1_S", 25: "IQ4_NL",
    30: "IQ4_XS", 32: "BF16", 36: "TQ1_0", 37: "TQ2_0", 38: "MXFP4",
}  # fmt: skip

END_TEXTS = (
    "<|im_end|>", "<|eot_id|>", "<|eom_id|>", "<|end_of_text|>", "<|endoftext|>", "<end_of_turn>", "<|end|>", "</s>",
)  # fmt: skip
"""Control tokens that end a turn or a text; most files name only one of theirs."""

_POOLING: dict[Any, str] = {1: "mean", 2: "cls", 3: "last", 4: "rank"}
"""llama.cpp's llama_pooling_type; 0 is none, which leaves it to us."""
_CONTROL, _USER_DEFINED = 3, 4
"""``tokenizer.ggml.token_type`` of control tokens, and of others that match whole."""
_MAX_MARKER, _MAX_MARKERS = 48, 512
_MAX_TEMPLATE = 1 << 20
_SPECIAL = {"bos_token": "bos", "eos_token": "eos", "unk_token": "unknown", "pad_token": "padding"}
_SAMPLING = {
    "temp": "temperature", "top_p": "top_p", "top_k": "top_k", "min_p": "min_p", "penalty_repeat": "repetition_penalty",
}  # fmt: skip


def read(located: Located) -> ModelCard:
    """The card without name and sizes on disk.

    Raises:
        BadModelFileError: damaged, or an architecture that is not ours.
    """
    header = gguf.read_header(located.files[0])
    meta = header.metadata
    tokens = _tokens(header)
    ids = {name: _id(meta, f"{short}_token_id", len(tokens)) for name, short in _SPECIAL.items()}
    template = meta.get("tokenizer.chat_template")
    if template is not None and (not isinstance(template, str) or len(template) > _MAX_TEMPLATE):
        raise BadModelFileError(
            f"{header.path}: tokenizer.chat_template is no text of up to {_MAX_TEMPLATE} characters; fetch another file"
        )
    adds_bos = meta.get("tokenizer.ggml.add_bos_token", meta.get("tokenizer.ggml.model") == "llama")
    return ModelCard(
        name=located.name,
        model=model_config_from_gguf(header),
        tokenizer=TokenizerSource(kind="gguf", path=header.path),
        chat_template=template,
        special_tokens={name: tokens[i] for name, i in ids.items() if i is not None},
        bos_id=ids["bos_token"],
        add_bos=adds_bos is True and ids["bos_token"] is not None,
        end_ids=_end_ids(meta, tokens),
        defaults=_defaults(meta),
        license=str(meta.get("general.license", ""))[:200],
        pooling=_pooling(meta),
        marker_ids=markers(_marked(meta, tokens)),
    )


def markers(tokens: Iterable[tuple[str, int, bool]]) -> dict[str, int]:
    """Of added tokens, text, id and whether they are special: those that grammars take for control tokens."""
    found = (
        (text, i)
        for text, i, special in tokens
        if 2 < len(text) <= _MAX_MARKER and (special or (text[0] == "<" and text[-1] == ">"))
        if not any(c.isdigit() for c in text)  # <unused12>, <|reserved_special_token_7|>
    )
    return dict(islice(found, _MAX_MARKERS))


def _marked(meta: dict[str, Any], tokens: list[str]) -> Iterator[tuple[str, int, bool]]:
    kinds = meta.get("tokenizer.ggml.token_type")
    if isinstance(kinds, list) and len(kinds) == len(tokens):
        for i, kind in enumerate(kinds):
            if kind in (_CONTROL, _USER_DEFINED):
                yield tokens[i], i, kind == _CONTROL


def _tokens(header: gguf.GGUFHeader) -> list[str]:
    tokens = header.metadata.get("tokenizer.ggml.tokens")
    if not isinstance(tokens, list) or not tokens or not isinstance(tokens[0], str):
        raise BadModelFileError(f"{header.path}: tokenizer.ggml.tokens is missing; use a file that has its tokenizer")
    return tokens


def _pooling(meta: dict[str, Any]) -> str:
    kind = meta.get(f"{meta.get('general.architecture')}.pooling_type")
    return _POOLING.get(kind, "last") if isinstance(kind, int) else "last"


def _id(meta: dict[str, Any], key: str, num_tokens: int) -> int | None:
    value = meta.get(f"tokenizer.ggml.{key}")
    return value if type(value) is int and 0 <= value < num_tokens else None


def _end_ids(meta: dict[str, Any], tokens: list[str]) -> list[int]:
    """The ids the file names, then the control tokens among END_TEXTS; without doubles."""
    named = [_id(meta, f"{short}_token_id", len(tokens)) for short in ("eos", "eot", "eom")]
    kinds = meta.get("tokenizer.ggml.token_type")
    known: list[int] = []
    if isinstance(kinds, list) and len(kinds) == len(tokens):
        known = [i for i, kind in enumerate(kinds) if kind == _CONTROL and tokens[i] in END_TEXTS]
    return list(dict.fromkeys([i for i in named if i is not None] + known))


def _defaults(meta: dict[str, Any]) -> dict[str, Any]:
    """``general.sampling.*``, which newer converters copy from generation_config; NaN and infinity say nothing."""
    found = {ours: meta.get(f"general.sampling.{theirs}") for theirs, ours in _SAMPLING.items()}
    return {name: v for name, v in found.items() if type(v) is int or (isinstance(v, float) and isfinite(v))}
