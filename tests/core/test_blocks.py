"""The pool: where blocks go, in which order they come back, and that each misuse is named."""

import pytest

from paceline.engine.core.blocks import BlockPool


def make(num: int = 4) -> tuple[BlockPool, list[int]]:
    evicted: list[int] = []
    return BlockPool(num, evicted.append), evicted


def test_taken_blocks_are_distinct_and_come_back() -> None:
    pool, _ = make()
    blocks = pool.take(4)
    assert sorted(blocks) == [0, 1, 2, 3] and pool.num_free == 0
    pool.check(dict.fromkeys(blocks, 1))
    pool.release(blocks)
    assert pool.num_free == 4 and pool.num_idle == 0
    pool.check({})


def test_a_shared_block_is_free_after_its_last_release() -> None:
    pool, _ = make()
    (block,) = pool.take(1)
    pool.share([block])
    assert pool.count(block) == 2
    pool.release([block])
    assert pool.num_free == 3
    pool.release([block])
    assert pool.num_free == 4


def test_kept_blocks_are_evicted_last_and_oldest_first() -> None:
    pool, evicted = make()
    blocks = pool.take(3)
    for block in blocks:
        pool.keep(block)
    pool.release(blocks[:1])
    pool.release(blocks[1:])  # a chain's tail becomes idle before its head
    assert pool.num_idle == 3
    assert pool.take(1) == [3] and not evicted
    assert pool.take(3) == evicted == [blocks[0], blocks[2], blocks[1]]
    pool.check(dict.fromkeys(range(4), 1))


def test_an_idle_block_comes_back_to_life_and_ages_anew() -> None:
    pool, evicted = make(2)
    first, second = pool.take(2)
    pool.keep(first)
    pool.keep(second)
    pool.release([first])
    pool.release([second])
    pool.share([first])
    pool.release([first])
    assert pool.take(1) == [second] == evicted


def test_an_evicted_block_is_no_longer_kept() -> None:
    pool, _ = make(1)
    pool.keep(pool.take(1)[0])
    pool.release([0])
    pool.take(1)
    pool.release([0])
    assert pool.num_idle == 0


def test_keep_none_voids_idle_and_used_content() -> None:
    pool, evicted = make(2)
    blocks = pool.take(2)
    for block in blocks:
        pool.keep(block)
    pool.release(blocks[:1])
    pool.keep_none()
    assert pool.num_idle == 0 and pool.num_free == 1 and not evicted
    pool.release(blocks[1:])
    assert pool.num_idle == 0
    pool.check({})


def test_misuse_is_named() -> None:
    pool, _ = make(2)
    with pytest.raises(AssertionError, match="3 blocks taken, 2 free of 2"):
        pool.take(3)
    with pytest.raises(AssertionError, match="block 1 shared while free"):
        pool.share([1])
    with pytest.raises(AssertionError, match="block 0 kept while nobody uses it"):
        pool.keep(0)
    with pytest.raises(AssertionError, match="block 0 released more often"):
        pool.release([0])


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (lambda pool: pool._free.append(pool._free[0]), "1 blocks are twice in the free list"),
        (lambda pool: pool._free.pop(), "2 free \\+ 0 idle \\+ 1 used != 4"),
        (lambda pool: pool._idle.update({pool._free.pop(): None}), "wrong place"),
        (lambda pool: pool._counts.__setitem__(0, 2), "reference counts differ"),
    ],
)
def test_check_sees_damage(damage, message: str) -> None:
    pool, _ = make()
    assert pool.take(1) == [0]
    damage(pool)
    with pytest.raises(AssertionError, match=message):
        pool.check({0: 1})
