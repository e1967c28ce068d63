"""How text is cut before byte-level merges, by the name a GGUF file gives under ``tokenizer.ggml.pre``.

A GGUF file names its pre-tokeniser instead of spelling it, so the spelling is kept here. The patterns are those of the
models' own ``tokenizer.json``; the names and their grouping are llama.cpp's (``src/llama-vocab.cpp``). A wrong pattern
gives valid text with slightly wrong ids, which nobody notices but the model: so an unknown name is an error, no guess.
"""

import difflib

from tokenizers import Regex
from tokenizers.pre_tokenizers import ByteLevel, PreTokenizer, Sequence, Split

from ...engine.errors import BadModelFileError

_CONTRACTIONS = r"(?i:'s|'t|'re|'ve|'m|'ll|'d)"
_PUNCTUATION = r" ?[^\s\p{L}\p{N}]+[\r\n]*"
_BLANKS = r"\s*[\r\n]+|\s+(?!\S)|\s+"
_GPT2 = r"'s|'t|'re|'ve|'m|'ll|'d| ?\p{L}+| ?\p{N}+| ?[^\s\p{L}\p{N}]+|\s+(?!\S)|\s+"
_UPPER = r"[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]"
_LOWER = r"[\p{Ll}\p{Lm}\p{Lo}\p{M}]"


def _words(digits: str) -> str:
    """The pattern of the cl100k family; ``digits`` is how many stay together."""
    return rf"{_CONTRACTIONS}|[^\r\n\p{{L}}\p{{N}}]?\p{{L}}+|{digits}|{_PUNCTUATION}|{_BLANKS}"


def _cased_words(digits: str, contractions: str) -> str:
    """The pattern of the o200k family: a word also ends where lower case turns to upper."""
    return (
        rf"[^\r\n\p{{L}}\p{{N}}]?{_UPPER}*{_LOWER}+{contractions}|[^\r\n\p{{L}}\p{{N}}]?{_UPPER}+{_LOWER}*{contractions}"
        rf"|{digits}| ?[^\s\p{{L}}\p{{N}}]+[\r\n/]*|{_BLANKS}"
    )


# Family -> patterns applied one after the other, each inside the pieces that the last one left.
_FAMILIES: dict[str, list[str]] = {
    "gpt2": [_GPT2],
    "digits": [r"\p{N}", _GPT2],
    "llama3": [_words(r"\p{N}{1,3}")],
    "qwen2": [_words(r"\p{N}")],
    "qwen35": [
        rf"{_CONTRACTIONS}|[^\r\n\p{{L}}\p{{N}}]?[\p{{L}}\p{{M}}]+|\p{{N}}"
        rf"| ?[^\s\p{{L}}\p{{M}}\p{{N}}]+[\r\n]*|{_BLANKS}"
    ],
    "gpt4o": [_cased_words(r"\p{N}{1,3}", f"{_CONTRACTIONS}?")],
    "tekken": [_cased_words(r"\p{N}", "")],
    "falcon": [r"[\p{P}\$\+<=>\^~\|`]+", _GPT2, "[0-9][0-9][0-9]"],
    "deepseek3": [
        r"\p{N}{1,3}",
        "[\u4e00-\u9fa5\u3040-\u309f\u30a0-\u30ff]+",
        r"[!\"#$%&'()*+,\-./:;<=>?@\[\\\]^_`{|}~][A-Za-z]+|[^\r\n\p{L}\p{P}\p{S}]?[\p{L}\p{M}]+"
        rf"| ?[\p{{P}}\p{{S}}]+[\r\n]*|{_BLANKS}",
    ],
    "seed-coder": [
        rf"{_CONTRACTIONS}|[^\r\n\p{{L}}\p{{N}}]?\p{{L}}+|\p{{N}}| ?[^\s\p{{L}}\p{{N}}\r\n]+|{_BLANKS}",
    ],
    # What llama.cpp does for files that were written before names were.
    "default": [r"[\p{P}\$\+<=>\^~\|]+", _GPT2, r"\p{N}+", "[0-9][0-9][0-9]"],
}

_NAMES: dict[str, str] = {
    "gpt2": "gpt-2 phi-2 mpt olmo jais exaone4 trillion granite-docling gigachat mellum a.x-4.0 modern-bert",
    "digits": "smollm starcoder refact command-r codeshell exaone minerva-7b mellum2",
    "llama3": "llama3 llama-v3 llama-bpe falcon3 falcon-h1 pixtral midm-2.0 lfm2 dbrx smaug-bpe glm4 chatglm-bpe",
    "qwen2": "qwen2 deepseek-r1-qwen stablelm2 megrez kormo hunyuan grok-2 solar-open",
    "qwen35": "qwen35",
    "gpt4o": "gpt-4o llama4 kanana2 minimax-m2",
    "tekken": "tekken",
    "falcon": "falcon",
    "deepseek3": "deepseek-v3 hunyuan-dense joyai-llm",
    "seed-coder": "seed-coder",
    "default": "default",
}
_FAMILY_OF = {name: family for family, names in _NAMES.items() for name in names.split()}

IGNORE_MERGES = frozenset(
    ["llama3", "llama-v3", "llama-bpe", "falcon3", "falcon-h1", "pixtral", "midm-2.0", "lfm2", "tekken"]
)
"""Names whose model takes a whole piece as one token when the vocabulary has it, before any merge."""


def pre_tokenizer(name: str) -> PreTokenizer:
    """The pre-tokeniser called ``name``, the mapping of bytes to printable characters included.

    Raises:
        BadModelFileError: the name is not known here.
    """
    family = _FAMILY_OF.get(name)
    if family is None:
        near = difflib.get_close_matches(name, _FAMILY_OF, n=3) or ["llama-bpe", "qwen2", "gpt-2"]
        raise BadModelFileError(
            f"tokenizer.ggml.pre is {name[:64]!r}, not one of the {len(_FAMILY_OF)} known pre-tokenisers "
            f"(near: {', '.join(near)}); use the model's safetensors folder, whose tokenizer.json spells it out"
        )
    splits: list[PreTokenizer] = [Split(Regex(pattern), "isolated") for pattern in _FAMILIES[family]]
    return Sequence([*splits, ByteLevel(add_prefix_space=False, use_regex=False)])
