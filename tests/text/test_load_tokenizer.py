import json
import time
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tiny_tokenizers import byte_level, byte_level_metadata, sentence_piece_metadata, smollm2_path
from tokenizers import Tokenizer

from paceline.actors.text.load_tokenizer import from_gguf, from_json, load
from paceline.actors.text.pre_tokenizers import _FAMILIES, pre_tokenizer
from paceline.engine.errors import BadModelFileError
from paceline.engine.store.located import TokenizerSource

TEXTS = [
    "Hello world! It's a déjà vu, isn't it? I'LL go.",
    "def f(x):\n    if x:\n\t\treturn  [x ** 2]\n\n\n",
    "你好世界。こんにちは 🦊👩‍👩‍👧 café naïve Ω≈ç√",
    "   leading, trailing   \n  \r\n and\ttabs ",
    "<|im_start|>user\nhi<|im_end|>\n <|im_end|> |im_end|>",
    "x\u00a0y\u200bz \u0301combining",
    "",
]


def encode(tokenizer: Tokenizer, text: str) -> list[int]:
    return tokenizer.encode(text, add_special_tokens=False).ids


@settings(max_examples=200, deadline=None)
@given(st.text(max_size=60))
def test_gguf_metadata_gives_the_tokenizer_it_came_from(text: str) -> None:
    built = from_gguf(byte_level_metadata())
    assert encode(built, text) == encode(byte_level(), text)


def test_both_kinds_of_source(tmp_path: Path) -> None:
    path = tmp_path / "tokenizer.json"
    byte_level().save(str(path))
    tokenizer = load(TokenizerSource(kind="json", path=str(path)))
    assert [encode(tokenizer, t) for t in TEXTS] == [encode(byte_level(), t) for t in TEXTS]


@pytest.mark.parametrize("content", [None, b"", b"{}", b'{"model": {"type": "BPE"}}', b"\xff" * 100])
def test_what_is_no_tokenizer_json_is_one_error(tmp_path: Path, content: bytes | None) -> None:
    path = tmp_path / "tokenizer.json"
    if content is not None:
        path.write_bytes(content)
    with pytest.raises(BadModelFileError, match=r"tokenizer\.json.*pull the model again"):
        from_json(str(path))


def test_a_panic_of_the_tokenizers_package_is_one_error(tmp_path: Path) -> None:
    """Found by fuzzing: a panic is no Exception, so it ended the actor without a word about the file."""
    whole = json.loads(byte_level().to_str())
    whole["model"]["continuing_subword_prefix"] = "a longer prefix than some merge"
    path = tmp_path / "tokenizer.json"
    path.write_text(json.dumps(whole))
    with pytest.raises(BadModelFileError, match=r"tokenizer\.json.*pull the model again") as caught:
        from_json(str(path))
    assert "\n" not in str(caught.value)


def test_names_that_are_no_unicode_are_one_error_on_one_line() -> None:
    metadata = sentence_piece_metadata()
    metadata["tokenizer.ggml.tokens"][0] = "\ud800"
    with pytest.raises(BadModelFileError, match="cannot be built") as caught:
        from_gguf(metadata)
    assert "\n" not in str(caught.value)


def test_control_and_user_defined_tokens_match_whole() -> None:
    built = from_gguf(byte_level_metadata())
    ids = encode(built, "a<|im_end|><think>b")
    assert built.token_to_id("<|im_end|>") in ids
    assert built.token_to_id("<think>") in ids
    assert built.decode(ids) == "a<think>b"


@pytest.mark.parametrize(("flag", "first"), [(True, 1), (False, None), (None, 1)])
def test_bos_by_flag_and_by_the_default_of_the_kind(flag: bool | None, first: int | None) -> None:
    metadata = sentence_piece_metadata()
    if flag is not None:
        metadata["tokenizer.ggml.add_bos_token"] = flag
    ids = from_gguf(metadata).encode("the fox").ids
    assert (ids[0] == first) if first is not None else (1 not in ids)
    byte = byte_level_metadata() | {"tokenizer.ggml.bos_token_id": 1}
    assert 1 not in from_gguf(byte).encode("the fox").ids


def greedy_pieces(metadata: dict[str, Any], text: str) -> list[int]:
    """SentencePiece BPE the obvious way: join the neighbours whose whole scores best, leftmost first."""
    tokens, scores = metadata["tokenizer.ggml.tokens"], metadata["tokenizer.ggml.scores"]
    ids = {t: i for i, t in enumerate(tokens) if metadata["tokenizer.ggml.token_type"][i] == 1}
    pieces = list(text.replace(" ", "▁"))
    while True:
        wholes = [a + b for a, b in pairwise(pieces)]
        pairs = [(scores[ids[w]], -i) for i, w in enumerate(wholes) if w in ids]
        if not pairs:
            break
        i = -max(pairs)[1]
        pieces[i : i + 2] = ["".join(pieces[i : i + 2])]
    out: list[int] = []
    for piece in pieces:
        out += [ids[piece]] if piece in ids else [tokens.index(f"<0x{b:02X}>") for b in piece.encode()]
    return out


@settings(max_examples=300, deadline=None)
@given(st.text("thefoxinlg ,A你好", max_size=24))
def test_merges_from_scores_join_as_sentence_piece_does(text: str) -> None:
    metadata = sentence_piece_metadata(add_space_prefix=False)
    tokenizer = SENTENCE_PIECE
    assert encode(tokenizer, text) == greedy_pieces(metadata, text)
    assert tokenizer.decode(encode(tokenizer, text)) == text


SENTENCE_PIECE = from_gguf(sentence_piece_metadata(add_space_prefix=False))


def test_sentence_piece_puts_a_space_in_front() -> None:
    tokenizer = from_gguf(sentence_piece_metadata())
    assert tokenizer.encode("the fox", add_special_tokens=False).tokens == ["▁the", "▁fox"]
    assert tokenizer.decode(encode(tokenizer, "the fox")) == "the fox"
    assert tokenizer.encode("你", add_special_tokens=False).tokens == ["▁", "你"]
    assert tokenizer.encode("好", add_special_tokens=False).tokens == ["▁", "<0xE5>", "<0xA5>", "<0xBD>"]


@pytest.mark.parametrize("family", sorted(_FAMILIES))
def test_every_family_of_patterns_keeps_all_text(family: str) -> None:
    """The name of each family's first member is found through the table; the pieces join to the text."""
    from paceline.actors.text.pre_tokenizers import _NAMES

    cut = pre_tokenizer(_NAMES[family].split()[0])
    for text in TEXTS:
        pieces = cut.pre_tokenize_str(text)
        assert sum(end - start for _, (start, end) in pieces) == len(text)


def test_patterns_cut_where_their_models_do() -> None:
    def pieces(pre: str, text: str) -> list[str]:
        return [text[start:end] for _, (start, end) in pre_tokenizer(pre).pre_tokenize_str(text)]

    assert pieces("gpt-2", "in 2024, I'LL") == ["in", " 2024", ",", " I", "'", "LL"]
    assert pieces("smollm", "in 2024") == ["in", " ", "2", "0", "2", "4"]
    assert pieces("llama-bpe", "in 20245 I'LL\n\n x") == ["in", " ", "202", "45", " I", "'LL", "\n\n", " x"]
    assert pieces("qwen2", "in 20 (a)\n") == ["in", " ", "2", "0", " (", "a", ")\n"]
    assert pieces("gpt-4o", "helloWorld's") == ["hello", "World's"]
    assert pieces("tekken", "helloWorld 12") == ["hello", "World", " ", "1", "2"]
    assert pieces("deepseek-v3", "你好 1234") == ["你好", " ", "123", "4"]
    assert pieces("default", "a+b 1234") == ["a", "+", "b", " ", "123", "4"]


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"model": "bert"}, "'bert', not 'gpt2' or 'llama'"),
        ({"model": None}, "'None', not 'gpt2'"),
        ({"pre": "smolm"}, "'smolm', not one of .*near: smollm"),
        ({"pre": 3}, "tokenizer.ggml.pre is int, not str"),
        ({"tokens": []}, "tokens is missing or empty"),
        ({"tokens": None}, "tokens is missing or empty"),
        ({"tokens": ["a", "b", "a"], "token_type": None}, "'a' at 0 and at 2"),
        ({"tokens": [1, 2]}, "an entry that is not str"),
        ({"token_type": [1]}, "token_type has 1 entries for"),
        ({"merges": None}, "merges is missing"),
        ({"merges": ["ab"]}, "'ab', which is not two pieces"),
        ({"merges": ["no such", "nor this"]}, "cannot be built"),
    ],
)
def test_bad_metadata_is_one_error_naming_the_file(change: dict[str, Any], message: str) -> None:
    metadata = byte_level_metadata() | {f"tokenizer.ggml.{k}": v for k, v in change.items()}
    with pytest.raises(BadModelFileError, match=message) as caught:
        from_gguf(metadata, "some.gguf")
    assert str(caught.value).startswith("some.gguf: ")
    assert "\n" not in str(caught.value)


def test_sentence_piece_without_scores_is_refused() -> None:
    metadata = sentence_piece_metadata()
    del metadata["tokenizer.ggml.scores"]
    with pytest.raises(BadModelFileError, match="scores is missing"):
        from_gguf(metadata)


def test_ids_outside_the_vocabulary_are_not_used() -> None:
    metadata = sentence_piece_metadata() | {
        "tokenizer.ggml.bos_token_id": 10**9,
        "tokenizer.ggml.unknown_token_id": -1,
    }
    assert from_gguf(metadata).encode("the").tokens == ["▁the"]


# --- the real model --------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def smollm2() -> Tokenizer:
    path = smollm2_path()
    if path is None:
        pytest.skip("SmolLM2 is not on this machine: set PACELINE_TEST_GGUF or run make test")
    begun = time.perf_counter()
    tokenizer = load(TokenizerSource(kind="gguf", path=str(path)))
    assert time.perf_counter() - begun < 5, "0.3 s on a quiet machine"
    return tokenizer


@pytest.mark.model
def test_smollm2_ids(smollm2: Tokenizer) -> None:
    """Ids that Hugging Face's tokenizer.json of the model gives."""
    assert encode(smollm2, "Hello world! 123") == [19556, 905, 17, 216, 33, 34, 35]
    assert encode(smollm2, "Café déjà vu.") == [51, 1939, 2756, 32564, 90, 16739, 386, 101, 30]
    assert encode(smollm2, "  multiple   spaces") == [216, 2701, 256, 5600]
    assert encode(smollm2, "The capital of France is") == [504, 3575, 282, 4649, 314]
    assert encode(smollm2, "<|im_start|>") == [1]


@pytest.mark.model
@pytest.mark.slow
def test_smollm2_agrees_with_transformers(smollm2: Tokenizer) -> None:
    """Their conversion forgets that this model cuts digits one by one, so digits are left out here."""
    from transformers import AutoTokenizer

    path = smollm2_path()
    assert path is not None
    theirs = AutoTokenizer.from_pretrained(path.parent, gguf_file=path.name)
    for text in [*TEXTS, json.dumps(TEXTS), Path(__file__).read_text()]:
        text = text.translate({ord(digit): "d" for digit in "0123456789"})
        assert encode(smollm2, text) == theirs(text, add_special_tokens=False)["input_ids"], text[:80]
        assert smollm2.decode(encode(smollm2, text), skip_special_tokens=False) == text
