"""The regular expressions of response templates, compiled for text that comes in pieces.

Python's ``re`` cannot say "this may become a match", and backtracks: a template comes with a model, so neither its
patterns nor the model's output are to be trusted with either. Here a pattern becomes a program that ``scanner.py``
runs over each character once. The dialect is Python's without look-behind, back-references and word boundaries; a
look-ahead may stand at the end only. The dot matches newlines, as in the reference.
"""

import re
from typing import Any, Literal, NamedTuple, TypeAlias

MAX_PATTERN_CHARS = 2000
MAX_OPS = 4000
_MAX_DEPTH = 32
_MAX_REPEAT = 256
_CLASSES = frozenset("sSwWdD")
_CONTROLS = {"n": "\n", "t": "\t", "r": "\r", "f": "\f", "v": "\v"}
_QUANTIFIER = re.compile(r"\{(\d{1,4})(?:(,)(\d{1,4})?)?\}")
_SPECIAL = frozenset("|)*+?")

Test: TypeAlias = "str | re.Pattern[str]"
"""One character, or what it must match."""
Node: TypeAlias = tuple[Any, ...]


Place: TypeAlias = tuple[int, tuple[int, ...]]
"""An instruction that takes a character, or ends; and the slots that are set on the way to it."""


class PatternError(ValueError):
    """A pattern that cannot be used; one line."""


class Op(NamedTuple):
    """One instruction. ``char`` takes a character; ``split`` goes on at ``to`` and, less gladly, at ``other``."""

    kind: Literal["char", "split", "jump", "save", "start", "end", "match"]
    to: int = 0
    other: int = 0
    """Of ``save``, its slot: 0 is the end of the match where a look-ahead follows, then two of each group."""
    test: Test = ""


class Pattern:
    """A compiled pattern: ``ops`` for the scanner, and what is known of it without text."""

    def __init__(self, source: str, root: Node, groups: list[str], literals: list[str]) -> None:
        self.source = source
        self.groups = groups
        self.literals = literals
        """Runs of plain characters in it, such as the texts of control tokens."""
        self.ops: list[Op] = []
        self._emit(root)
        self.ops.append(Op("match"))
        first, may_be_empty = self._first()
        if may_be_empty:
            raise PatternError(f"pattern {source[:80]!r} matches the empty text; have it match something")
        self.first = "|".join(dict.fromkeys(first)) or "(?!)"
        """A regular expression for the characters it can begin with."""
        self.after = [self._reached(at) for at in range(len(self.ops))]
        """From each instruction, where the next character is taken, in order of preference."""
        self.at_start = self._reached(0, start=True)
        """From the first, where the text begins."""

    def _emit(self, node: Node) -> None:
        if len(self.ops) > MAX_OPS:
            raise PatternError(f"pattern {self.source[:80]!r} is too large; use smaller repeat counts")
        match node:
            case ("char", test):
                self.ops.append(Op("char", test=test))
            case ("start" | "end", *_):
                self.ops.append(Op(node[0]))
            case ("cat", items):
                for item in items:
                    self._emit(item)
            case ("alt", items):
                self._alternatives(items)
            case ("group", slot, inner):
                self.ops.append(Op("save", other=slot))
                self._emit(inner)
                self.ops.append(Op("save", other=slot + 1))
            case ("look", inner):
                self.ops.append(Op("save", other=0))
                self._emit(inner)
            case ("repeat", inner, least, most, is_lazy):
                self._repeat(inner, least, most, is_lazy)

    def _alternatives(self, items: list[Node]) -> None:
        ends: list[int] = []
        for item in items[:-1]:
            split = self._reserve()
            self._emit(item)
            ends.append(self._reserve())
            self.ops[split] = Op("split", split + 1, len(self.ops))
        self._emit(items[-1])
        for end in ends:
            self.ops[end] = Op("jump", len(self.ops))

    def _repeat(self, inner: Node, least: int, most: int | None, is_lazy: bool) -> None:
        for _ in range(least):
            self._emit(inner)
        if most is None:
            split = self._reserve()
            self._emit(inner)
            self.ops.append(Op("jump", split))
            self._split(split, is_lazy, len(self.ops))
            return
        splits: list[int] = []
        for _ in range(most - least):
            splits.append(self._reserve())
            self._emit(inner)
        for split in splits:
            self._split(split, is_lazy, len(self.ops))

    def _reserve(self) -> int:
        self.ops.append(Op("jump"))
        return len(self.ops) - 1

    def _split(self, at: int, is_lazy: bool, end: int) -> None:
        self.ops[at] = Op("split", end, at + 1) if is_lazy else Op("split", at + 1, end)

    def _reached(self, at: int, *, start: bool = False) -> list[Place]:
        found: list[Place] = []
        seen: set[int] = set()
        stack: list[Place] = [(at, ())]
        while stack:
            at, slots = stack.pop()
            if at in seen:
                continue
            seen.add(at)
            op = self.ops[at]
            match op.kind:
                case "split":
                    stack += [(op.other, slots), (op.to, slots)]
                case "jump":
                    stack.append((op.to, slots))
                case "save":
                    stack.append((at + 1, (*slots, op.other)))
                case "start":
                    if start:
                        stack.append((at + 1, slots))
                case _:
                    found.append((at, slots))
        return found

    def _first(self) -> tuple[list[str], bool]:
        """What it can begin with, as regular expressions, and whether it may take no character at all."""
        found: list[str] = []
        seen: set[int] = set()
        stack, may_be_empty = [0], False
        while stack:
            at = stack.pop()
            if at in seen:
                continue
            seen.add(at)
            op = self.ops[at]
            match op.kind:
                case "char":
                    found.append(re.escape(op.test) if isinstance(op.test, str) else op.test.pattern)
                case "split":
                    stack += [op.to, op.other]
                case "jump":
                    stack.append(op.to)
                case "save" | "start":
                    stack.append(at + 1)
                case "match":
                    may_be_empty = True
                case _:
                    pass  # an end is no character, and comes once
        return found, may_be_empty


def compile_pattern(source: str) -> Pattern:
    """A regular expression as a program.

    Raises:
        PatternError: it is none, is too large, matches nothing at all, or needs what this dialect lacks.
    """
    if len(source) > MAX_PATTERN_CHARS:
        raise PatternError(f"pattern of {len(source)} characters: at most {MAX_PATTERN_CHARS}; shorten it")
    try:
        re.compile(source, re.DOTALL)
    except (re.error, RecursionError, OverflowError) as e:
        raise PatternError(f"pattern {source[:80]!r} is no regular expression ({e})") from e
    reader = _Reader(source)
    return Pattern(source, reader.whole(), reader.groups, reader.literals)


def compile_literals(texts: list[str]) -> Pattern:
    """Any of ``texts``; the longest of those that begin alike."""
    ordered = sorted(dict.fromkeys(texts), key=len, reverse=True)
    nodes: list[Node] = [("cat", [("char", c) for c in text]) for text in ordered]
    return Pattern("|".join(map(re.escape, ordered)), ("alt", nodes), [], ordered)


class _Reader:
    """Recursive descent over a source that ``re`` has accepted."""

    def __init__(self, source: str) -> None:
        self._source = source
        self._at = 0
        self._depth = 0
        self._run = ""
        self.groups: list[str] = []
        self.literals: list[str] = []

    def whole(self) -> Node:
        node = self._alternatives()
        if self._at < len(self._source):
            raise self._refusal("an unbalanced parenthesis")
        if not _looks_only_at_end(node):
            raise self._refusal("a look-ahead that is not at the end")
        return node

    def _alternatives(self) -> Node:
        items = [self._sequence()]
        while self._peek() == "|":
            self._at += 1
            items.append(self._sequence())
        return items[0] if len(items) == 1 else ("alt", items)

    def _sequence(self) -> Node:
        items: list[Node] = []
        while (c := self._peek()) and c not in "|)":
            items.append(self._quantified(self._atom()))
        self._end_run()
        return ("cat", items)

    def _atom(self) -> Node:
        c = self._source[self._at]
        self._at += 1
        match c:
            case "(":
                return self._group()
            case "[":
                return self._class()
            case ".":
                return self._test(re.compile(".", re.DOTALL))
            case "\\":
                return self._escape()
            case "$":
                self._end_run()
                return ("end",)
            case "^":
                raise self._refusal("^; use \\A")
            case _ if c in _SPECIAL:
                raise self._refusal(c)
            case _:
                return self._literal(c)

    def _group(self) -> Node:
        self._end_run()
        self._depth += 1
        if self._depth > _MAX_DEPTH:
            raise self._refusal("deeper nesting")
        slot, is_look = 0, False
        if self._source.startswith("?", self._at):
            if self._source.startswith("?:", self._at):
                self._at += 2
            elif self._source.startswith("?P<", self._at):
                end = self._source.index(">", self._at)
                self.groups.append(self._source[self._at + 3 : end])
                slot, self._at = 2 * len(self.groups), end + 1
            elif self._source.startswith("?=", self._at):
                self._at, is_look = self._at + 2, True
            else:
                raise self._refusal(f"({self._source[self._at : self._at + 3]}")
        inner = self._alternatives()
        self._at += 1
        self._depth -= 1
        return ("look", inner) if is_look else ("group", slot, inner) if slot else inner

    def _class(self) -> Node:
        start = self._at - 1
        if self._peek() == "^":
            self._at += 1
        self._at += 1  # a bracket that comes first is a character of the class
        while self._source[self._at - 1] != "]" or self._at - 1 <= start + 1 + (self._source[start + 1] == "^"):
            self._at += 2 if self._source[self._at - 1] == "\\" else 1
        return self._test(re.compile(self._source[start : self._at]))

    def _escape(self) -> Node:
        c = self._source[self._at]
        self._at += 1
        if c in _CLASSES:
            return self._test(re.compile("\\" + c))
        if c in _CONTROLS:
            return self._literal(_CONTROLS[c])
        if c in "xu":
            digits = self._source[self._at : self._at + (2 if c == "x" else 4)]
            self._at += len(digits)
            return self._literal(chr(int(digits, 16)))
        if c in "Zz":
            self._end_run()
            return ("end",)
        if c == "A":
            self._end_run()
            return ("start",)
        if c.isalnum():
            raise self._refusal(f"\\{c}")
        return self._literal(c)

    def _quantified(self, node: Node) -> Node:
        c = self._peek()
        counted = _QUANTIFIER.match(self._source, self._at) if c == "{" else None
        if (c not in ("*", "+", "?") or not c) and counted is None:
            return node
        if node[0] in ("look", "start", "end"):
            raise self._refusal("a repeated assertion")
        self._drop_from_run()
        if counted is not None:
            self._at = counted.end()
            least = int(counted[1])
            most = least if counted[2] is None else None if counted[3] is None else int(counted[3])
        else:
            self._at += 1
            least, most = {"*": (0, None), "+": (1, None), "?": (0, 1)}[c]
        if max(least, most or 0) > _MAX_REPEAT:
            raise self._refusal(f"more than {_MAX_REPEAT} repeats")
        is_lazy = self._peek() == "?"
        if self._peek() == "+":
            raise self._refusal("a possessive quantifier")
        self._at += is_lazy
        return ("repeat", node, least, most, is_lazy)

    def _literal(self, c: str) -> Node:
        self._run += c
        return ("char", c)

    def _test(self, test: "re.Pattern[str]") -> Node:
        self._end_run()
        return ("char", test)

    def _end_run(self) -> None:
        if self._run:
            self.literals.append(self._run)
        self._run = ""

    def _drop_from_run(self) -> None:
        """The last character is repeated, so it is no fixed part of a run."""
        self._run = self._run[:-1]
        self._end_run()

    def _peek(self) -> str:
        return self._source[self._at : self._at + 1]

    def _refusal(self, what: str) -> PatternError:
        return PatternError(f"pattern {self._source[:80]!r} has {what}, which response templates cannot use here")


def _looks_only_at_end(node: Node, *, is_last: bool = True) -> bool:
    match node:
        case ("look", inner):
            return is_last and _looks_only_at_end(inner, is_last=False)
        case ("cat", items):
            return all(_looks_only_at_end(n, is_last=is_last and n is items[-1]) for n in items)
        case ("alt", items):
            return all(_looks_only_at_end(n, is_last=is_last) for n in items)
        case ("group", _, inner) | ("repeat", inner, *_):
            return _looks_only_at_end(inner, is_last=False)
        case _:
            return True
