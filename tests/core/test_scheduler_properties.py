"""The core under any schedule gives each request what it gets alone in the world.

Whole runs and a state machine, both against the naive generator; the fake target checks every slot that it reads.
"""

from typing import Any

from core_sim import VOCAB, Guesser, Harness, bounded, config, naive
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule, run_state_machine_as_test

from paceline.engine.core.limits import CoreConfig
from paceline.engine.core.plan import Drafts, RowResult, StepResult
from paceline.engine.errors import InvalidRequestError, UnavailableError
from paceline.engine.types import ErrorInfo, Pooling, SamplingParams


@st.composite
def configs(build: st.DrawFn) -> CoreConfig:
    """Small, often tiny: shortage of blocks, seats and budget is the rule."""
    return config(
        num_blocks=build(st.integers(10, 24)),
        block_size=build(st.sampled_from([1, 2, 4])),
        max_num_seqs=build(st.integers(1, 6)),
        max_num_batched_tokens=build(st.integers(1, 24)),
        max_in_flight=build(st.integers(1, 3)),
        max_model_len=build(st.sampled_from([20, 96])),
        policy=build(st.sampled_from(["fcfs", "priority"])),
        enable_prefix_caching=build(st.booleans()),
    )


@st.composite
def requests(build: st.DrawFn) -> dict[str, Any]:
    """Prompts over few ids, so that they share beginnings; parameters that end outputs in every way."""
    prompt = [1, 2] * build(st.integers(0, 6)) + build(st.lists(st.integers(0, 2), min_size=1, max_size=10))
    most = build(st.integers(0, 24))
    salt, rank = build(st.sampled_from(["", "", "a"])), build(st.integers(0, 2))
    pooling = build(st.sampled_from([None, None, None, Pooling("last"), Pooling("mean")]))
    if pooling is not None:
        return {"prompt": prompt, "params": SamplingParams(max_tokens=0, pooling=pooling), "salt": salt, "rank": rank}
    params = SamplingParams(
        max_tokens=most,
        min_tokens=build(st.integers(0, min(most, 6))),
        seed=build(st.integers(0, 3)),
        end_ids=build(st.sampled_from([[], [3], [3, 4, 5]])),
        stop_token_ids=build(st.sampled_from([[], [5, 6]])),
        ignore_eos=build(st.booleans()),
        logprobs=build(st.sampled_from([None, 0])),
        prompt_logprobs=build(st.sampled_from([None, None, None, 0])),
    )
    return {"prompt": prompt, "params": params, "salt": salt, "rank": rank}


def try_add(
    harness: Harness,
    request_id: str,
    request: dict[str, Any],
    fork_of: str | None = None,
    resume: int = 0,
    deadline: float | None = None,
) -> None:
    """Add unless the core says why not; a resumed request brings its first ``resume`` output tokens."""
    params: SamplingParams = request["params"]
    output = naive(request["prompt"], params)[0][:resume]
    try:
        harness.add(
            request_id,
            request["prompt"],
            params,
            output,
            cache_salt=request["salt"],
            priority=request["rank"] if harness.config.policy == "priority" else 0,
            fork_of=fork_of,
            deadline=deadline,
        )
    except (InvalidRequestError, UnavailableError):
        assert request_id not in harness.streams


@bounded(100)
@given(
    configs(),
    st.lists(requests(), min_size=1, max_size=8),
    st.integers(0, 6),
    st.sampled_from([0.0, 0.6, 1.0]),
    st.booleans(),
    st.integers(0, 3),
)
def test_alone_as_in_a_crowd(
    core: CoreConfig, crowd: list[dict[str, Any]], depth: int, chance: float, tree: bool, resume: int
) -> None:
    """Any sizes, any depth of drafts good or bad, any number of plans in flight, preempted or not, resumed or not."""
    harness = Harness(core)
    for i, request in enumerate(crowd):
        try_add(harness, f"r{i}", request, f"r{i - 1}" if i % 2 else None, resume if i % 3 == 0 else 0)
    harness.run(depth, speculate=Guesser(depth, chance, tree=tree) if depth else None).verify()


class CoreMachine(RuleBasedStateMachine):
    """Everything that may happen to a core, in any order. ``check()`` runs after every call, inside the harness."""

    def __init__(self) -> None:
        super().__init__()
        self.harness: Harness | None = None
        self.guesser = Guesser(0, 0.7)
        self.num = 0
        self.poisoned: set[str] = set()

    @precondition(lambda self: self.harness is None)
    @rule(core=configs())
    def start(self, core: CoreConfig) -> None:
        self.harness = Harness(core)
        self.harness.edit = self.poison

    def poison(self, result: StepResult) -> StepResult:
        error = ErrorInfo("internal", "poison")
        rows = [
            RowResult(row.request_id, row.epoch, [], error=error) if row.request_id in self.poisoned else row
            for row in result.rows
        ]
        return StepResult(result.step, rows)

    @property
    def live(self) -> list[str]:
        assert self.harness is not None
        return [name for name, stream in self.harness.streams.items() if stream.last is None]

    @precondition(lambda self: self.harness is not None)
    @rule(request=requests(), resume=st.sampled_from([0, 0, 2]), deadline=st.sampled_from([None, None, 3.0]))
    def add(self, request: dict[str, Any], resume: int, deadline: float | None) -> None:
        assert self.harness is not None
        deadline = None if deadline is None else self.harness.now + deadline
        try_add(self.harness, f"r{self.num}", request, None, resume, deadline)
        self.num += 1

    @precondition(lambda self: self.harness is not None)
    @rule(seconds=st.sampled_from([0.5, 2.0]))
    def pass_time(self, seconds: float) -> None:
        assert self.harness is not None
        self.harness.now += seconds

    @precondition(lambda self: self.harness is not None and self.live)
    @rule(data=st.data(), num=st.integers(1, 3))
    def fork(self, data: st.DataObject, num: int) -> None:
        assert self.harness is not None
        parent = data.draw(st.sampled_from(self.live))
        stream = self.harness.streams[parent]
        for seed in range(num):
            params = SamplingParams(max_tokens=stream.params.max_tokens, seed=seed + 10)
            request = {"prompt": stream.prompt, "params": params, "salt": "", "rank": 0}
            try_add(self.harness, f"r{self.num}", request, parent)
            self.num += 1

    @precondition(lambda self: self.harness is not None)
    @rule(depth=st.integers(0, 5))
    def schedule(self, depth: int) -> None:
        assert self.harness is not None
        self.harness.schedule(depth)

    @precondition(lambda self: self.harness is not None and self.live)
    @rule(data=st.data(), depth=st.integers(0, 5))
    def schedule_by_request(self, data: st.DataObject, depth: int) -> None:
        assert self.harness is not None
        chosen = data.draw(st.lists(st.sampled_from(self.live), unique=True))
        self.harness.schedule(dict.fromkeys(chosen, depth))

    @precondition(lambda self: self.harness is not None and self.harness.unanswered)
    @rule()
    def answer(self) -> None:
        assert self.harness is not None
        self.harness.answer()

    @precondition(lambda self: self.harness is not None)
    @rule(num=st.integers(1, 6), depth=st.integers(0, 4))
    def run_for_a_while(self, num: int, depth: int) -> None:
        assert self.harness is not None
        for _ in range(num):
            self.guesser.offer_all(self.harness)
            self.harness.step(depth)

    @precondition(lambda self: self.harness is not None)
    @rule(tree=st.booleans())
    def offer(self, tree: bool) -> None:
        assert self.harness is not None
        self.guesser.tree = tree
        self.guesser.offer_all(self.harness)

    @precondition(lambda self: self.harness is not None)
    @rule(
        number=st.integers(0, 9),
        epoch=st.integers(0, 2),
        base=st.integers(-1, 30),
        ids=st.lists(st.integers(-1, VOCAB), max_size=8),
    )
    def offer_garbage(self, number: int, epoch: int, base: int, ids: list[int]) -> None:
        assert self.harness is not None
        self.harness.core.offer(Drafts(f"r{number}", epoch, base, ids, source="garbage"))
        self.harness.core.check()

    @precondition(lambda self: self.harness is not None and self.live)
    @rule(data=st.data())
    def abort(self, data: st.DataObject) -> None:
        assert self.harness is not None
        name = data.draw(st.sampled_from(self.live))
        (output,) = self.harness.abort(name)
        assert output.finish_reason == "abort"
        assert self.harness.abort(name) == []

    @precondition(lambda self: self.harness is not None and self.live)
    @rule(data=st.data())
    def fail_one(self, data: st.DataObject) -> None:
        self.poisoned.add(data.draw(st.sampled_from(self.live)))

    @precondition(lambda self: self.harness is not None)
    @rule()
    def lose_target(self) -> None:
        assert self.harness is not None
        self.harness.lose_target()

    @invariant()
    def nothing_is_lost_so_far(self) -> None:
        if self.harness is not None:
            for name in self.live:
                replayed = self.harness.core.replay(name)
                assert replayed is not None and replayed.token_ids == self.harness.streams[name].output

    def teardown(self) -> None:
        if self.harness is not None:
            self.harness.run().verify()


def test_anything_in_any_order() -> None:
    run_state_machine_as_test(CoreMachine, settings=bounded(60, 40))
