"""The pool of KV blocks: who holds how many references to which block, and which one is reused next.

Knows block numbers only: not requests, tokens, digests, nor the memory behind a block.

A block is in exactly one of three places::

    free (content worthless) --take--> used (count >= 1) --release, kept--> idle (count 0, content worth keeping)
         ^                                |     ^                             |
         +-----------release, not kept----+     +------------share------------+
         +-------------------------------evict, when no free block is left----+

Idle blocks leave in the order in which they became idle, so the least recently used one is evicted first.
"""

from collections.abc import Callable, Mapping, Sequence


class BlockPool:
    """Reference counts and reuse order of ``num_blocks`` blocks; ``on_evict`` is told of an idle block's reuse."""

    __slots__ = ("_counts", "_free", "_idle", "_kept", "_on_evict", "num_blocks")

    def __init__(self, num_blocks: int, on_evict: Callable[[int], None]) -> None:
        self.num_blocks = num_blocks
        self._on_evict = on_evict
        self._free = list(range(num_blocks - 1, -1, -1))  # a stack: warm blocks first, low numbers first at the start
        self._idle: dict[int, None] = {}  # an ordered set, oldest first
        self._counts = [0] * num_blocks
        self._kept = bytearray(num_blocks)

    @property
    def num_free(self) -> int:
        """Blocks that ``take`` could hand out now, idle ones included."""
        return len(self._free) + len(self._idle)

    @property
    def num_idle(self) -> int:
        """Unreferenced blocks whose content is kept."""
        return len(self._idle)

    def count(self, block: int) -> int:
        """References to ``block``."""
        return self._counts[block]

    def take(self, num: int) -> list[int]:
        """``num`` blocks with one reference each, their old content void. The caller has looked at ``num_free``."""
        if num > self.num_free:
            raise AssertionError(f"{num} blocks taken, {self.num_free} free of {self.num_blocks}")
        free, counts = self._free, self._counts
        taken: list[int] = []
        for _ in range(num):
            if free:
                block = free.pop()
            else:
                block = next(iter(self._idle))
                self._on_evict(block)
                del self._idle[block]
                self._kept[block] = 0
            counts[block] = 1
            taken.append(block)
        return taken

    def share(self, blocks: Sequence[int]) -> None:
        """One more reference to each; idle blocks come back to life."""
        for block in blocks:
            if self._counts[block] == 0:
                if block not in self._idle:
                    raise AssertionError(f"block {block} shared while free: its content is void")
                del self._idle[block]
            self._counts[block] += 1

    def release(self, blocks: Sequence[int]) -> None:
        """One reference less to each. Last block first: a chain's tail is of no use once its head is evicted."""
        for block in reversed(blocks):
            count = self._counts[block] - 1
            if count < 0:
                raise AssertionError(f"block {block} released more often than taken")
            self._counts[block] = count
            if count == 0:
                if self._kept[block]:
                    self._idle[block] = None
                else:
                    self._free.append(block)

    def keep(self, block: int) -> None:
        """Mark a used block's content as worth keeping after its last release."""
        if self._counts[block] == 0:
            raise AssertionError(f"block {block} kept while nobody uses it")
        self._kept[block] = 1

    def keep_none(self) -> None:
        """Void all kept content, idle or used; tells nobody."""
        self._free.extend(self._idle)
        self._idle.clear()
        self._kept = bytearray(self.num_blocks)

    def check(self, references: Mapping[int, int]) -> None:
        """Compare with the true number of ``references`` (block -> count, zeros left out).

        Raises:
            AssertionError: naming the block and both numbers.
        """
        used = {block: count for block, count in enumerate(self._counts) if count}
        if used != dict(references):
            wrong = sorted(set(used.items()) ^ set(references.items()))[:4]
            raise AssertionError(f"reference counts differ from the owners' at (block, count) {wrong}")
        free, idle = set(self._free), set(self._idle)
        if len(free) != len(self._free):
            raise AssertionError(f"{len(self._free) - len(free)} blocks are twice in the free list")
        total = len(free) + len(idle) + len(used)
        if total != self.num_blocks or free & idle or (free | idle) & used.keys():
            raise AssertionError(f"{len(free)} free + {len(idle)} idle + {len(used)} used != {self.num_blocks} blocks")
        if lost := [b for b in idle if not self._kept[b]] + [b for b in free if self._kept[b]]:
            raise AssertionError(f"blocks {lost[:4]} lie in the wrong place for whether they are kept")
