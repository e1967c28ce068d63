"""What every request may count on, whatever the crowd: its turn, progress at each step, and blocks that come back."""

from typing import Any

from core_sim import Guesser, Harness, bounded, config
from hypothesis import given
from hypothesis import strategies as st

from paceline.engine.core.limits import CoreConfig
from paceline.engine.errors import InvalidRequestError, UnavailableError
from paceline.engine.types import SamplingParams

PROMPTS = st.lists(st.integers(0, 2), min_size=1, max_size=16)
CROWDS = st.lists(st.tuples(PROMPTS, st.integers(1, 14)), min_size=1, max_size=10)


@st.composite
def cores(build: st.DrawFn, max_in_flight: int = 1) -> CoreConfig:
    """Short of blocks, seats and budget."""
    return config(
        num_blocks=build(st.integers(8, 20)),
        block_size=build(st.sampled_from([2, 4])),
        max_num_seqs=build(st.integers(1, 6)),
        max_num_batched_tokens=build(st.integers(1, 20)),
        max_in_flight=max_in_flight,
        max_model_len=40,
        enable_prefix_caching=build(st.booleans()),
    )


def filled(core: CoreConfig, crowd: list[tuple[list[int], int]]) -> Harness:
    harness = Harness(core)
    for i, (prompt, most) in enumerate(crowd):
        try:
            harness.add(f"r{i}", prompt, SamplingParams(max_tokens=most, seed=i))
        except (InvalidRequestError, UnavailableError):
            assert f"r{i}" not in harness.streams
    return harness


def live(harness: Harness) -> list[str]:
    return [name for name, stream in harness.streams.items() if stream.last is None]


@bounded(50)
@given(cores(), CROWDS, st.integers(0, 4))
def test_while_somebody_waits_every_step_does_something(
    core: CoreConfig, crowd: list[tuple[list[int], int]], depth: int
) -> None:
    """No deadlock between half-computed prompts. A step that only undid another's work would never come to an end."""
    harness = filled(core, crowd)
    guesser = Guesser(depth, 0.5)
    wanted = sum(len(s.prompt) + s.params.max_tokens for s in harness.streams.values())
    for _ in range(len(crowd) * wanted + 1):
        if not live(harness):
            break
        guesser.offer_all(harness)
        plan = harness.schedule(depth)
        assert plan is not None, f"{live(harness)} wait and nothing runs"
        assert all(row.num_tokens > 0 for row in plan.rows)
        harness.answer()
    assert not live(harness)
    harness.verify()


@bounded(50)
@given(cores(max_in_flight=2), CROWDS)
def test_first_come_first_served(core: CoreConfig, crowd: list[tuple[list[int], int]]) -> None:
    """Nobody is seated for the first time before one who came earlier: whoever waits, waits for those before alone."""
    harness = filled(core, crowd).run()
    first: dict[str, int] = {}
    for plan in harness.plans:
        for row in plan.rows:
            first.setdefault(row.request_id, plan.step)
    steps = [first[name] for name in harness.streams]
    assert steps == sorted(steps)


@bounded(50)
@given(cores(max_in_flight=2), CROWDS, st.integers(0, 12), st.data())
def test_blocks_of_the_aborted_come_back_with_the_plans_that_write_to_them(
    core: CoreConfig, crowd: list[tuple[list[int], int]], steps: int, data: Any
) -> None:
    harness = filled(core, crowd)
    for _ in range(steps):
        harness.step()
    gone = data.draw(st.lists(st.sampled_from(live(harness) or ["r0"]), unique=True))
    for name in gone:
        harness.abort(name)
    others = {b for r in harness.core._running.everyone() for b in r.blocks}
    while harness.unanswered:
        harness.answer()
        others |= {b for r in harness.core._running.everyone() for b in r.blocks}
    stats = harness.core.stats()
    assert stats.num_used_blocks <= len(others)
    for name in live(harness):
        harness.abort(name)
    assert harness.core.stats().num_used_blocks == 0
    harness.verify_idle()
