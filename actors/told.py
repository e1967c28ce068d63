"""How much of one choice its caller was told, so that a stream that begins anew is told only where it goes on.

A choice's text, parts, ids and log-probabilities depend on its tokens alone; how they are cut into deltas does not. So
a stream that comes again from its beginning is the same text in other pieces, and is cut where the caller stands.
"""

import msgspec

from .messages import Part, TextDelta


class Gap(Exception):
    """Text is missing."""


class Told:
    """Of one choice. Characters are those of ``TextDelta.num_chars``."""

    __slots__ = (
        "_has_prompt", "_ids", "_is_again", "_logprobs", "_num_cached", "_num_tokens", "_place", "is_over", "num_chars",
    )  # fmt: skip

    def __init__(self) -> None:
        self.num_chars = 0
        """Told so far."""
        self.is_over = False
        """The last delta has come; nothing is told any more."""
        self._has_prompt = False  # the prompt's log-probabilities were told
        self._num_tokens = -1
        self._ids = self._logprobs = 0
        self._num_cached = 0
        self._is_again = False
        self._place = (0, 0, 0)  # characters, ids, log-probabilities of the stream that comes, where it comes again

    def begin_again(self) -> None:
        """From now on come deltas of a stream that begins anew."""
        self._is_again = True
        self._place = 0, 0, 0

    def news(self, delta: TextDelta) -> TextDelta | None:
        """What of ``delta`` is to be told; None = nothing.

        Raises:
            Gap: it begins behind what has come.
        """
        place = self._place[0] if self._is_again else self.num_chars
        if self.is_over or delta.offset < place:
            return None
        if delta.offset > place:
            raise Gap(f"after character {place}")
        told = self._rest(delta) if self._is_again else delta
        if told is None:
            return None
        self.num_chars += told.num_chars
        self._ids += len(told.token_ids)
        self._logprobs += len(told.logprobs or ())
        self._has_prompt |= told.prompt_logprobs is not None
        if self._num_tokens < 0:
            self._num_cached = told.num_cached
        self._num_tokens = max(self._num_tokens, told.num_tokens)
        self.is_over = told.finish_reason is not None
        return told

    def _rest(self, delta: TextDelta) -> TextDelta | None:
        chars, ids, logprobs = self._place
        num_chars, num_ids, num_logprobs = delta.num_chars, len(delta.token_ids), len(delta.logprobs or ())
        self._place = chars + num_chars, ids + num_ids, logprobs + num_logprobs
        pieces = _behind(delta.pieces, min(self.num_chars - chars, num_chars))
        is_plain = all(piece.kind == "content" for piece in pieces)
        rest = msgspec.structs.replace(
            delta,
            offset=max(chars, self.num_chars),
            text="".join(piece.text for piece in pieces if piece.kind == "content"),
            parts=[] if is_plain else pieces,
            token_ids=delta.token_ids[max(0, self._ids - ids) :],
            logprobs=None if delta.logprobs is None else delta.logprobs[max(0, self._logprobs - logprobs) :] or None,
            prompt_logprobs=None if self._has_prompt else delta.prompt_logprobs,
            num_cached=delta.num_cached if self._num_tokens < 0 else self._num_cached,
        )
        has_more = rest.text or rest.parts or rest.token_ids or rest.logprobs or rest.prompt_logprobs
        is_news = has_more or rest.finish_reason is not None or rest.num_tokens > self._num_tokens
        return rest if is_news else None


def _behind(pieces: list[Part], num_chars: int) -> list[Part]:
    """``pieces`` without their first ``num_chars`` characters."""
    left: list[Part] = []
    for piece in pieces:
        if num_chars <= 0:
            left.append(piece)
        elif num_chars < len(piece.text):
            left.append(msgspec.structs.replace(piece, text=piece.text[num_chars:]))
        num_chars -= len(piece.text)
    return left
