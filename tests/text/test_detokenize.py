import codecs

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tiny_tokenizers import byte_level, sentence_piece_metadata, word_pieces
from tokenizers import Tokenizer, decoders, pre_tokenizers

from paceline.actors.text.detokenize import Detokenizer
from paceline.actors.text.load_tokenizer import from_gguf
from paceline.actors.text.token_bytes import TokenBytes, byte_alphabet

BYTES = TokenBytes(byte_level())
PIECES = TokenBytes(from_gguf(sentence_piece_metadata()))
WORDS = TokenBytes(word_pieces())


def deltas(tokens: TokenBytes, ids: list[int], prompt: list[int] | None = None, skip: bool = True) -> list[str]:
    detokenizer = Detokenizer(tokens, prompt or [], skip_special_tokens=skip)
    return [*(detokenizer.feed(i) for i in ids), detokenizer.flush()]


def id_of(tokenizer: Tokenizer, piece: str) -> int:
    found = tokenizer.token_to_id(piece)
    assert found is not None
    return found


def ids_of(raw: bytes) -> list[int]:
    """One id for each byte."""
    piece_of = {byte: piece for piece, byte in byte_alphabet().items()}
    return [id_of(byte_level(), piece_of[b]) for b in raw]


def test_the_alphabet_is_the_tokenizers() -> None:
    assert set(byte_alphabet()) == set(pre_tokenizers.ByteLevel.alphabet())
    assert sorted(byte_alphabet().values()) == list(range(256))


@settings(max_examples=300, deadline=None)
@given(st.lists(st.integers(0, byte_level().get_vocab_size() - 1), max_size=40), st.booleans())
def test_any_ids_join_to_their_decoding(ids: list[int], skip: bool) -> None:
    """Random ids are mostly broken UTF-8: still the same U+FFFD at the same places."""
    assert "".join(deltas(BYTES, ids, skip=skip)) == byte_level().decode(ids, skip_special_tokens=skip)


@settings(max_examples=200, deadline=None)
@given(st.text(max_size=40))
def test_text_never_shows_half_a_character(text: str) -> None:
    ids = byte_level().encode(text).ids
    pieces = deltas(BYTES, ids, skip=False)
    assert "".join(pieces) == text
    assert "\ufffd" not in "".join(pieces) or "\ufffd" in text
    assert pieces[-1] == ""


@settings(max_examples=200, deadline=None)
@given(st.text("abc hello fox\u4f60\u597d🦊<>", min_size=1, max_size=30), st.text("the fox", min_size=1, max_size=9))
def test_sentence_piece_output_continues_its_prompt(text: str, prompt: str) -> None:
    tokenizer = PIECES.tokenizer
    before = tokenizer.encode(prompt).ids
    ids = tokenizer.encode(text).ids[1:]
    whole = tokenizer.decode(before + ids)
    assert tokenizer.decode(before) + "".join(deltas(PIECES, ids, before)) == whole


def test_sentence_piece_answer_behind_nothing_starts_without_the_added_space() -> None:
    ids = PIECES.tokenizer.encode("the fox", add_special_tokens=False).ids
    bos = 1
    assert "".join(deltas(PIECES, ids, [bos])) == "the fox" == PIECES.tokenizer.decode([bos, *ids])
    assert "".join(deltas(PIECES, ids, ids)) == " the fox"


def test_wrong_bytes_are_replaced_one_by_one_and_right_ones_are_kept() -> None:
    byte = {b: id_of(PIECES.tokenizer, f"<0x{b:02X}>") for b in range(256)}
    ids = [byte[b] for b in [*"好".encode(), 0xFF, *"é".encode()]]
    assert "".join(deltas(PIECES, ids, [5])) == "好\ufffdé"


def test_a_character_that_the_prompt_began_is_completed() -> None:
    ids = ids_of("\U0001f9a2".encode())
    for cut in (1, 2, 3):
        assert "".join(deltas(BYTES, ids[cut:], ids[:cut])) == "\U0001f9a2"


def test_the_prompt_is_never_shown_again() -> None:
    """vllm#48853: a stream seeded with a prompt that ends inside a character emitted all of it."""
    prompt = byte_level().encode("the quick brown ").ids + ids_of("\U0001f9a2".encode())[:2]
    for tokens in (BYTES, WORDS):
        ids = [i % 12 for i in prompt] if tokens is WORDS else prompt
        assert len("".join(deltas(tokens, [5], ids))) <= 2


def test_special_tokens_are_text_only_when_asked() -> None:
    end = id_of(byte_level(), "<|im_end|>")
    assert deltas(BYTES, [end]) == ["", ""]
    assert deltas(BYTES, [end], skip=False) == ["<|im_end|>", ""]
    assert BYTES.of(end) == b"<|im_end|>"


def test_bytes_of_single_tokens_are_exact() -> None:
    ids = byte_level().encode("déjà 你好 🦊 fox").ids
    assert b"".join(map(BYTES.of, ids)) == "déjà 你好 🦊 fox".encode()
    assert BYTES.of(10**6) == b""
    assert PIECES.of(id_of(PIECES.tokenizer, "<0x0A>")) == b"\n"
    assert PIECES.of(id_of(PIECES.tokenizer, "▁the")) == b" the"


def test_metaspace_decoder() -> None:
    tokenizer = Tokenizer.from_str(PIECES.tokenizer.to_str())
    tokenizer.decoder = decoders.Metaspace()  # pyright: ignore[reportAttributeAccessIssue]
    tokens = TokenBytes(tokenizer)
    ids = PIECES.tokenizer.encode("the  fox", add_special_tokens=False).ids
    assert tokens.exact
    assert "".join(deltas(tokens, ids, [1])) == tokenizer.decode(ids)
    assert "".join(deltas(tokens, ids, ids)) == " " + tokenizer.decode(ids)


@settings(max_examples=200, deadline=None)
@given(st.lists(st.integers(0, 11), max_size=20))
def test_other_decoders_go_through_a_stream(ids: list[int]) -> None:
    assert not WORDS.exact
    prompt = [2]
    whole = word_pieces().decode(prompt + ids)
    assert "the" + "".join(deltas(WORDS, ids, prompt)) == whole


def test_a_stream_gives_up_waiting_for_a_character() -> None:
    detokenizer = Detokenizer(WORDS, [2])
    odd = id_of(word_pieces(), "\ufffd")
    pieces = [detokenizer.feed(odd) for _ in range(40)]
    assert "\ufffd" in "".join(pieces)
    assert max(i for i, p in enumerate(pieces) if p) - min(i for i, p in enumerate(pieces) if p) <= 32


def test_a_stream_is_started_again_on_an_invalid_prefix(monkeypatch: pytest.MonkeyPatch) -> None:
    """vllm#17448. No small tokenizer provokes it, so the stream's fault is played."""
    detokenizer = Detokenizer(WORDS, [2])
    assert detokenizer.feed(3) == " fox"

    class Broken:
        def step(self, tokenizer: Tokenizer, token_id: int) -> str:
            raise Exception("Invalid prefix encountered while decoding stream.")

    monkeypatch.setattr(detokenizer._stream, "_stream", Broken())
    assert detokenizer.feed(7) == " over"
    assert detokenizer.num_repairs == 1
    assert detokenizer.feed(8) == " dog", "the new stream works"
    assert detokenizer.num_repairs == 1


@given(st.binary(max_size=12))
def test_pythons_replacement_rule_is_the_tokenizers(raw: bytes) -> None:
    assert codecs.decode(raw, "utf-8", "replace") == byte_level().decode(ids_of(raw))
