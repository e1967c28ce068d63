"""Where did the last few tokens stand before? Hash chains over a ring of tokens, as compressors have them. No torch.

One line per hash of two tokens holds the newest position behind such a pair; each position links to the one before it.
So a token costs a few array writes, memory is 16 to 24 bytes a token and fixed at the start, and nothing is ever
deleted: what the ring has overwritten is recognised by its position. Positions count all tokens ever written::

    gone .......... | floor ............................. end-1 |
                      at most ``capacity`` tokens

Knows no request and decides nothing about drafts.
"""

from array import array
from collections.abc import Sequence

KEY_LENGTH = 2
"""Tokens that a chain agrees on, hash collisions apart: the shortest match there is."""
_SPREAD = 4093  # a prime that keeps ``id * _SPREAD`` in one digit of a Python int


class TokenIndex:
    """A text that grows at its end, searchable for earlier occurrences of what stands there."""

    __slots__ = ("_heads", "_last", "_links", "_mask", "_tokens", "end", "floor")

    def __init__(self, capacity: int) -> None:
        """Room for at least ``capacity`` tokens; older ones are overwritten after that."""
        size = 1 << max(4, (capacity - 1).bit_length())
        self._mask = size - 1
        self._tokens = array("i", bytes(4 * size))
        self._links = array("q", bytes(8 * size))
        self._heads = array("q", bytes(8 * size))
        self._last = -1  # stands before and between texts, and is in nobody's tail
        self.end = 1  # position 0 stands for "none" in links and heads
        self.floor = 1
        """Oldest position that may be read; the owner may raise it."""

    def extend(self, token_ids: Sequence[int]) -> None:
        """Write tokens at the end."""
        tokens, links, heads, mask = self._tokens, self._links, self._heads, self._mask
        last, end = self._last, self.end
        for token in token_ids:
            tokens[end & mask] = token
            end += 1
            line = (last * _SPREAD ^ token) & mask
            links[end & mask] = heads[line]
            heads[line] = end
            last = token
        self._last, self.end = last, end
        if end - mask > self.floor:
            self.floor = end - mask

    def separate(self) -> None:
        """What comes next is another text: no match reaches over this point."""
        self.extend((-1,))

    def matches(self, tail: Sequence[int], most: int) -> list[tuple[int, int]]:
        """(length, position behind it) of up to ``most`` earlier occurrences of the end of ``tail``, newest first.

        Lengths are ``KEY_LENGTH`` to ``len(tail)``; at the position stands what came next then. ``tail`` may be the end
        of this text or of another. Chains are followed for at most ``4 * most`` links, so that a common pair costs no
        more than a rare one.
        """
        if len(tail) < KEY_LENGTH:
            return []
        wanted = array("i", tail)
        longest = len(wanted)
        first, last = wanted[-2], wanted[-1]
        tokens, links, mask, floor = self._tokens, self._links, self._mask, self.floor  # an index below 0 wraps rightly
        at = self._heads[(first * _SPREAD ^ last) & mask]
        found: list[tuple[int, int]] = []
        for _ in range(4 * most):
            if at < floor + KEY_LENGTH:
                break
            slot = at & mask
            if at < self.end and tokens[slot - 1] == last and tokens[slot - 2] == first:
                reach = min(longest, at - floor)
                start = slot - reach
                if start >= 0 and tokens[start:slot] == wanted[longest - reach :]:
                    found.append((reach, at))
                else:
                    length = KEY_LENGTH
                    while length < reach and tokens[slot - length - 1] == wanted[-length - 1]:
                        length += 1
                    found.append((length, at))
                if len(found) == most:
                    break
            at = links[slot]
        return found

    def tail(self, most: int) -> list[int]:
        """The last ``most`` tokens of the text that is being written."""
        start = (self.end - min(most, self.end - self.floor)) & self._mask
        stop = self.end & self._mask
        tail = (self._tokens[start:stop] if start <= stop else self._tokens[start:] + self._tokens[:stop]).tolist()
        return tail if -1 not in tail else tail[len(tail) - tail[::-1].index(-1) :]

    def spans(self, positions: Sequence[int], most: int) -> list[list[int]]:
        """Up to ``most`` tokens from each position on, to the end of its text."""
        tokens, mask, end = self._tokens, self._mask, self.end
        spans: list[list[int]] = []
        for position in positions:
            start = position & mask
            span = tokens[start : start + min(most, end - position)].tolist()
            spans.append(span[: span.index(-1)] if -1 in span else span)
        return spans

    def run(self, position: int, most: int) -> list[int]:
        """``most`` tokens from ``position`` on, fewer where that text ends.

        A run that reaches the end of the text goes on as the text would if it repeated: with what the run began with.
        """
        run = self.spans((position,), most)[0]
        while 0 < len(run) < most and position + len(run) >= self.end:
            run += run[: most - len(run)]
        return run

    def num_bytes(self) -> int:
        """Memory of the arrays."""
        return sum(a.itemsize * len(a) for a in (self._tokens, self._links, self._heads))
