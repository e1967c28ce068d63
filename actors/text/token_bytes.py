"""The exact bytes that each token adds to a text, read off the tokenizer's decoder.

Text must never be cut inside a character, and log-probabilities show each token's bytes: both need bytes, while
``Tokenizer.decode`` gives text only. Two kinds of decoder cover the models we serve: byte-level (each character of a
piece stands for one byte) and SentencePiece (``\u2581`` is a space, ``<0x0A>`` a byte). For any other decoder ``exact``
is False, and ``of`` is what the token decodes to when it stands alone.
"""

import re
from functools import cache
from typing import Any

import msgspec
from tokenizers import Tokenizer

_BYTE_PIECE = re.compile(r"<0x([0-9A-Fa-f]{2})>")


@cache
def byte_alphabet() -> dict[str, int]:
    """GPT-2's printable character for each byte: the printable ones of Latin-1 stand for themselves."""
    printable = [*range(0x21, 0x7F), *range(0xA1, 0xAD), *range(0xAE, 0x100)]
    others = [b for b in range(256) if b not in set(printable)]
    alphabet = {chr(b): b for b in printable}
    alphabet.update({chr(256 + i): b for i, b in enumerate(others)})
    return alphabet


class TokenBytes:
    """Token id -> bytes, filled in as ids are seen. One for each tokenizer; shared by all requests."""

    def __init__(self, tokenizer: Tokenizer) -> None:
        self.tokenizer = tokenizer
        self.special_ids = frozenset(i for i, t in tokenizer.get_added_tokens_decoder().items() if t.special)
        """Control tokens: left out of text when ``skip_special_tokens`` is set."""
        self._known: dict[int, bytes] = {}
        self._byte_level = False
        self._replace: list[tuple[str, str]] = []
        self._byte_fallback = False
        self._strip = 0
        self._metaspace: str | None = None
        self.exact = self._read_decoder()

    def of(self, token_id: int) -> bytes:
        """Bytes of the token inside a text; empty for an id that has no piece."""
        known = self._known.get(token_id)
        if known is None:
            known = self._known[token_id] = self._spell(token_id)
        return known

    def of_first(self, token_id: int) -> bytes:
        """Bytes of the token at the start of a text, where SentencePiece decoders drop the space they had added."""
        if self._metaspace is not None:
            piece = self.tokenizer.id_to_token(token_id) or ""
            return piece.replace(self._metaspace, "").encode()
        raw = self.of(token_id)
        spaces = len(raw) - len(raw.lstrip(b" "))
        return raw[min(spaces, self._strip) :]

    def _spell(self, token_id: int) -> bytes:
        piece = self.tokenizer.id_to_token(token_id)
        if piece is None:
            return b""
        if not self.exact:
            return self.tokenizer.decode([token_id], skip_special_tokens=False).encode()
        if self._byte_level:
            alphabet = byte_alphabet()
            codes = [alphabet.get(c) for c in piece]
            # A piece outside the alphabet is an added token in plain text.
            return piece.encode() if None in codes else bytes(c for c in codes if c is not None)
        for old, new in self._replace:
            piece = piece.replace(old, new)
        byte = _BYTE_PIECE.fullmatch(piece) if self._byte_fallback else None
        return bytes([int(byte[1], 16)]) if byte else piece.encode()

    def _read_decoder(self) -> bool:
        """Note what the decoder does; False when it is of a kind that has no bytes of single tokens."""
        decoder = self.tokenizer.decoder
        if decoder is None:
            return False
        spec: dict[str, Any] = msgspec.json.decode(decoder.__getstate__())
        steps = spec["decoders"] if spec["type"] == "Sequence" else [spec]
        kinds = [step["type"] for step in steps]
        if kinds == ["ByteLevel"]:
            self._byte_level = True
            return True
        return all(self._read_step(step) for step in steps)

    def _read_step(self, step: dict[str, Any]) -> bool:
        match step:
            case {"type": "Replace", "pattern": {"String": str(old)}, "content": str(new)}:
                self._replace.append((old, new))
            case {"type": "ByteFallback"}:
                self._byte_fallback = True
            case {"type": "Fuse"}:
                pass
            case {"type": "Strip", "content": " ", "start": int(start), "stop": 0}:
                self._strip = start
            case {"type": "Metaspace", "replacement": str(mark), "prepend_scheme": str(scheme)}:
                self._replace.append((mark, " "))
                self._metaspace = mark if scheme != "never" else None
            case _:
                return False
        return True
