"""JSON that comes in pieces, token by token, each with its text as strict JSON; and the dialects that models write.

A control character in a string, an escape that JSON has not, ``True`` and ``None``: what is meant is plain, so it is
put right. What is not JSON in any such way ends the reading, with the rest of the text untouched.
"""

import json
import re
from collections.abc import Generator, Mapping
from typing import Any, Literal, NamedTuple

MAX_DEPTH = 100
_SPACE = re.compile(r"[ \t\r\n]+")
_PLAIN = re.compile(r'[^"\\\x00-\x1f]+')
_WORD = re.compile(r"[-+.\w]+")
_NUMBER = re.compile(r"-?(?:0|[1-9][0-9]*)(?:\.[0-9]+)?(?:[eE][-+]?[0-9]+)?")
_KEY_ENDS = re.compile(r'[:{}\[\]",]')
_HEX = re.compile(r"[0-9a-fA-F]{4}")
_CONSTANTS = {"true": "true", "false": "false", "null": "null", "True": "true", "False": "false", "None": "null"}
_MAX_WORD = 400
_MAX_KEY = 1000


class Token(NamedTuple):
    """One token, or a piece of a string."""

    kind: Literal["space", "open", "close", "colon", "comma", "key", "begin", "chars", "end", "word"]
    """``begin``, ``chars`` and ``end`` are a string's; ``word`` is a number or a constant."""
    text: str
    """As strict JSON; the tokens of a value join to it."""


class Dialect(NamedTuple):
    """How the JSON is written."""

    unquoted_keys: bool = False
    string_delims: tuple[tuple[str, str], ...] = ()

    @staticmethod
    def of(args: Mapping[str, Any]) -> "Dialect":
        """From a template's ``content_args``.

        Raises:
            ValueError: ``string_delims`` is no list of pairs.
        """
        delims = args.get("string_delims", [])
        pairs = isinstance(delims, list) and all(isinstance(d, list) and len(d) == 2 for d in delims)
        if not pairs or not all(isinstance(text, str) and text for d in delims for text in d):
            raise ValueError("content_args.string_delims must be a list of [open, close], none of them empty")
        return Dialect(bool(args.get("unquoted_keys")), tuple((d[0], d[1]) for d in delims))


class JsonLexer:
    """Reads one value. A number or a constant that stands alone ends with the character behind it."""

    def __init__(self, dialect: Dialect = Dialect()) -> None:  # noqa: B008
        self.state: Literal["more", "done", "failed"] = "more"
        self.rest = ""
        """Behind the value, or from where it is no JSON; what is still undecided while there may be more."""
        self._dialect = dialect
        self._stack: list[str] = []
        self._expects: Literal["value", "first", "key", "colon", "next"] = "value"
        self._close: str | None = None  # of the string that is open
        self._is_key = False
        self._key: list[str] = []
        self._tokens: list[Token] = []

    @property
    def is_in_string(self) -> bool:
        """Whether what comes next is part of a string."""
        return self._close is not None

    def feed(self, text: str) -> list[Token]:
        """The tokens that ``text`` completes."""
        return list(self.read(text))

    def read(self, text: str) -> Generator[Token, None, None]:
        """The same one after the other. Closed early, it leaves what is behind the last token as ``rest``."""
        text, self.rest = self.rest + text, ""
        at = 0
        try:
            while at < len(text) and self.state == "more":
                self._tokens = []
                step = self._string(text, at) if self._close is not None else self._between(text, at)
                if step == at:  # it takes more text to tell
                    break
                at = step
                yield from self._tokens
        finally:
            self.rest = text[at:]

    def _put(self, kind: Any, text: str) -> None:
        self._tokens.append(Token(kind, text))

    def _fail(self, at: int) -> int:
        self.state = "failed"
        return at

    # --- between strings ----------------------------------------------------------------------------------------------

    def _between(self, text: str, at: int) -> int:
        """Past one token; ``at`` itself where it is not complete."""
        if space := _SPACE.match(text, at):
            self._put("space", space[0])
            return space.end()
        c = text[at]
        match self._expects:
            case "colon":
                return self._mark(c, at, "colon", "value") if c == ":" else self._fail(at)
            case "next":
                if c == ",":
                    return self._mark(c, at, "comma", "key" if self._stack[-1] == "{" else "value")
                return self._end(c, at)
            case "key":
                return self._begin_key(text, at)
            case "first" if c in "}]":
                return self._end(c, at)
            case "first" if self._stack[-1] == "{":
                return self._begin_key(text, at)
            case _:
                return self._value(text, at)

    def _mark(self, c: str, at: int, kind: Literal["colon", "comma"], expects: Any) -> int:
        self._put(kind, c)
        self._expects = expects
        return at + 1

    def _end(self, c: str, at: int) -> int:
        if c not in "}]" or self._stack[-1] != ("{" if c == "}" else "["):
            return self._fail(at)
        self._stack.pop()
        self._put("close", c)
        self._after_value()
        return at + 1

    def _after_value(self) -> None:
        self._expects = "next"
        if not self._stack:
            self.state = "done"

    def _value(self, text: str, at: int) -> int:
        c = text[at]
        if c in "{[":
            if len(self._stack) >= MAX_DEPTH:
                return self._fail(at)
            self._stack.append(c)
            self._put("open", c)
            self._expects = "first"
            return at + 1
        opened = self._open_string(text, at)
        if opened is not None:
            if opened > at:
                self._put("begin", '"')
            return opened
        word = _WORD.match(text, at)
        if word is None or len(word[0]) > _MAX_WORD:
            return self._fail(at)
        if word.end() == len(text):
            return at
        found = _CONSTANTS.get(word[0]) or (word[0] if _NUMBER.fullmatch(word[0]) else None)
        if found is None:
            return self._fail(at)
        self._put("word", found)
        self._after_value()
        return word.end()

    def _begin_key(self, text: str, at: int) -> int:
        opened = self._open_string(text, at)
        if opened is not None:
            self._is_key, self._key = opened > at, []
            return opened
        end = _KEY_ENDS.search(text, at) if self._dialect.unquoted_keys else None
        if end is None and self._dialect.unquoted_keys and len(text) - at <= _MAX_KEY:
            return at
        if end is None or end[0] != ":" or end.start() == at:
            return self._fail(at)
        self._put("key", json.dumps(text[at : end.start()].strip(), ensure_ascii=False))
        self._expects = "colon"
        return end.start()

    def _open_string(self, text: str, at: int) -> int | None:
        """Past an opening delimiter; ``at`` where it may be one; None where it is none."""
        is_partial = False
        for opening, closing in (*self._dialect.string_delims, ('"', '"')):
            if text.startswith(opening, at):
                self._close = closing if opening != '"' else '"'
                return at + len(opening)
            is_partial = is_partial or opening.startswith(text[at : at + len(opening)])
        return at if is_partial else None

    # --- in a string --------------------------------------------------------------------------------------------------

    def _string(self, text: str, at: int) -> int:
        if self._close != '"':
            return self._delimited(text, at)
        if plain := _PLAIN.match(text, at):
            self._chars(plain[0])
            return plain.end()
        c = text[at]
        if c == '"':
            self._end_string()
            return at + 1
        if c != "\\":
            self._chars(json.dumps(c)[1:-1])
            return at + 1
        if at + 1 == len(text):
            return at
        return self._escape(text, at)

    def _escape(self, text: str, at: int) -> int:
        c = text[at + 1]
        if c == "u":
            digits = text[at + 2 : at + 6]
            if len(digits) < 4 and all(d in "0123456789abcdefABCDEF" for d in digits):
                return at
            if _HEX.fullmatch(digits):
                self._chars(text[at : at + 6])
                return at + 6
        elif c in '"\\/bfnrt':
            self._chars(text[at : at + 2])
            return at + 2
        elif c == "'":
            self._chars(c)
            return at + 2
        self._chars("\\\\")  # a backslash that escapes nothing
        return at + 1

    def _delimited(self, text: str, at: int) -> int:
        """In a string of the dialect nothing is escaped."""
        closing = self._close or ""
        end = text.find(closing, at)
        if end == at:
            self._end_string()
            return at + len(closing)
        if end < 0:
            tails = range(max(at, len(text) - len(closing) + 1), len(text))
            end = next((i for i in tails if closing.startswith(text[i:])), len(text))
        if end > at:
            self._chars(json.dumps(text[at:end], ensure_ascii=False)[1:-1])
        return end

    def _chars(self, text: str) -> None:
        if self._is_key:
            self._key.append(text)
        else:
            self._put("chars", text)

    def _end_string(self) -> None:
        self._close = None
        if self._is_key:
            self._is_key = False
            self._put("key", '"' + "".join(self._key) + '"')
            self._expects = "colon"
        else:
            self._put("end", '"')
            self._after_value()
