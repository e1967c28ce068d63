"""The block tables of running requests: what they share, take, publish and give back.

Stands between requests and the pool; decides nothing. A request with ``n`` planned tokens holds exactly
``ceil(n / block_size)`` blocks, except while a row with drafts is unanswered, whose slots it holds too::

    table   [ shared or published | own, full | own, partly filled ]
    slots   0 ................................. num_planned-1 | waste

Only full blocks are ever shared, so nobody writes into a block that another reads.
"""

from collections.abc import Iterable, Sequence

from .limits import CoreConfig
from .prefix import PrefixIndex
from .request import Request

NO_BLOCKS: list[int] = []  # shared by all rows without new blocks; a plan is never written to


class BlockTables:
    """All block tables over one pool, and the promise of blocks to prompts that are still being computed."""

    __slots__ = ("_block_size", "_index", "_prefix_caching", "num_reserved", "pool")

    def __init__(self, config: CoreConfig) -> None:
        self._block_size = config.block_size
        self._prefix_caching = config.enable_prefix_caching
        self._index = PrefixIndex(config.num_blocks, config.block_size)
        self.pool = self._index.pool
        self.num_reserved = 0
        """Blocks that prefilling requests will still take for their known tokens. Admission leaves them alone, so that
        two half-computed prompts never wait for each other."""

    def blocks_for(self, num_tokens: int) -> int:
        """Blocks that hold ``num_tokens`` slots."""
        return -(-num_tokens // self._block_size)

    def find(self, request: Request, parent: Request | None) -> list[int]:
        """Blocks that already hold the beginning of ``request``: its fork parent's or published ones, the longer run.

        The last known token is always left to compute: its logits are wanted.
        """
        if not request.reads_cache:
            return NO_BLOCKS
        most = (request.num_known - 1) // self._block_size
        forked: list[int] = []
        if parent is not None and parent.cache_salt == request.cache_salt:
            size = min(request.num_known - 1, parent.num_computed, request.num_prompt, parent.num_prompt)
            end = size // self._block_size
            if parent.tokens[: end * self._block_size] == request.tokens[: end * self._block_size]:
                forked = parent.blocks[:end]
        if not self._prefix_caching or len(forked) == most:
            return forked
        found = self._index.match(request.chain, request.tokens, most)
        return found if len(found) > len(forked) else forked

    def has_room(self, request: Request, shared: Sequence[int], margin: int) -> bool:
        """Can all known tokens of ``request`` and its next one get blocks, with ``margin`` blocks to spare?"""
        pool = self.pool
        idle = sum(1 for block in shared if pool.count(block) == 0)
        wanted = self.blocks_for(min(request.num_known + 1, request.max_len)) - len(shared)
        return pool.num_free - idle - self.num_reserved - margin >= wanted

    def open(self, request: Request, shared: Sequence[int]) -> None:
        """Begin a table with ``shared`` blocks, and reserve the rest of the known tokens' blocks."""
        self.pool.share(shared)
        request.blocks = list(shared)
        request.num_published = len(shared)
        request.num_planned = request.num_computed = request.num_matched = len(shared) * self._block_size
        request.reserved = self.blocks_for(request.num_known) - len(shared)
        self.num_reserved += request.reserved

    def most_slots(self, request: Request) -> int:
        """Slots that ``request`` could hold if it took every free block."""
        return (len(request.blocks) + self.pool.num_free) * self._block_size

    def grow(self, request: Request, num_slots: int) -> list[int]:
        """Take blocks until ``request`` holds ``num_slots`` slots; the new ones. The caller knows they are free."""
        num = self.blocks_for(num_slots) - len(request.blocks)
        if num <= 0:
            return NO_BLOCKS
        new = self.pool.take(num)
        request.blocks += new
        if request.reserved:
            promised = min(num, request.reserved)
            request.reserved -= promised
            self.num_reserved -= promised
        return new

    def trim(self, request: Request) -> None:
        """Free whole blocks behind the planned tokens: the slots of refused drafts."""
        keep = self.blocks_for(request.num_planned)
        if keep < len(request.blocks):
            self.pool.release(request.blocks[keep:])
            del request.blocks[keep:]

    def publish(self, request: Request) -> None:
        """Make full blocks of committed and computed tokens findable."""
        end = request.num_computed // self._block_size
        if end > request.num_published:
            if self._prefix_caching:
                self._index.publish(request.chain, request.tokens, request.blocks, request.num_published, end)
            request.num_published = end

    def close(self, request: Request) -> list[int]:
        """End a table. The caller gives the returned blocks back to the pool when no unanswered plan writes to them."""
        self.num_reserved -= request.reserved
        request.reserved = 0
        blocks, request.blocks = request.blocks, []
        return blocks

    def forget(self) -> None:
        """The memory behind all blocks is gone; tables were closed before."""
        self._index.clear()

    def reset(self) -> int:
        """Forget what is published, of running tables too; how many blocks that were."""
        num = len(self._index)
        self._index.clear()
        return num

    def num_wasted_slots(self, running: Iterable[Request]) -> int:
        """Slots of the tables of ``running`` in which no token is stored or about to be."""
        return sum(len(r.blocks) * self._block_size - r.num_planned for r in running)

    def check(self, running: Sequence[Request], parked: Iterable[int]) -> None:
        """Compare tables, pool, index and reservations; ``parked`` blocks wait for unanswered plans.

        Raises:
            AssertionError: naming the request and both numbers.
        """
        references: dict[int, int] = {}
        for block in (*parked, *(block for r in running for block in r.blocks)):
            references[block] = references.get(block, 0) + 1
        self.pool.check(references)
        self._index.check()
        for r in running:
            wanted = self.blocks_for(r.num_planned)
            if len(r.blocks) != wanted or len(set(r.blocks)) != wanted:
                raise AssertionError(f"request {r.request_id}: blocks {r.blocks} for {r.num_planned} planned tokens")
            if r.num_published != r.num_computed // self._block_size:
                raise AssertionError(f"request {r.request_id}: {r.num_published} published of {r.num_computed}")
            for index, block in enumerate(r.blocks):
                digest = self._index.digest_of(block)
                if digest and (index >= r.num_published or digest != self._index.digest(r.chain, r.tokens, index)):
                    raise AssertionError(f"request {r.request_id}: block {block} at {index} is published as other text")
        if (total := sum(r.reserved for r in running)) != self.num_reserved or self.num_reserved < 0:
            raise AssertionError(f"{self.num_reserved} blocks reserved, requests ask for {total}")
