"""Ids -> text, one at a time: the joined pieces are the decoding of all ids, and no character is split."""

from fuzzing.target import Target
from tiny_tokenizers import byte_level, sentence_piece_metadata, word_pieces

from paceline.actors.text.detokenize import Detokenizer
from paceline.actors.text.load_tokenizer import from_gguf
from paceline.actors.text.stop_strings import StopStrings
from paceline.actors.text.token_bytes import TokenBytes

TOKENS = [
    TokenBytes(byte_level()),
    TokenBytes(from_gguf(sentence_piece_metadata())),
    TokenBytes(from_gguf(sentence_piece_metadata(add_space_prefix=False))),
    TokenBytes(word_pieces()),
]
_STOPS = ["\n", "the", "\ufffd", "o x"]


def run(data: bytes) -> None:
    """A byte for the tokenizer and special tokens, a byte for the length of the prompt, and ids of two bytes."""
    if len(data) < 2:
        return
    tokens, skip, num_prompt = TOKENS[data[0] % 4], bool(data[0] & 4), data[1] % 8
    size = tokens.tokenizer.get_vocab_size()
    ids = [int.from_bytes(data[i : i + 2], "little") % (size + 2) for i in range(2, len(data) - 1, 2)]
    prompt, output = ids[:num_prompt], ids[num_prompt:]
    detokenizer = Detokenizer(tokens, prompt, skip_special_tokens=skip)
    pieces = [*(detokenizer.feed(i) for i in output), detokenizer.flush()]
    text = "".join(pieces)
    text.encode()  # whole characters only
    if tokens.exact and not prompt:
        assert text == exact_text(tokens, output, skip), (output, pieces)
    if tokens.exact:
        for piece in pieces[:-1]:
            if piece.endswith("\ufffd"):  # wrong bytes, and not the first ones of a character
                assert "\ufffd" in text
    _check_stops(pieces, text)


def exact_text(tokens: TokenBytes, ids: list[int], skip: bool) -> str:
    """All bytes at once, as ``Tokenizer.decode`` has them, but for single wrong bytes instead of whole runs of them."""
    kept = [i for i in ids if not (skip and i in tokens.special_ids)]
    raw = b"".join(tokens.of(i) if n else tokens.of_first(i) for n, i in enumerate(kept))
    text = raw.decode(errors="replace")
    if "\ufffd" not in text:
        known = [i for i in ids if tokens.tokenizer.id_to_token(i) is not None]
        assert text == tokens.tokenizer.decode(known, skip_special_tokens=skip), ids
    return text


def _check_stops(pieces: list[str], text: str) -> None:
    """Stop strings cut the text where they would cut the whole."""
    stops, whole = StopStrings(_STOPS), StopStrings(_STOPS)
    shown = ""
    for piece in pieces:
        shown += stops.feed(piece)
        if stops.hit is not None:
            break
    expected = whole.feed(text)
    if stops.hit is None:
        shown, expected = shown + stops.flush(), expected + whole.flush()
    assert (shown, stops.hit) == (expected, whole.hit)


def _seeds() -> list[bytes]:
    found: list[bytes] = []
    for number, tokens in enumerate(TOKENS):
        ids = tokens.tokenizer.encode("the fox d\u00e9j\u00e0 \u4f60\u597d \U0001f98a over <|im_end|>\n dog").ids
        raw = b"".join(i.to_bytes(2, "little") for i in ids)
        found += [bytes([number, 0]) + raw, bytes([number | 4, 3]) + raw]
    return found


TARGET = Target(run=run, seeds=_seeds(), most_bytes=512)
