"""Where a text ends because of a stop string, found while the text still grows.

The stop string that is complete first wins; of several complete at the same character the longest. This depends on the
text alone, never on how it was cut into pieces. Text that may still become a stop string is held back, so what was
given out is never taken back.
"""

from collections.abc import Sequence


class StopStrings:
    """Looks for any of ``stops`` (none empty) in a text given piece by piece."""

    def __init__(self, stops: Sequence[str], *, include: bool = False) -> None:
        if not all(stops):
            raise ValueError("an empty stop string must be refused before")
        self._stops = list(stops)
        self._include = include
        self._held = ""
        self.hit: str | None = None
        """The stop string that ended the text. Nothing may be fed after it."""

    def feed(self, text: str) -> str:
        """What may be shown now. After a hit: the text up to the stop string, or its end with ``include``."""
        if not self._stops:
            return text
        text = self._held + text
        best: tuple[int, int, str] | None = None
        for stop in self._stops:
            start = text.find(stop)
            if start >= 0 and (best is None or (start + len(stop), start) < best[:2]):
                best = (start + len(stop), start, stop)
        if best is not None:
            end, start, self.hit = best
            self._held = ""
            return text[: end if self._include else start]
        shown = len(text) - self._num_held(text)
        self._held = text[shown:]
        return text[:shown]

    def flush(self) -> str:
        """The text held back, when no more follows."""
        text, self._held = self._held, ""
        return text

    def _num_held(self, text: str) -> int:
        """Length of the longest end of ``text`` that begins a stop string."""
        longest = 0
        for stop in self._stops:
            for n in range(min(len(stop) - 1, len(text)), longest, -1):
                if text.endswith(stop[:n]):
                    longest = n
                    break
        return longest
