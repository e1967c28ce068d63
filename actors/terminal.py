"""What commands print: progress of a fetch, tables, sizes, and model text made safe for a terminal.

``rich`` draws the bar on a terminal and is imported only when one is needed: it costs more than all else that a warm
start does. Off a terminal there is one line for each ten per cent.
"""

import os
import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from typing import Any, TextIO

from ..engine.store.download import size_text
from ..engine.store.progress import Progress, Report

_LINE_EVERY_S = 1.0
_VERBS = {"wait": "waiting for", "fetch": "fetching", "unpack": "unpacking", "verify": "verifying"}
# A model may write anything, escape sequences that move the cursor or set the clipboard included.
_CONTROLS = {c: None for c in (*range(0x20), 0x7F, *range(0x80, 0xA0)) if chr(c) not in "\n\t"}


def safe(text: str, out: TextIO) -> str:
    """``text`` without control characters when ``out`` is a terminal; pipes and files get every byte."""
    return text.translate(_CONTROLS) if out.isatty() else text


def plain(out: TextIO) -> bool:
    """Whether ``out`` is no terminal that can redraw a line."""
    return not out.isatty() or os.environ.get("TERM") == "dumb"


def table(head: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """Columns two spaces apart, left-aligned."""
    widths = [max(len(row[i]) for row in (head, *rows)) for i in range(len(head))]
    lines = ("  ".join(f"{cell:<{w}}" for cell, w in zip(row, widths, strict=True)).rstrip() for row in (head, *rows))
    return "\n".join(lines) + "\n"


def age_text(seconds: float) -> str:
    """``3 days ago``."""
    for unit, length in (("day", 86400), ("hour", 3600), ("minute", 60)):
        if seconds >= length:
            n = int(seconds // length)
            return f"{n} {unit}{'s' if n != 1 else ''} ago"
    return "just now"


def date_text(unix_s: float) -> str:
    """How long ago a Unix time was."""
    return age_text(max(0.0, time.time() - unix_s))


@contextmanager
def progress(out: TextIO | None = None) -> Iterator[Report]:
    """A Report that shows itself on ``out`` (stderr) until the block ends."""
    to = out or sys.stderr
    with ExitStack() as stack:
        yield _Lines(to) if plain(to) else _Bars(stack, to)


class _Lines:
    """One line when a phase begins and ends, and for each ten per cent of it unless they come too fast to read."""

    def __init__(self, out: TextIO) -> None:
        self._out = out
        self._tenths: dict[tuple[str, str], int] = {}
        self._last_s = 0.0

    def __call__(self, p: Progress) -> None:
        tenth = p.done * 10 // p.total if p.total else 0
        before = self._tenths.get((p.phase, p.what), -1)
        now = time.monotonic()
        if tenth <= before or (0 < tenth < 10 and now - self._last_s < _LINE_EVERY_S):
            return
        self._last_s = now
        self._tenths[p.phase, p.what] = tenth
        line = f"{_VERBS[p.phase]} {p.what}"
        if p.phase == "wait":
            line += ": another paceline process is fetching it"
        elif p.total:
            line += f": {10 * tenth} % of {size_text(p.total)}{_speed(p)}"
        self._out.write(f"{line}\n")
        self._out.flush()


class _Bars:
    """One bar for each phase."""

    def __init__(self, stack: ExitStack, out: TextIO) -> None:
        self._stack = stack
        self._out = out
        self._bars: Any = None
        self._tasks: dict[tuple[str, str], Any] = {}

    def __call__(self, p: Progress) -> None:
        if self._bars is None:
            self._bars = self._stack.enter_context(rich_bars(self._out))
        key = (p.phase, p.what)
        if key not in self._tasks:
            self._tasks[key] = self._bars.add_task(f"{_VERBS[p.phase]} {p.what}", total=p.total or None, tail="")
        amount = f"{size_text(p.done)} of {size_text(p.total)}" if p.total else ""
        self._bars.update(self._tasks[key], completed=p.done, tail=f"{amount}{_speed(p)}")


def rich_bars(out: TextIO) -> Any:
    """Bars of rich; a task's ``tail`` is the text behind its bar."""
    from rich.console import Console
    from rich.progress import BarColumn, TextColumn
    from rich.progress import Progress as Bars

    columns = (TextColumn("{task.description}", markup=False), BarColumn(24), TextColumn("{task.fields[tail]}"))
    return Bars(*columns, console=Console(file=out))


def _speed(p: Progress) -> str:
    if p.rate <= 0:
        return ""
    left = f", {_duration(p.eta_s)} left" if p.eta_s is not None and p.done < p.total else ""
    return f", {size_text(p.rate)}/s{left}"


def _duration(seconds: float) -> str:
    whole = round(seconds)
    if whole < 60:
        return f"{whole} s"
    minutes, rest = divmod(whole, 60)
    return f"{minutes} min {rest} s" if minutes < 60 else f"{minutes // 60} h {minutes % 60} min"
