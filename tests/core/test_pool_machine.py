"""The pool against a model of three plain containers: who may take which block, and which one is reused next."""

import pytest
from core_sim import bounded
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule, run_state_machine_as_test

from paceline.engine.core.blocks import BlockPool

BLOCKS = 8


class Pool(RuleBasedStateMachine):
    """Take, share, release, keep, void; and so evict. Owners are lists of blocks, as tables are."""

    def __init__(self) -> None:
        super().__init__()
        self.evicted: list[int] = []
        self.pool = BlockPool(BLOCKS, self.evicted.append)
        self.owners: list[list[int]] = []
        self.kept: set[int] = set()
        self.idle: list[int] = []  # oldest first

    def count(self, block: int) -> int:
        return sum(owner.count(block) for owner in self.owners)

    @property
    def void(self) -> set[int]:
        """Blocks that hold nothing."""
        return {b for b in range(BLOCKS) if not self.count(b) and b not in self.idle}

    @rule(num=st.integers(0, BLOCKS))
    def take(self, num: int) -> None:
        void = self.void
        if num > len(void) + len(self.idle):
            with pytest.raises(AssertionError, match="blocks taken"):
                self.pool.take(num)
            return
        self.evicted.clear()
        blocks = self.pool.take(num)
        num_evicted = max(0, num - len(void))
        assert self.evicted == self.idle[:num_evicted], "not the least recently used ones"
        assert len(set(blocks)) == num and set(blocks) <= void | set(self.evicted)
        self.kept -= set(self.evicted)
        del self.idle[:num_evicted]
        self.owners.append(blocks)

    @precondition(lambda self: self.owners)
    @rule(data=st.data())
    def share(self, data: st.DataObject) -> None:
        """A second owner of the beginning of a table."""
        owner = data.draw(st.sampled_from(self.owners))
        blocks = owner[: data.draw(st.integers(0, len(owner)))]
        self.pool.share(blocks)
        self.owners.append(list(blocks))

    @precondition(lambda self: self.idle)
    @rule(data=st.data())
    def revive(self, data: st.DataObject) -> None:
        blocks = data.draw(st.lists(st.sampled_from(self.idle), unique=True, min_size=1))
        self.pool.share(blocks)
        self.idle = [b for b in self.idle if b not in blocks]
        self.owners.append(blocks)

    @precondition(lambda self: self.owners)
    @rule(data=st.data())
    def release(self, data: st.DataObject) -> None:
        """The end of a table, or all of it; its last block is the first to be idle."""
        owner = data.draw(st.sampled_from(self.owners))
        keep = data.draw(st.integers(0, len(owner)))
        gone = owner[keep:]
        self.pool.release(gone)
        del owner[keep:]
        for block in reversed(gone):
            if not self.count(block) and block in self.kept:
                self.idle.append(block)

    @precondition(lambda self: any(self.owners))
    @rule(data=st.data())
    def keep(self, data: st.DataObject) -> None:
        block = data.draw(st.sampled_from(sorted({b for owner in self.owners for b in owner})))
        self.pool.keep(block)
        self.kept.add(block)

    @rule()
    def keep_none(self) -> None:
        self.pool.keep_none()
        self.kept.clear()
        self.idle.clear()

    @precondition(lambda self: self.void)
    @rule(data=st.data())
    def misuse(self, data: st.DataObject) -> None:
        """What holds nothing can be neither shared, nor kept, nor given back; and the refusal changes nothing."""
        block = data.draw(st.sampled_from(sorted(self.void)))
        for act in (self.pool.share, self.pool.release, lambda blocks: self.pool.keep(blocks[0])):
            with pytest.raises(AssertionError, match=f"block {block} "):
                act([block])

    @invariant()
    def agrees_with_the_model(self) -> None:
        counts = {b: self.count(b) for b in range(BLOCKS)}
        assert [self.pool.count(b) for b in range(BLOCKS)] == list(counts.values())
        assert (self.pool.num_free, self.pool.num_idle) == (len(self.void) + len(self.idle), len(self.idle))
        assert self.pool.num_free + sum(1 for n in counts.values() if n) == BLOCKS
        self.pool.check({b: n for b, n in counts.items() if n})

    def teardown(self) -> None:
        for owner in self.owners:
            self.pool.release(owner)
        assert self.pool.num_free == BLOCKS
        self.pool.check({})


def test_the_pool_in_any_order() -> None:
    run_state_machine_as_test(Pool, settings=bounded(30, 60))
