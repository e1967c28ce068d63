"""Block tables against a model that writes every token into its slot: whoever reads a slot must find his own text."""

import pytest
from core_sim import bounded, checksum, config
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule, run_state_machine_as_test

from paceline.engine.core.request import Request, State
from paceline.engine.core.tables import BlockTables
from paceline.engine.types import SamplingParams

SIZE = 4
BLOCKS = 12


def make(name: str, prompt: list[int], salt: str = "") -> Request:
    return Request(
        name,
        prompt,
        [],
        SamplingParams(max_tokens=1000),
        rank=(0, 0),
        arrival_s=0.0,
        deadline_s=None,
        cache_salt=salt,
        fork_of=None,
        state=State.QUEUED,
        max_model_len=2000,
    )


class Tables(RuleBasedStateMachine):
    """Take, append, fork, share, reserve and refuse drafts, free, preempt, resume, park, forget; and so evict."""

    def __init__(self) -> None:
        super().__init__()
        self.tables = BlockTables(config(num_blocks=BLOCKS, block_size=SIZE))
        self.slots: dict[tuple[int, int], int] = {}
        self.texts: dict[bytes, tuple[list[int], str]] = {}
        """What each digest stands for."""
        self.running: list[Request] = []
        self.preempted: list[Request] = []
        self.parked: list[int] = []
        self.num = 0

    def write(self, request: Request, end: int) -> None:
        for position in range(request.num_computed, end):
            slot = request.blocks[position // SIZE], position % SIZE
            self.slots[slot] = checksum(request.tokens[: position + 1], len(request.cache_salt))

    def compute(self, request: Request, end: int) -> None:
        request.num_planned = end
        self.write(request, end)
        request.num_computed = end
        self.tables.publish(request)
        for index in range(end // SIZE):
            digest = self.tables._index.digest(request.chain, request.tokens, index)
            text = request.tokens[: (index + 1) * SIZE], request.cache_salt
            assert self.texts.setdefault(digest, text) == text, "one digest for two texts"

    def seat(self, request: Request, parent: Request | None = None) -> bool:
        shared = self.tables.find(request, parent)
        assert len(shared) * SIZE < len(request.tokens)
        if not self.tables.has_room(request, shared, 0):
            return False
        self.tables.open(request, shared)
        self.running.append(request)
        return True

    @rule(prompt=st.lists(st.integers(0, 1), min_size=1, max_size=20), salt=st.sampled_from(["", "s"]))
    def alloc(self, prompt: list[int], salt: str) -> None:
        self.num += 1
        self.seat(make(f"r{self.num}", prompt, salt))

    @precondition(lambda self: self.running)
    @rule(data=st.data())
    def fork(self, data: st.DataObject) -> None:
        parent = data.draw(st.sampled_from(self.running))
        self.num += 1
        child = make(f"r{self.num}", parent.tokens[: parent.num_prompt], parent.cache_salt)
        if self.seat(child, parent):
            most = (child.num_prompt - 1) // SIZE
            assert len(child.blocks) >= min(most, parent.num_computed // SIZE)

    @precondition(lambda self: self.running)
    @rule(data=st.data(), num=st.integers(1, 9))
    def chunk(self, data: st.DataObject, num: int) -> None:
        request = data.draw(st.sampled_from(self.running))
        end = min(request.num_computed + num, len(request.tokens), self.tables.most_slots(request))
        if end > request.num_computed:
            self.tables.grow(request, end)
            self.compute(request, end)

    @precondition(lambda self: self.running)
    @rule(data=st.data(), drafts=st.lists(st.integers(0, 1), max_size=9), accepted=st.integers(0, 9))
    def append(self, data: st.DataObject, drafts: list[int], accepted: int) -> None:
        """Reserve slots for k drafts, accept j <= k of them and add one token; j = 0 rolls all back."""
        request = data.draw(st.sampled_from(self.running))
        known = len(request.tokens)
        if request.num_computed != known - 1 or self.tables.most_slots(request) < known + len(drafts):
            return
        self.tables.grow(request, known + len(drafts))
        for offset in range(len(drafts)):  # what the target writes before it knows better
            position = known + offset
            self.slots[request.blocks[position // SIZE], position % SIZE] = -1
        kept = drafts[:accepted]
        request.tokens += [*kept, 1]
        request.num_known = len(request.tokens)
        self.compute(request, known + len(kept))
        self.tables.trim(request)

    @precondition(lambda self: self.running)
    @rule(data=st.data(), park=st.booleans(), resume=st.booleans())
    def leave(self, data: st.DataObject, park: bool, resume: bool) -> None:
        request = data.draw(st.sampled_from(self.running))
        self.running.remove(request)
        blocks = self.tables.close(request)
        if park:
            self.parked += blocks
        else:
            self.tables.pool.release(blocks)
        if resume:
            request.restart()
            self.preempted.append(request)

    @precondition(lambda self: self.preempted)
    @rule()
    def resume(self) -> None:
        if self.seat(self.preempted[0]):
            self.preempted.pop(0)

    @rule()
    def answer(self) -> None:
        self.tables.pool.release(self.parked)
        self.parked = []

    @precondition(lambda self: not self.running)
    @rule()
    def forget(self) -> None:
        self.answer()
        self.tables.forget()
        self.slots.clear()
        assert self.tables.pool.num_idle == 0

    @invariant()
    def holds(self) -> None:
        pool = self.tables.pool
        self.tables.check(self.running, self.parked)
        used = sum(1 for block in range(BLOCKS) if pool.count(block))
        assert pool.num_free + used == BLOCKS
        for request in self.running:
            for position in range(request.num_computed):
                slot = request.blocks[position // SIZE], position % SIZE
                assert self.slots[slot] == checksum(request.tokens[: position + 1], len(request.cache_salt))

    @invariant()
    def what_is_found_is_what_was_written(self) -> None:
        """Idle blocks too: a digest leads to a block whose last slot holds the checksum of that very text."""
        index = self.tables._index
        for digest, block in index._block_of.items():
            tokens, salt = self.texts[digest]
            assert self.slots[block, SIZE - 1] == checksum(tokens, len(salt))

    def teardown(self) -> None:
        self.answer()
        for request in self.running:
            self.tables.pool.release(self.tables.close(request))
        assert self.tables.pool.num_free == BLOCKS
        self.tables.check([], [])


def test_tables_in_any_order() -> None:
    run_state_machine_as_test(Tables, settings=bounded(50, 50))


def seated(prompt: list[int], computed: int) -> tuple[BlockTables, Request]:
    tables = BlockTables(config(num_blocks=BLOCKS, block_size=SIZE))
    request = make("r", prompt)
    tables.open(request, tables.find(request, None))
    tables.grow(request, computed)
    request.num_planned = request.num_computed = computed
    tables.publish(request)
    return tables, request


def test_growth_eats_the_reservation() -> None:
    tables, request = seated([1] * 10, 5)
    assert (tables.num_reserved, len(request.blocks)) == (1, 2)
    assert tables.grow(request, 8) == []
    assert len(tables.grow(request, 9)) == 1 and tables.num_reserved == 0
    assert tables.most_slots(request) == BLOCKS * SIZE


def test_room_is_what_is_neither_reserved_nor_needed_to_spare() -> None:
    tables, _ = seated([1] * 24, 4)  # 6 blocks, 1 of them taken
    other = make("o", [2] * 20)  # 5 blocks, and 1 more for its next token
    assert tables.has_room(other, [], 0)
    assert not tables.has_room(other, [], 1)
    assert not tables.has_room(make("p", [2] * 24), [], 0)


def test_idle_shared_blocks_are_not_free_twice() -> None:
    tables, request = seated([1] * 45, 44)  # 11 full blocks of 12
    tables.pool.release(tables.close(request))
    again = make("again", [1] * 45)
    shared = tables.find(again, None)
    assert len(shared) == 11 and tables.pool.num_free == BLOCKS
    assert tables.has_room(again, shared, 0) and not tables.has_room(again, shared, 1)


def test_waste_is_the_unfilled_rest_of_the_last_block() -> None:
    tables, request = seated([1] * 10, 9)
    assert tables.num_wasted_slots([request]) == 3


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (lambda tables, request: setattr(request, "num_planned", 4), r"r: blocks \[0, 1\] for 4 planned tokens"),
        (lambda tables, request: setattr(request, "num_published", 0), "r: 0 published of 6"),
        (lambda tables, request: request.chain.__setitem__(1, b""), "block 0 at 0 is published as other"),
        (lambda tables, request: setattr(tables, "num_reserved", 7), "7 blocks reserved, requests ask for 1"),
    ],
)
def test_check_sees_damage(damage, message: str) -> None:
    tables, request = seated([1] * 10, 6)
    tables.check([request], [])
    damage(tables, request)
    with pytest.raises(AssertionError, match=message):
        tables.check([request], [])
