"""Speculators around the core, seen through the real shell: who is asked, when plans go ahead, what is told after."""

from collections.abc import Sequence
from typing import Any

import anyio
import msgspec
import pytest
import torch
from naive import judge
from outside import chaos_speculator
from simulation import simulate
from spec_engine import Engine, config
from toy_model import ToyModel

from paceline.actors import stats as metrics
from paceline.actors.messages import Add, Refused, Stats
from paceline.engine.config import Speculation
from paceline.engine.core.plan import Drafts, RequestOutput, Row, RowResult, StepPlan, StepResult
from paceline.engine.execution.grammar import Grammars
from paceline.engine.types import SamplingParams, SpeculationControl, SpeculationStats
from paceline.spec_decode.adapt import Fixed, Policy
from paceline.spec_decode.base import Context, ProposeReq, StepBudget
from paceline.spec_decode.goodput import Goodput
from paceline.spec_decode.grammar_drafts import GrammarDrafts
from paceline.spec_decode.live import Method
from paceline.spec_decode.proposer import Proposer
from paceline.spec_decode.speculators.suffix import Config as SuffixConfig
from paceline.spec_decode.speculators.suffix import Suffix
from paceline.spec_decode.step_costs import StepCosts

CHAOS = "outside.chaos_speculator"
GREEDY = SamplingParams(max_tokens=30, temperature=0.0)
PERFECT: dict[str, Any] = {"right": 1.0}


def run_engine(section: Speculation, *adds: tuple[str, SpeculationControl | None], in_flight: int = 2) -> Engine:
    """Greedy requests over one prompt, whose answer the chaos speculator knows."""
    model, prompt = ToyModel(), [3, 1, 4, 1, 5]
    answer = judge(model, prompt, GREEDY, dtype=torch.float32).token_ids
    chaos_speculator.ANSWERS.clear()

    async def main() -> Engine:
        async with Engine(config(section, max_in_flight=in_flight), model=model) as engine:
            for name, control in adds:
                chaos_speculator.ANSWERS[name] = [*prompt, *answer]
                engine.add(name, prompt, GREEDY, speculation=control)
            await engine.finish()
            assert all(engine.tokens(name) == answer for name, _ in adds)
            return engine

    return simulate(main)


def report_of(engine: Engine, name: str) -> SpeculationStats | None:
    return engine.outputs[name][-1].speculation


def perfect(**changes: Any) -> Speculation:
    return Speculation(methods=[CHAOS], settings={CHAOS: PERFECT}, **{"policy": "fixed", **changes})


def test_perfect_drafts_save_steps_and_are_told_in_the_last_output() -> None:
    off = run_engine(Speculation(), ("r", None))
    on = run_engine(perfect(max_draft_tokens=4), ("r", None))
    assert on.target.num_steps < off.target.num_steps / 2
    report = report_of(on, "r")
    assert report is not None and report_of(off, "r") is None
    assert report.num_spec_tokens == 4 and len(report.acceptance_histogram) == 5
    assert report.num_accepted == report.num_draft_tokens == report.drafted[CHAOS] == report.accepted[CHAOS] > 15
    assert all(output.speculation is None for output in on.outputs["r"][:-1])
    assert report.per_step_drafted is None


@pytest.mark.parametrize(
    "control",
    [
        SpeculationControl(enabled=False),
        SpeculationControl(max_draft_tokens=0),
    ],
)
def test_a_request_can_do_without(control: SpeculationControl) -> None:
    engine = run_engine(perfect(), ("without", control), ("with", None))
    assert report_of(engine, "without") is None and report_of(engine, "with") is not None


def test_a_request_chooses_methods_and_depth() -> None:
    section = Speculation(methods=["suffix", CHAOS], policy="fixed", settings={CHAOS: PERFECT})
    control = SpeculationControl(methods=[CHAOS], max_draft_tokens=2, detail=True)
    report = report_of(run_engine(section, ("r", control)), "r")
    assert report is not None and set(report.drafted) == {CHAOS} and report.num_spec_tokens == 2
    assert report.per_step_drafted is not None and set(report.per_step_drafted) <= {1, 2}
    assert report.per_step_accepted == report.per_step_drafted


@pytest.mark.parametrize(("shift", "drafts"), [(0, True), (100, False)])
def test_a_right_prediction_is_used_and_a_senseless_one_is_not(shift: int, drafts: bool) -> None:
    """Ids that no answer can have are left out; they would break an index that trusts them."""
    model, prompt = ToyModel(), [3, 1, 4, 1, 5]
    answer = judge(model, prompt, GREEDY, dtype=torch.float32).token_ids

    async def main() -> Engine:
        section = Speculation(methods=["suffix"], policy="fixed")
        async with Engine(config(section), model=model) as engine:
            engine.add("r", prompt, GREEDY, prediction_ids=[token - shift for token in answer])
            await engine.finish()
            assert engine.tokens("r") == answer
            stats = engine.scheduler.stats()
            assert stats is not None and "spec_disabled_state/fault" not in stats.values
            return engine

    report = report_of(simulate(main), "r")
    assert (report is not None and report.num_accepted > 10) == drafts


def test_the_second_method_fills_in_where_the_first_has_nothing() -> None:
    section = Speculation(methods=["suffix", CHAOS], policy="fixed", settings={CHAOS: PERFECT})
    report = report_of(run_engine(section, ("r", None)), "r")
    assert report is not None and report.drafted[CHAOS] > 0


def test_a_method_that_is_not_there_is_refused_by_name() -> None:
    async def main() -> Refused:
        async with Engine(config(Speculation(methods=["suffix"]))) as engine:
            reader, engine._reader = engine._reader, None
            assert reader is not None
            reader.cancel()
            add = Add("r", [1], GREEDY, speculation=SpeculationControl(methods=["ngram"]))
            engine.tokenizer.send("scheduler", add)
            _, answer = await engine.tokenizer.receive()
            assert isinstance(answer, Refused)
            return answer

    async def guarded() -> Refused:
        with anyio.fail_after(5):
            return await main()

    refused = simulate(guarded)
    assert refused.error.param == "speculation.methods" and "this server has suffix" in refused.error.message


def test_reports_come_with_each_output_for_those_who_end_requests_themselves() -> None:
    engine = run_engine(perfect(), ("r", SpeculationControl(always_report=True)))
    told = [output.speculation for output in engine.outputs["r"] if output.speculation is not None]
    assert len(told) > 1
    assert [t.num_steps for t in told] == sorted(t.num_steps for t in told)


def test_speculation_that_is_off_keeps_two_plans_in_flight() -> None:
    """The shell with a policy that wants nothing plans as the shell without speculators does."""
    off = run_engine(Speculation(), ("a", None), ("b", None))
    table = perfect(policy="table", table=[(99, 99, 1)])
    none = run_engine(table, ("a", None), ("b", None))
    assert none.target.num_steps == off.target.num_steps
    policy = Goodput(StepCosts([(1, 0.01), (64, 0.64)]))
    for _ in range(16):
        policy.stepped(1, 0)
    proposer = make(policy)
    proposer.open("r", [1, 2, 3, 1, 2], SamplingParams(max_tokens=200))
    for step in range(62):
        assert proposer.propose() == [] and not proposer.waits(proposer.depths())
        play(proposer, step, "r", [5])
    assert proposer.tally.values["spec_draft_tokens/suffix"] == 0
    assert "spec_propose/suffix" not in proposer.tally.take_samples()


def make(policy: Policy, grammars: GrammarDrafts | None = None, **settings: Any) -> Proposer:
    from paceline.spec_decode.speculators import suffix

    context = Context(vocab_size=100, max_model_len=500, max_num_seqs=8, max_draft_tokens=4)
    methods = [Method("suffix", suffix.build(suffix.Config(**settings), context))]
    return Proposer(methods, policy, StepCosts(), 4, lambda: 0.0, grammars=grammars, forced_tokens=True)


def play(proposer: Proposer, step: int, name: str, ids: list[int], drafts: list[int] | None = None) -> None:
    """Plan one row, answer it."""
    row = Row(name, 0, 0, 1, 1, [], True, -1, drafts or [])
    plan = StepPlan(step, [], [], [row])
    proposer.sent(plan)
    result = StepResult(step, [RowResult(name, 0, ids, len(ids) - 1)], 0.01)
    proposer.applied(plan, result, [RequestOutput(name, 0, ids)])


def test_drafts_made_ahead_are_cut_by_the_result_they_waited_for() -> None:
    proposer = make(Fixed(4))
    text = [1, 2, 3, 4, 5, 6, 9, 1, 2]
    proposer.open("r", text, SamplingParams(max_tokens=100))
    first, second = (StepPlan(s, [], [], [Row("r", 0, 8, 1, 1, [], True)]) for s in (0, 1))
    proposer.sent(first)
    proposer.sent(second)  # planned ahead
    proposer.applied(first, StepResult(0, [RowResult("r", 0, [3])]), [RequestOutput("r", 0, [3])])
    [drafts] = proposer.propose()
    assert (drafts.base_len, drafts.token_ids, drafts.source) == (10, [4, 5, 6], "suffix")
    proposer.landed(drafts, drafts.token_ids)
    assert proposer.depths() == {"r": 3} and proposer.waits(proposer.depths())
    proposer.applied(second, StepResult(1, [RowResult("r", 0, [4])]), [RequestOutput("r", 1, [4])])
    assert proposer.depths() == {"r": 2} and not proposer.waits(proposer.depths())
    assert (proposer.tally.values["spec_ahead_hits"], proposer.tally.values["spec_ahead_misses"]) == (1, 0)


class Slow(Suffix):
    """Takes a millisecond for a draft, and is asked for as many as pay."""

    asked: list[list[int]]

    def cost(self, num_requests: int, depth: int) -> float:
        return 0.001 * depth

    def propose(self, batch: Sequence[ProposeReq], budget: StepBudget) -> list[Drafts]:
        self.asked.append([ask.depth for ask in batch])
        return super().propose(batch, budget)


def test_a_slow_method_is_asked_for_what_pays_and_not_where_nothing_does() -> None:
    context = Context(vocab_size=100, max_model_len=500, max_num_seqs=8, max_draft_tokens=4)
    for step_s, worth in ((0.020, True), (0.0001, False)):
        slow = Slow(SuffixConfig(), context)
        slow.asked = []
        costs = StepCosts([(1, step_s), (64, step_s)])
        proposer = Proposer([Method("slow", slow)], Goodput(costs), costs, 4, clock=lambda: 0.0)
        proposer.open("r", [1, 2, 3, 4, 1, 2, 3, 1], SamplingParams(max_tokens=100))
        play(proposer, 0, "r", [2])
        assert bool(proposer.propose()) is worth and len(slow.asked) is int(worth)
        assert proposer.tally.values["spec_disabled_state/slow_cost"] == float(not worth)


@pytest.mark.parametrize("is_good", [False, True])
def test_a_slow_method_is_asked_behind_a_poor_answer_and_not_behind_a_good_one(is_good: bool) -> None:
    context = Context(vocab_size=100, max_model_len=500, max_num_seqs=8, max_draft_tokens=4)
    slow = Slow(SuffixConfig(), context)
    slow.asked = []
    costs = StepCosts([(1, 0.020), (64, 0.020)])
    methods = [Method("suffix", Suffix(SuffixConfig(), context)), Method("slow", slow)]
    proposer = Proposer(methods, Goodput(costs), costs, 4, clock=lambda: 0.0)
    proposer.open("r", [1, 2, 3, 4, 5, 1, 2, 3, 4, 1], SamplingParams(max_tokens=100))
    for _ in range(40):
        proposer._methods.rates(proposer._live["r"], "suffix").observe(4, 4 * is_good)
    play(proposer, 0, "r", [2])
    proposals = proposer.propose()
    assert [drafts.source for drafts in proposals] == (["suffix"] if is_good else ["suffix", "slow"])


def test_nothing_is_proposed_for_a_request_that_has_ended_before_it_is_reported() -> None:
    proposer = make(Fixed(4))
    proposer.open("r", [1, 2, 3, 4, 1], SamplingParams(max_tokens=100))
    plan = StepPlan(0, [], [], [Row("r", 0, 4, 1, 1, [], True)])
    proposer.sent(plan)
    proposer.applied(plan, StepResult(0, [RowResult("r", 0, [2])]), [RequestOutput("r", 0, [2], "stop")])
    assert proposer.propose() == [] and proposer.depths() == {}
    assert proposer.report("r", is_last=True) is None


class OfOne(GrammarDrafts):
    """Allows one draft, and forces what it is told."""

    def __init__(self, forces: Sequence[int] = ()) -> None:
        super().__init__(Grammars(lambda: None))  # type: ignore[arg-type,return-value]
        self.forces = list(forces)

    def open(self, request_id: str, grammar: str, length: int, output_ids: Sequence[int]) -> None:
        pass

    def shorten(self, drafts: Drafts) -> Drafts:
        return msgspec.structs.replace(drafts, token_ids=drafts.token_ids[:1])

    def forced(self, request_id: str, length: int, most: int) -> list[int]:
        return self.forces[:most]


def test_a_grammar_may_shorten_drafts_but_not_those_drawn_from_a_law() -> None:
    proposer = make(Fixed(4))
    sure, drawn = Drafts("r", 0, 3, [5, 6]), Drafts("r", 0, 3, [5, 6], draft_q=[([5], [1.0]), ([6], [1.0])])
    assert proposer.fitting(sure) is sure
    proposer = make(Fixed(4), grammars=OfOne())
    assert proposer.fitting(sure).token_ids == [5]
    assert proposer.fitting(drawn) is drawn


def test_a_request_is_told_why_nothing_more_was_drafted() -> None:
    class Failing(Suffix):
        def propose(self, batch: Sequence[ProposeReq], budget: StepBudget) -> list[Drafts]:
            raise RuntimeError("broken")

    context = Context(vocab_size=100, max_model_len=500, max_num_seqs=8, max_draft_tokens=4)
    for speculator, off, reason in (
        (Suffix(SuffixConfig(), context), False, None),
        (Suffix(SuffixConfig(), context), True, "policy"),
        (Failing(SuffixConfig(), context), False, "fault"),
    ):
        policy = Goodput(StepCosts([(1, 0.01), (64, 0.01)]))
        proposer = Proposer([Method("suffix", speculator)], policy, StepCosts(), 4, clock=lambda: 0.0)
        proposer.open("r", [1, 2, 3, 1, 2], SamplingParams(max_tokens=100), control=SpeculationControl())
        live = proposer._live["r"]
        assert live.tally is not None
        live.tally.verified("suffix", 4, 2)
        play(proposer, 0, "r", [3])
        proposer.propose()
        for _ in range(16 if off else 0):
            policy.stepped(1, 0)
        told = proposer.report("r", is_last=True)
        assert told is not None and told.off_reason == reason


def test_methods_tell_what_they_count_under_known_names() -> None:
    values = make(Fixed(4)).method_stats() | {"spec_disabled_state/drafter": 1.0, "spec_jit": 2.0}
    assert "spec_method/suffix/num_bytes" in values
    registry = metrics.MetricsRegistry("m")
    registry.take(Stats("scheduler", 0, values))
    assert registry.num_unknown == 0
    text = registry.render().decode()
    assert 'paceline_spec_method{count="num_bytes"' in text and "paceline_spec_jit_total{" in text
    assert 'reason="drafter"} 1.0' in text


def test_nothing_goes_ahead_of_drafts_that_are_being_verified() -> None:
    proposer = make(Fixed(4))
    proposer.open("r", [1, 2, 3, 4, 1], SamplingParams(max_tokens=100))
    play(proposer, 0, "r", [2])
    [drafts] = proposer.propose()
    proposer.landed(drafts, drafts.token_ids)
    assert not proposer.waits(proposer.depths())  # nothing is open
    plan = StepPlan(1, [], [], [Row("r", 0, 5, 1, 1, [], True, -1, drafts.token_ids)])
    proposer.sent(plan)
    assert proposer.depths() == {} and proposer.waits({})
    result = StepResult(1, [RowResult("r", 0, [3, 9], 1)], 0.01)
    proposer.applied(plan, result, [RequestOutput("r", 1, [3, 9])])
    assert not proposer.waits({})
    assert proposer.tally.values["spec_accepted_tokens/suffix"] == 1
    assert proposer.tally.values["spec_draft_tokens/suffix"] == len(drafts.token_ids)


def test_no_drafts_behind_the_last_token_and_none_of_the_closed() -> None:
    proposer = make(Fixed(4))
    proposer.open("r", [1, 2, 3, 4, 1, 2], SamplingParams(max_tokens=2))
    play(proposer, 0, "r", [3])
    assert proposer.propose() == []  # one token is left: no draft could be accepted before it
    proposer.report("r", is_last=True)
    assert proposer.report("r", is_last=True) is None and proposer.depths() == {}


def test_a_lost_target_takes_the_waiting_drafts_along() -> None:
    proposer = make(Fixed(4))
    proposer.open("r", [1, 2, 3, 4, 1], SamplingParams(max_tokens=100))
    play(proposer, 0, "r", [2])
    [drafts] = proposer.propose()
    proposer.landed(drafts, drafts.token_ids)
    proposer.sent(StepPlan(1, [], [], [Row("r", 0, 5, 1, 1, [], True, -1, drafts.token_ids)]))
    proposer.forget_plans()
    assert proposer.depths() == {} and not proposer.waits({"r": 1})


def test_metrics_bear_vllms_names_and_ours() -> None:
    engine = run_engine(perfect(max_draft_tokens=3), ("r", None))
    registry = metrics.MetricsRegistry("m")
    assert b"spec_decode" not in registry.render()
    told = engine.scheduler.stats()
    assert told is not None
    registry.take(told)
    samples = {f"spec_propose/{CHAOS}": [1e-5], "spec_k_chosen": [2.0], "spec_step_overhead": [1e-4]}  # sent by then
    registry.take(msgspec.structs.replace(told, observations=samples))
    text = registry.render().decode()
    assert registry.num_unknown == 0
    for name in (
        'vllm:spec_decode_num_drafts_total{engine="0",model_name="m"}',
        'vllm:spec_decode_num_accepted_tokens_per_pos_total{engine="0",model_name="m",position="2"}',
        f'paceline_spec_accepted_tokens_total{{engine="0",method="{CHAOS}",model_name="m"}}',
        f'paceline_spec_accepted_per_pos_total{{engine="0",method="{CHAOS}",model_name="m",position="0"}}',
        f'paceline_spec_propose_seconds_count{{engine="0",method="{CHAOS}",model_name="m"}}',
        "paceline_spec_k_chosen_bucket",
        'paceline_spec_disabled_state{engine="0",model_name="m",reason="policy"} 0.0',
    ):
        assert name in text, name


def test_counters_stand_at_zero_from_the_start() -> None:
    async def main() -> dict[str, float]:
        async with Engine(config(perfect(max_draft_tokens=2))) as engine:
            told = engine.scheduler.stats()
            assert told is not None
            return told.values

    values = simulate(main)
    assert values["spec_decode_num_drafts"] == values["spec_decode_num_accepted_tokens_per_pos/1"] == 0
    assert values[f"spec_drafts/{CHAOS}"] == values[f"spec_accepted_per_pos/{CHAOS}/1"] == 0
