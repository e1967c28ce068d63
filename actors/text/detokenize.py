"""Ids to text, one at a time, never splitting a character.

The joined pieces equal the decoding of all ids at once, for a decoder with exact bytes (``token_bytes.py``). One
difference is wanted: SentencePiece decoders void a whole run of byte tokens if any of it is not UTF-8, which cannot be
known while streaming; here only the wrong bytes become U+FFFD.

``tokenizers.DecodeStream`` serves the other decoders. Its known traps: it raises "Invalid prefix" when a text does not
grow monotonically (we start it again, count it and go on), and seeded with a prompt that ends inside a character it
emits the whole prompt (we seed with a short end that does not).
"""

import codecs
from collections.abc import Sequence

from tokenizers.decoders import DecodeStream

from .token_bytes import TokenBytes

_SEED_IDS = 8
"""Prompt tokens that a stream gets as its context."""
_MOST_PENDING = 16
"""Tokens held back as an unfinished character by a stream before they are given out as they are."""
_REPLACEMENT = "\ufffd"


class Detokenizer:
    """Text of one request's output. ``prompt_ids`` only give the context; none of their text comes out."""

    def __init__(
        self, tokens: TokenBytes, prompt_ids: Sequence[int] = (), *, skip_special_tokens: bool = True,
        kept_ids: frozenset[int] = frozenset(),
    ) -> None:  # fmt: skip
        """``kept_ids`` are special tokens whose text is wanted all the same."""
        self._tokens = tokens
        self._skip = tokens.special_ids - kept_ids if skip_special_tokens else frozenset()
        self._utf8 = codecs.getincrementaldecoder("utf-8")("replace")
        self._at_start = all(i in self._skip for i in prompt_ids)
        seen = [i for i in prompt_ids if i not in self._skip] if kept_ids else prompt_ids
        self._stream = None if tokens.exact else _Stream(tokens, seen, skip_special_tokens and not kept_ids)
        self._seed(prompt_ids)

    @property
    def num_repairs(self) -> int:
        """How often a ``DecodeStream`` had to be started again."""
        return self._stream.num_repairs if self._stream else 0

    def feed(self, token_id: int) -> str:
        """The text that ``token_id`` completes; empty while a character is unfinished."""
        if token_id in self._skip:
            return ""
        if self._stream is not None:
            return self._stream.feed(token_id)
        raw = self._tokens.of_first(token_id) if self._at_start else self._tokens.of(token_id)
        self._at_start = False
        return self._utf8.decode(raw)

    def flush(self) -> str:
        """What is left at the end: an unfinished character, shown as U+FFFD."""
        if self._stream is not None:
            return self._stream.flush()
        return self._utf8.decode(b"", True)

    def _seed(self, prompt_ids: Sequence[int]) -> None:
        """Take over the bytes of a character that the prompt leaves unfinished, so that the output can end it."""
        if self._stream is not None:
            return
        tail = b"".join(self._tokens.of(i) for i in prompt_ids[-4:] if i not in self._skip)
        for start in range(max(0, len(tail) - 3), len(tail)):
            if tail[start] >= 0xC0:
                decoder = codecs.getincrementaldecoder("utf-8")("strict")
                try:
                    unfinished = decoder.decode(tail[start:]) == ""
                except UnicodeDecodeError:
                    continue
                if unfinished:
                    self._utf8.decode(tail[start:])
                    return


class _Stream:
    """The same over a ``DecodeStream``, for decoders that have no bytes of single tokens."""

    def __init__(self, tokens: TokenBytes, prompt_ids: Sequence[int], skip_special_tokens: bool) -> None:
        self._tokenizer = tokens.tokenizer
        self._skip_special_tokens = skip_special_tokens
        self._context = list(prompt_ids[-_SEED_IDS:])
        self._pending: list[int] = []
        self.num_repairs = 0
        self._stream = self._start()

    def feed(self, token_id: int) -> str:
        self._pending.append(token_id)
        try:
            text = self._stream.step(self._tokenizer, token_id)
        except Exception:  # tokenizers raises bare Exception; "Invalid prefix" is the only fault of a known id
            self.num_repairs += 1
            return self._restart()
        if text is None:
            return self._restart() if len(self._pending) >= _MOST_PENDING else ""
        self._settle()
        return text

    def flush(self) -> str:
        """The text of the pending ids as it stands behind its context."""
        before, after = self._decode(self._context), self._decode(self._context + self._pending)
        text = after[len(before) :] if after.startswith(before) else self._decode(self._pending)
        self._settle()
        return text

    def _settle(self) -> None:
        self._context = [*self._context, *self._pending][-_SEED_IDS:]
        self._pending.clear()

    def _restart(self) -> str:
        text = self.flush()
        self._stream = self._start()
        return text

    def _start(self) -> DecodeStream:
        """A stream behind the context, up to an id that ends on a whole character."""
        while self._context and self._decode(self._context).endswith(_REPLACEMENT):
            self._context.pop()
        return DecodeStream(ids=self._context, skip_special_tokens=self._skip_special_tokens)

    def _decode(self, ids: list[int]) -> str:
        return self._tokenizer.decode(ids, skip_special_tokens=self._skip_special_tokens)
