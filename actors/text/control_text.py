"""Keeps control tokens that a client spells in its text ("<|im_end|>") from becoming control tokens.

The template writes control tokens as text, so in the rendered prompt the template's and the client's look alike. Hence:
before rendering, a *mark* (a private-use character that occurs nowhere else) is put inside every control text of the
client's values; afterwards a control text without a mark is genuine. A prompt that has marks is encoded by a twin of
the tokenizer that takes control texts for plain text; genuine ones reach it under aliases no client can guess. The twin
sees the text without marks and in one piece, so no white space or prefix comes in where a text was cut.
"""

import re
import secrets
from collections.abc import Iterable, Iterator, Mapping
from functools import cached_property
from typing import Any

from tokenizers import AddedToken, Tokenizer

from ...engine.errors import InvalidRequestError

_PRIVATE_USE = (range(0xE000, 0xF8FF), range(0xF0000, 0xFFFFE))


class ControlText:
    """The control tokens of one tokenizer."""

    def __init__(self, tokenizer: Tokenizer) -> None:
        self._tokenizer = tokenizer
        self._added = tokenizer.get_added_tokens_decoder()
        self._special = {t.content: (i, t) for i, t in self._added.items() if t.special and t.content}
        # Longest first: alternatives are tried in order, and the tokenizer too takes the longest.
        texts = sorted(self._special, key=len, reverse=True)
        self._any = "|".join(re.escape(t) for t in texts)
        self._starts = re.compile(f"(?=(?:{self._any}))(.)", re.DOTALL) if texts else None
        self._beginnings = {t[:n] for t in texts for n in range(1, len(t))}
        self._longest = max(map(len, texts), default=0)
        self._always_twin = any(t.normalized for _, t in self._special.values())

    def choose_mark(self, values: Any, source: str) -> str | None:
        """The mark for a conversation, or None when no string in ``values`` spells or begins a control text.

        ``source`` is the template, whose text must not hold the mark either.
        """
        texts = list(_strings(values))
        if not any(self._is_suspect(t) for t in texts):
            return None
        return unused_character([source, *texts])

    def guard(self, values: Any, mark: str | None) -> Any:
        """A copy of ``values`` (plain JSON) in which control texts hold the mark."""
        if mark is None:
            return values
        if isinstance(values, str):
            return self._guard_text(values, mark)
        if isinstance(values, list):
            return [self.guard(v, mark) for v in values]
        if isinstance(values, dict):
            return {self._guard_text(k, mark): self.guard(v, mark) for k, v in values.items()}
        return values

    def encode(self, text: str, mark: str | None = None) -> list[int]:
        """Ids of a rendered prompt; no bos is added."""
        if not self._special or (mark is None and not self._always_twin):
            return self._tokenizer.encode(text, add_special_tokens=False).ids
        twin = self.twin
        genuine = re.compile(f"(?:{self._any})" + (f"(?!{mark})" if mark else ""))
        text = genuine.sub(lambda m: twin.aliases[m[0]], text)
        return twin.encode(text.replace(mark, "") if mark else text)

    @cached_property
    def twin(self) -> "_Twin":
        """Built on first use (some 10 ms); ask for it early to spare the first prompt that needs it."""
        return _Twin(self._tokenizer)

    def _is_suspect(self, text: str) -> bool:
        return self._starts is not None and (self._starts.search(text) is not None or self._ends_open(text))

    def _ends_open(self, text: str) -> bool:
        """Whether the template's or another value's text behind this one could complete a control text."""
        return any(text[-n:] in self._beginnings for n in range(1, min(self._longest, len(text) + 1)))

    def _guard_text(self, text: str, mark: str) -> str:
        if self._starts is None:
            return text
        guarded = self._starts.sub(lambda m: m[1] + mark, text)
        return guarded + mark if self._ends_open(text) else guarded


class _Twin:
    """The tokenizer that reads control texts as plain text, and genuine ones under aliases."""

    def __init__(self, source: Tokenizer) -> None:
        added = source.get_added_tokens_decoder()
        self._tokenizer = self._copy(source, added)
        self._tokenizer.encode_special_tokens = True
        nonce = secrets.token_hex(8)
        self.aliases: dict[str, str] = {}
        """Control text -> the text that stands for it."""
        self._ids: dict[int, int] = {}
        for i, token in added.items():
            if token.special and token.content:
                alias = self.aliases[token.content] = f"\uf8ff{nonce}{i:x}\uf8ff"
                # Flags as the original's, so that it swallows the same white space.
                stand_in = AddedToken(alias, lstrip=token.lstrip, rstrip=token.rstrip, normalized=False)
                self._tokenizer.add_tokens([stand_in])
                alias_id = self._tokenizer.token_to_id(alias)
                assert alias_id is not None
                self._ids[alias_id] = i

    def encode(self, text: str) -> list[int]:
        return [self._ids.get(i, i) for i in self._tokenizer.encode(text, add_special_tokens=False).ids]

    @staticmethod
    def _copy(source: Tokenizer, added: Mapping[int, AddedToken]) -> Tokenizer:
        twin = Tokenizer(source.model)  # shares the vocabulary
        for part in ("normalizer", "pre_tokenizer"):
            if getattr(source, part) is not None:
                setattr(twin, part, getattr(source, part))
        for _, token in sorted(added.items(), key=lambda item: item[0]):
            (twin.add_special_tokens if token.special else twin.add_tokens)([token])
        if any(twin.token_to_id(t.content) != i for i, t in added.items()):
            twin = Tokenizer.from_str(source.to_str())  # ids with gaps: only a full copy keeps them
        return twin


def unused_character(texts: Iterable[str]) -> str:
    """A private-use character that none of ``texts`` holds.

    Raises:
        InvalidRequestError: there is none.
    """
    used = set().union(*texts)
    free = next((chr(c) for block in _PRIVATE_USE for c in block if chr(c) not in used), None)
    if free is None:
        raise InvalidRequestError("messages use all private-use characters of Unicode; leave one out", param="messages")
    return free


def _strings(value: Any) -> Iterator[str]:
    if isinstance(value, str):
        yield value
    elif isinstance(value, list):
        for v in value:
            yield from _strings(v)
    elif isinstance(value, Mapping):
        for k, v in value.items():
            yield from _strings(k)
            yield from _strings(v)
