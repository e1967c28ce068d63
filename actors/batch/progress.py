"""How far a batch is: a bar on a terminal, else a line for each ten per cent; and its last line."""

import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from typing import Any, TextIO

from .. import terminal

_LINE_EVERY_S = 1.0


class Tally:
    """Counts of this run."""

    def __init__(self, total: int) -> None:
        self.total = total
        """Lines that were to be done in this run."""
        self.done = 0
        self.failed = 0
        self.num_tokens = 0
        self._begun_s = time.monotonic()

    def add(self, *, is_answer: bool, num_tokens: int) -> None:
        """One line is done."""
        self.done += 1
        self.failed += not is_answer
        self.num_tokens += num_tokens

    def text(self) -> str:
        """``80 of 100 lines, 2 failed, 5120 tokens, 410/s``."""
        rate = self.num_tokens / max(time.monotonic() - self._begun_s, 1e-3)
        failed = f", {self.failed} failed" if self.failed else ""
        return f"{self.done} of {self.total} lines{failed}, {self.num_tokens} tokens, {rate:.0f}/s"


class _Shown:
    """What is shown between the lines; nothing is the least."""

    def changed(self, tally: Tally) -> None:
        """A line is done."""


class _Lines(_Shown):
    def __init__(self, out: TextIO) -> None:
        self._out = out
        self._tenth = 0
        self._last_s = time.monotonic()

    def changed(self, tally: Tally) -> None:
        tenth, now_s = tally.done * 10 // tally.total, time.monotonic()
        if self._tenth < tenth < 10 and now_s - self._last_s >= _LINE_EVERY_S:
            self._tenth, self._last_s = tenth, now_s
            self._out.write(f"{tally.text()}\n")
            self._out.flush()


class _Bar(_Shown):
    def __init__(self, bars: Any, total: int) -> None:
        self._bars = bars
        self._task = bars.add_task("batch", total=total, tail="")

    def changed(self, tally: Tally) -> None:
        self._bars.update(self._task, completed=tally.done, tail=tally.text())


@contextmanager
def shown(tally: Tally, out: TextIO) -> Iterator[_Shown]:
    """Show ``tally`` on ``out`` until the block ends."""
    with ExitStack() as stack:
        yield _Lines(out) if terminal.plain(out) else _Bar(stack.enter_context(terminal.rich_bars(out)), tally.total)
