"""Delimiters found in text that comes in pieces: what is surely none goes on at once, what may become one is held.

All watched patterns run side by side over each character, as sets of threads in order of preference (Pike's machine).
Threads that stand at the same place are one, so a character costs at most as many steps as the patterns have
instructions, whatever the text is.
"""

import re
from collections.abc import Sequence
from typing import NamedTuple, TypeAlias

from .patterns import Op, Pattern

MAX_DELIMITER_CHARS = 1024
"""A longer delimiter is none: it would hold back the text behind its beginning for ever."""


_MAX_WITH_LITERALS = 4 * MAX_DELIMITER_CHARS
"""What is spelled out may follow what was as long as it could be."""


class Hit(NamedTuple):
    """A delimiter that was found."""

    which: int
    """Its place among those that were watched."""
    text: str
    groups: dict[str, str]


class Found(NamedTuple):
    """What some text came to: what precedes a delimiter, the delimiter if there is one, and what follows it."""

    before: str
    hit: Hit | None
    rest: str


class Watch:
    """Patterns that are watched together, the more important first."""

    def __init__(self, patterns: Sequence[Pattern]) -> None:
        self.patterns = tuple(patterns)
        self.first = re.compile("|".join(p.first for p in patterns) or "(?!)", re.DOTALL)


class _Match(NamedTuple):
    start: int
    end: int
    slots: tuple[int, ...]


_Thread: TypeAlias = tuple[int, int, tuple[int, ...]]
"""Where it stands in the program, where its match begins, and the slots set so far."""


class _Lane:
    """One pattern at work."""

    __slots__ = ("_empty", "match", "pattern", "threads")

    def __init__(self, pattern: Pattern) -> None:
        self.pattern = pattern
        self.threads: list[_Thread] = []
        self.match: _Match | None = None
        self._empty = (-1,) * (2 + 2 * len(pattern.groups))

    def seed(self, position: int, is_start: bool, c: str = "") -> None:
        """A match may begin at ``position``, where ``c`` is the next character; the least preferred."""
        places = self.pattern.at_start if is_start else self.pattern.after[0]
        if c:
            places = [p for p in places if _takes(self.pattern.ops[p[0]], c)]
        if self.threads:
            seen = {t[0] for t in self.threads}
            places = [p for p in places if p[0] not in seen]
        for at, slots in places:
            self.threads.append((at, position, _set(self._empty, slots, position) if slots else self._empty))

    def step(self, c: str, position: int) -> None:
        """Take the character at ``position``."""
        ops, after = self.pattern.ops, self.pattern.after
        threads: list[_Thread] = []
        seen: set[int] = set()
        for at, start, slots in self.threads:
            most = MAX_DELIMITER_CHARS if isinstance(ops[at].test, re.Pattern) else _MAX_WITH_LITERALS
            if not _takes(ops[at], c) or position - start >= most:
                continue
            for to, saved in after[at + 1]:
                if to in seen:
                    continue
                seen.add(to)
                kept = _set(slots, saved, position + 1) if saved else slots
                if ops[to].kind == "match":
                    self._take(start, position + 1, kept)
                    self.threads = threads
                    return  # the others would be worse matches
                threads.append((to, start, kept))
        self.threads = threads

    def finish(self, position: int) -> None:
        """No more text comes: ends are reached now."""
        ops, threads, self.threads = self.pattern.ops, self.threads, []
        for at, start, slots in threads:
            places = [(at, ())]
            while places and ops[places[0][0]].kind == "end":
                slots = _set(slots, places[0][1], position)
                places = [p for p in self.pattern.after[places[0][0] + 1] if ops[p[0]].kind in ("end", "match")]
            if places and ops[places[0][0]].kind == "match":
                self._take(start, position, _set(slots, places[0][1], position))
                return

    def _take(self, start: int, end: int, slots: tuple[int, ...]) -> None:
        self.match = _Match(start, slots[0] if slots[0] >= 0 else end, slots)


def _takes(op: Op, c: str) -> bool:
    test = op.test
    return c == test if isinstance(test, str) else test.match(c) is not None


def _set(slots: tuple[int, ...], which: tuple[int, ...], position: int) -> tuple[int, ...]:
    changed = list(slots)
    for slot in which:
        changed[slot] = position
    return tuple(changed)


class Scanner:
    """Looks for the first of the watched delimiters. Earliest start, then longest, then the more important."""

    def __init__(self, watch: Watch, *, is_start: bool = False) -> None:
        self._watch = watch
        self._lanes = [_Lane(p) for p in watch.patterns]
        self.held = ""
        """The end of the text so far that may belong to a delimiter."""
        self._base = 0  # position of the first held character
        self._num_muted = 0
        self._starts = {0} if is_start else set()
        self._is_matched = False

    def mute(self) -> None:
        """What is held now is not to come out as text: the prompt has it already. The message begins behind it."""
        self._num_muted = len(self.held)
        self._starts = {0, self._base + len(self.held)}

    def feed(self, text: str, *, is_last: bool = False) -> Found:
        """More text. After a hit the scanner is spent: hand ``rest`` to the next one."""
        buffer, at = self.held + text, len(self.held)
        lanes = self._lanes
        is_live = self._is_matched or any(lane.threads for lane in lanes)
        while at < len(buffer):
            if not is_live:
                begin = self._watch.first.search(buffer, at)
                if begin is None:
                    at = len(buffer)
                    break
                at = begin.start()
            position = self._base + at
            c, is_live = buffer[at], False
            if not self._is_matched:
                is_start = position in self._starts
                for lane in lanes:
                    lane.seed(position, is_start, c)
            for lane in lanes:
                if lane.threads:
                    lane.step(c, position)
                    is_live = is_live or bool(lane.threads)
                    self._is_matched = self._is_matched or lane.match is not None
            at += 1
            if self._is_matched:
                is_live = True
                if (won := self._won()) is not None:
                    return self._found(buffer, won)
        if is_last:
            for lane in lanes:
                if not self._is_matched:
                    lane.seed(self._base + len(buffer), False)
                lane.finish(self._base + len(buffer))
            if (won := self._won()) is not None:
                return self._found(buffer, won)
            self.held = ""
            return Found(buffer[self._num_muted :], None, "")
        return Found(self._release(buffer), None, "")

    def _won(self) -> int | None:
        """The lane whose match is final; None while another may begin earlier or become longer."""
        matched = [(lane.match, i) for i, lane in enumerate(self._lanes) if lane.match is not None]
        if not matched:
            return None
        best, which = min(matched, key=lambda m: (m[0].start, m[0].start - m[0].end, m[1]))
        for lane in self._lanes:
            lane.threads = [t for t in lane.threads if t[1] <= best.start]
        return which if not any(lane.threads for lane in self._lanes) else None

    def _found(self, buffer: str, which: int) -> Found:
        lane = self._lanes[which]
        match = lane.match
        assert match is not None
        start, end = match.start - self._base, match.end - self._base
        spans = zip(match.slots[2::2], match.slots[3::2], strict=True)
        groups = {
            name: buffer[begin - self._base : stop - self._base]
            for name, (begin, stop) in zip(lane.pattern.groups, spans, strict=True)
            if begin >= 0 and stop >= 0
        }
        return Found(buffer[self._num_muted : max(start, self._num_muted)], Hit(which, buffer[start:end], groups),
                     buffer[end:])  # fmt: skip

    def _release(self, buffer: str) -> str:
        """What can no longer be part of a delimiter."""
        starts = [t[1] for lane in self._lanes for t in lane.threads]
        starts += [lane.match.start for lane in self._lanes if lane.match is not None]
        hold = min(starts, default=self._base + len(buffer)) - self._base
        text, self.held = buffer[min(self._num_muted, hold) : hold], buffer[hold:]
        self._num_muted = max(0, self._num_muted - hold)
        self._base += hold
        return text
