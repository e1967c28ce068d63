"""The prefix index: what is found, what is kept apart, and that eviction forgets."""

import pytest

from paceline.engine.core.prefix import PrefixIndex, chain_root


def chain(salt: str = "") -> list[bytes]:
    return [chain_root(salt)]


def published(tokens: list[int], salt: str = "", num_blocks: int = 4) -> tuple[PrefixIndex, list[int]]:
    index = PrefixIndex(num_blocks, 2)
    blocks = index.pool.take(len(tokens) // 2)
    index.publish(chain(salt), tokens, blocks, 0, len(blocks))
    return index, blocks


def test_the_longest_common_run_of_full_blocks_is_found() -> None:
    index, blocks = published([1, 2, 3, 4, 5, 6])
    assert index.match(chain(), [1, 2, 3, 4, 5, 6, 7], 3) == blocks
    assert index.match(chain(), [1, 2, 3, 4, 5, 6, 7], 2) == blocks[:2]
    assert index.match(chain(), [1, 2, 3, 9, 5, 6], 3) == blocks[:1]
    assert index.match(chain(), [3, 4, 5, 6], 2) == []  # the same tokens at another place are another text
    index.check()


def test_salts_are_worlds_apart() -> None:
    index, _ = published([1, 2, 3, 4], "a")
    assert index.match(chain("b"), [1, 2, 3, 4], 2) == []
    assert index.match(chain(), [1, 2, 3, 4], 2) == []
    assert len(index.match(chain("a"), [1, 2, 3, 4], 2)) == 2
    assert chain_root("\ud800") != chain_root("\ud801")


def test_the_first_publisher_of_a_text_stays() -> None:
    index, blocks = published([1, 2])
    twin = index.pool.take(1)
    index.publish(chain(), [1, 2], twin, 0, 1)
    assert index.match(chain(), [1, 2], 1) == blocks
    index.pool.release(twin)
    assert index.pool.num_idle == 0
    index.pool.release(blocks)
    assert index.pool.num_idle == 1


def test_eviction_forgets_the_tail_first() -> None:
    index, blocks = published([1, 2, 3, 4])
    index.pool.release(blocks)
    index.pool.take(3)
    index.check()
    assert index.match(chain(), [1, 2, 3, 4], 2) == blocks[:1]
    index.pool.take(1)
    assert index.match(chain(), [1, 2, 3, 4], 2) == [] and index.digest_of(blocks[0]) is None


def test_clear_forgets_all() -> None:
    index, blocks = published([1, 2, 3, 4])
    index.pool.release(blocks)
    index.clear()
    assert index.match(chain(), [1, 2, 3, 4], 2) == [] and index.pool.num_idle == 0
    index.check()


def test_the_chain_is_computed_only_as_far_as_needed() -> None:
    index, _ = published([1, 2, 3, 4, 5, 6])
    digests = chain()
    index.match(digests, [9, 9, 3, 4, 5, 6], 3)
    assert len(digests) == 2


def test_check_sees_damage() -> None:
    index, _ = published([1, 2])
    index._block_of.clear()
    with pytest.raises(AssertionError, match="0 digests, 1 blocks disagree"):
        index.check()
