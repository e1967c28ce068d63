"""Which request holds which KV blocks of a drafter's own pool. No torch.

A drafter may lose any KV at any time: it is computed again from the tokens. So nothing is reserved and nobody waits;
whoever was used longest ago gives up all its blocks. Knows block numbers only.
"""

from collections.abc import Container

from ..engine.types import RequestId


class DraftBlocks:
    """``num_blocks`` blocks of ``block_size`` tokens, free or held by a request."""

    def __init__(self, num_blocks: int, block_size: int) -> None:
        self.num_blocks = num_blocks
        self.block_size = block_size
        self.num_evictions = 0
        self._free = list(range(num_blocks - 1, -1, -1))
        self._held: dict[RequestId, list[int]] = {}  # the one used longest ago comes first

    def count(self, request_id: RequestId) -> int:
        """Blocks that ``request_id`` holds; 0 after it was evicted."""
        return len(self._held.get(request_id, ()))

    def grow(self, request_id: RequestId, num_tokens: int, busy: Container[RequestId]) -> list[int] | None:
        """The new blocks with which ``request_id`` has room for ``num_tokens``; [] where it has that already.

        Others than ``busy`` are evicted for it where need be. None = even that would not do, and nothing has changed.
        """
        held = self._held.pop(request_id, [])
        self._held[request_id] = held
        missing = -(-num_tokens // self.block_size) - len(held)
        if missing > len(self._free):
            victims = [r for r in self._held if r != request_id and r not in busy]
            if missing > len(self._free) + sum(len(self._held[r]) for r in victims):
                return None
            for victim in victims:
                if missing <= len(self._free):
                    break
                if self._held[victim]:
                    self.num_evictions += 1
                self.release(victim)
        new = [self._free.pop() for _ in range(missing)]
        held += new
        return new

    def adopt(self, heir: RequestId, giver: RequestId, num_kept: int) -> list[int]:
        """The heir keeps its first ``num_kept`` blocks and gets those of ``giver`` behind them; these are returned."""
        given, held = self._held.pop(giver), self._held.pop(heir)
        self._free += reversed(held[num_kept:])
        self._held[heir] = held[:num_kept] + given
        return given

    def release(self, request_id: RequestId) -> None:
        """Give up all blocks of ``request_id``, if it holds any."""
        self._free += reversed(self._held.pop(request_id, []))

    def check(self) -> None:
        """Every block in exactly one place.

        Raises:
            AssertionError: naming how many are where.
        """
        held = [block for blocks in self._held.values() for block in blocks]
        if sorted(held + self._free) != list(range(self.num_blocks)):
            raise AssertionError(f"{len(held)} held + {len(self._free)} free blocks are not the {self.num_blocks}")
