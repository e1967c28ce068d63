"""The prefix index: which blocks already hold the keys and values of a given beginning of text.

A full block is known by a chain digest, sha256 over (parent digest, its token ids), and the chain's root is the sha256
of the request's cache salt: equal digests mean equal tokens from position 0 on, under the same salt. Anything shorter
could be made to collide, and one client would then read another's text.

Knows digests and block numbers: not requests, nor when a block is computed. The caller publishes only full blocks whose
slots are committed and computed, because what is published here is read by others unseen.
"""

from array import array
from collections.abc import Sequence
from hashlib import sha256

from .blocks import BlockPool


def chain_root(cache_salt: str) -> bytes:
    """Parent digest of every first block under this salt. Lone surrogates are legal in a Python string: they pass."""
    return sha256(cache_salt.encode("utf-8", "surrogatepass")).digest()


class PrefixIndex:
    """Digest -> block for the published blocks of one pool. A published block stays findable until it is evicted."""

    __slots__ = ("_block_of", "_digest_of", "_pool", "block_size")

    def __init__(self, num_blocks: int, block_size: int) -> None:
        self.block_size = block_size
        self._block_of: dict[bytes, int] = {}
        self._digest_of: dict[int, bytes] = {}
        self._pool = BlockPool(num_blocks, self._forget)

    @property
    def pool(self) -> BlockPool:
        """The pool whose blocks are indexed; it tells us about evictions."""
        return self._pool

    def __len__(self) -> int:
        """Published blocks."""
        return len(self._block_of)

    def match(self, chain: list[bytes], token_ids: Sequence[int], most: int) -> list[int]:
        """Blocks that hold the first tokens of ``token_ids``, at most ``most`` of them, in order.

        ``chain`` is the request's own list of digests, root first; it grows as far as the walk gets.
        """
        found: list[int] = []
        for index in range(most):
            block = self._block_of.get(self.digest(chain, token_ids, index))
            if block is None:
                break
            found.append(block)
        return found

    def publish(
        self, chain: list[bytes], token_ids: Sequence[int], blocks: Sequence[int], first: int, end: int
    ) -> None:
        """Make the full blocks ``first .. end - 1`` of a table findable. Where an equal block already is, it stays."""
        for index in range(first, end):
            digest = self.digest(chain, token_ids, index)
            block = blocks[index]
            if digest not in self._block_of:
                self._block_of[digest] = block
                self._digest_of[block] = digest
                self._pool.keep(block)

    def clear(self) -> None:
        """Forget everything. Blocks that are used stay so; they are found by nobody else."""
        self._block_of.clear()
        self._digest_of.clear()
        self._pool.keep_none()

    def digest(self, chain: list[bytes], token_ids: Sequence[int], index: int) -> bytes:
        """Digest of the full block ``index`` of ``token_ids``; ``chain`` grows as far as needed."""
        size = self.block_size
        while len(chain) <= index + 1:
            start = (len(chain) - 1) * size
            chain.append(sha256(chain[-1] + array("q", token_ids[start : start + size]).tobytes()).digest())
        return chain[index + 1]

    def digest_of(self, block: int) -> bytes | None:
        """The digest under which ``block`` is published."""
        return self._digest_of.get(block)

    def check(self) -> None:
        """The two maps are each other's inverse.

        Raises:
            AssertionError: with both sizes.
        """
        if {digest: block for block, digest in self._digest_of.items()} != self._block_of:
            raise AssertionError(f"prefix index: {len(self._block_of)} digests, {len(self._digest_of)} blocks disagree")

    def _forget(self, block: int) -> None:
        del self._block_of[self._digest_of.pop(block)]
