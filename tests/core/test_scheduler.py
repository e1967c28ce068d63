"""What the scheduler decides, case by case. That the outcome is right in any case: test_scheduler_properties.py."""

import random
from typing import Literal

import msgspec
import pytest
from core_sim import Guesser, Harness, config, draw, naive

from paceline.engine.core.plan import Drafts, RowResult, StepResult
from paceline.engine.core.request import State
from paceline.engine.core.scheduler import Scheduler
from paceline.engine.errors import ActorError, UnavailableError
from paceline.engine.types import ErrorInfo, Pooling, SamplingParams


def shape(plan) -> list[tuple[str, int, int, bool]]:
    """(request, start, tokens, yields) of each row."""
    return [(row.request_id, row.start, row.num_tokens, row.yields) for row in plan.rows]


def test_prompts_are_cut_into_chunks_and_decoding_goes_first() -> None:
    harness = Harness(config(max_num_batched_tokens=6))
    harness.add("a", [1] * 4)
    assert shape(harness.step()) == [("a", 0, 4, True)]
    harness.add("b", [2] * 9)
    assert shape(harness.step()) == [("a", 4, 1, True), ("b", 0, 5, False)]
    assert shape(harness.step()) == [("a", 5, 1, True), ("b", 5, 4, True)]
    assert shape(harness.step()) == [("a", 6, 1, True), ("b", 9, 1, True)]
    harness.run().verify()


def test_a_small_budget_serves_in_order() -> None:
    harness = Harness(config(max_num_batched_tokens=1))
    for name in "ab":
        harness.add(name, [1], SamplingParams(max_tokens=2))
    assert [shape(harness.step()) for _ in range(4)] == [
        [("a", 0, 1, True)],
        [("a", 1, 1, True)],
        [("b", 0, 1, True)],
        [("b", 1, 1, True)],
    ]
    harness.run().verify()


def test_more_to_decode_than_the_budget_serves_in_order() -> None:
    harness = Harness(config(max_num_batched_tokens=2, max_in_flight=2))
    harness.add("a", [1])
    harness.schedule()
    harness.answer()
    harness.core.offer(Drafts("a", 0, 2, [3]))
    assert shape(harness.schedule(1)) == [("a", 1, 1, True)]
    harness.add("b", [2])
    harness.add("c", [3])
    assert shape(harness.schedule()) == [("b", 0, 1, True), ("c", 0, 1, True)]
    harness.answer()
    assert [row[0] for row in shape(harness.schedule())] == ["a", "b"]
    harness.run().verify()


def test_nothing_to_do_is_none() -> None:
    harness = Harness(config())
    assert harness.schedule() is None and not harness.core.has_work()
    harness.add("a", [1], SamplingParams(max_tokens=1))
    harness.schedule()
    assert harness.core.has_work()
    harness.answer()
    assert harness.schedule() is None and not harness.core.has_work()


def test_plans_in_flight_name_the_step_their_token_comes_from() -> None:
    harness = Harness(config(max_in_flight=2, max_num_batched_tokens=4))
    harness.add("a", [1] * 6, SamplingParams(max_tokens=3))
    first, second = harness.schedule(), harness.schedule()
    assert first is not None and second is not None and harness.schedule() is None
    assert shape(first) == [("a", 0, 4, False)] and shape(second) == [("a", 4, 2, True)]
    harness.answer()
    third = harness.schedule()
    assert third is not None and shape(third) == [("a", 6, 1, True)] and third.rows[0].after == second.step
    harness.answer()
    fourth = harness.schedule()
    assert fourth is not None and fourth.rows[0].after == third.step
    harness.answer()
    assert harness.schedule() is None  # the third token is on its way: never past max_tokens
    harness.run().verify()


def test_a_stop_in_flight_drops_the_row_behind_it() -> None:
    prompt = [1] * 4
    end = naive(prompt, SamplingParams(max_tokens=9))[0][1]
    harness = Harness(config(max_in_flight=2))
    stream = harness.add("a", prompt, SamplingParams(max_tokens=9, end_ids=[end]))
    harness.run().verify()
    assert len(stream.output) == 2 and len(harness.plans) == 3


def test_the_first_output_says_what_was_cached_and_how_long_it_queued() -> None:
    harness = Harness(config(max_num_seqs=1))
    a = harness.add("a", [1] * 10, SamplingParams(max_tokens=1))
    b = harness.add("b", [1] * 10, SamplingParams(max_tokens=2))
    harness.step()
    harness.now = 2.5
    harness.run().verify()
    assert a.first is not None and (a.first.num_cached, a.first.queue_s) == (0, 0.0)
    assert b.first is not None and (b.first.num_cached, b.first.queue_s) == (8, 2.5)
    stats = harness.core.stats()
    assert (stats.prefix_query_tokens, stats.prefix_hit_tokens) == (20, 8)


def test_the_last_prompt_token_is_always_computed() -> None:
    harness = Harness(config())
    harness.add("a", [1] * 8, SamplingParams(max_tokens=1))
    harness.run()
    harness.add("b", [1] * 8, SamplingParams(max_tokens=1))
    assert shape(harness.step()) == [("b", 4, 4, True)]


def test_outputs_are_cached_for_the_next_turn() -> None:
    harness = Harness(config())
    a = harness.add("a", [1] * 4, SamplingParams(max_tokens=9))
    harness.run()
    b = harness.add("b", [1] * 4 + a.output + [1])
    harness.run().verify()
    assert b.first is not None and b.first.num_cached == 12


def test_without_the_prefix_cache_nothing_is_kept() -> None:
    harness = Harness(config(enable_prefix_caching=False))
    harness.add("a", [1] * 8)
    harness.run()
    assert harness.core.stats().num_cached_blocks == 0
    b = harness.add("b", [1] * 8)
    harness.run().verify()
    assert b.first is not None and b.first.num_cached == 0


def test_prompt_logprobs_do_not_read_the_cache_and_come_once() -> None:
    harness = Harness(config(max_num_batched_tokens=3))
    harness.add("a", [1] * 8)
    harness.run()
    b = harness.add("b", [1] * 8, SamplingParams(max_tokens=3, prompt_logprobs=0, logprobs=0))
    one = harness.add("one", [1], SamplingParams(max_tokens=3, prompt_logprobs=0))
    harness.run().verify()
    assert b.first is not None and b.first.num_cached == 0 and len(b.first.prompt_logprobs or []) == 7
    assert one.first is not None and one.first.prompt_logprobs == []


def test_a_prompt_alone_can_be_scored() -> None:
    harness = Harness(config(max_num_batched_tokens=3))
    a = harness.add("a", [1] * 8, SamplingParams(max_tokens=0, prompt_logprobs=0))
    harness.run().verify()
    assert a.last is a.first and a.last is not None and a.last.finish_reason == "length"
    assert not any(row.yields for plan in harness.plans for row in plan.rows)


def pooled(kind: Literal["last", "mean"] = "last", dimensions: int = 0) -> SamplingParams:
    return SamplingParams(max_tokens=0, pooling=Pooling(kind, dimensions))


@pytest.mark.parametrize(("kind", "cached"), [("last", 4), ("mean", 0)])
def test_a_prompt_is_pooled_in_one_output_and_only_a_mean_reads_no_cache(
    kind: Literal["last", "mean"], cached: int
) -> None:
    harness = Harness(config(max_num_batched_tokens=3))
    harness.add("a", [1] * 8)
    harness.run()
    b = harness.add("b", [1] * 8, pooled(kind))
    harness.run().verify()
    assert b.first is b.last and b.last is not None
    assert (b.last.finish_reason, b.last.num_cached, b.last.token_ids) == ("stop", cached, [])


def test_a_pooled_prompt_that_is_preempted_begins_anew() -> None:
    harness = Harness(config(max_num_batched_tokens=4))
    a = harness.add("a", [1] * 12, pooled("mean"))
    harness.step()
    harness.lose_target()
    harness.run().verify()
    assert a.last is not None and a.last.embedding and harness.plans[-1].rows[0].epoch == 1


@pytest.mark.parametrize("vector", [None, b"", b"\0\0\0\0"])
@pytest.mark.parametrize("wants", [True, False])
def test_a_vector_comes_with_the_end_of_its_prompt_and_nowhere_else(wants: bool, vector: bytes | None) -> None:
    harness = Harness(config(max_num_batched_tokens=4))
    a = harness.add("a", [1] * 8, pooled() if wants else SamplingParams(max_tokens=0))
    is_last = False

    def edit(result: StepResult) -> StepResult:
        rows = [msgspec.structs.replace(r, embedding=vector if is_last else None) for r in result.rows]
        return msgspec.structs.replace(result, rows=rows)

    harness.edit = edit
    harness.step()
    assert a.last is None
    is_last = True
    harness.run()
    assert a.last is not None
    assert (a.last.error is None) == (wants == bool(vector))


def test_a_vector_too_early_ends_the_request() -> None:
    harness = Harness(config(max_num_batched_tokens=4))
    a = harness.add("a", [1] * 8, pooled())
    harness.edit = lambda r: msgspec.structs.replace(r, rows=[msgspec.structs.replace(r.rows[0], embedding=b"early")])
    harness.run()
    assert a.last is not None and a.last.error is not None and a.last.embedding is None


def test_a_pooled_prompt_can_be_aborted_between_its_chunks() -> None:
    harness = Harness(config(max_num_batched_tokens=4, max_in_flight=2))
    harness.add("a", [1] * 30, pooled())
    harness.schedule()
    harness.schedule()
    [last] = harness.abort("a")
    assert last.finish_reason == "abort" and last.embedding is None
    harness.run()


def test_the_prefix_cache_can_be_reset_while_requests_run() -> None:
    harness = Harness(config())
    harness.add("a", [1] * 8)
    harness.run()
    b = harness.add("b", [1] * 8, SamplingParams(max_tokens=20))
    harness.step()
    assert b.first is not None and b.first.num_cached == 4
    assert harness.core.reset_prefix_cache() > 0
    harness.core.check()
    c = harness.add("c", [1] * 8)
    harness.run().verify()
    assert c.first is not None and c.first.num_cached == 0
    d = harness.add("d", [1] * 8)
    harness.run().verify()
    assert d.first is not None and d.first.num_cached == 4
    assert harness.core.reset_prefix_cache() > 0 and harness.core.reset_prefix_cache() == 0
    assert harness.core.stats().num_free_blocks == harness.config.num_blocks


def test_prompt_logprobs_known_before_a_preemption_are_not_doubled() -> None:
    harness = Harness(config(max_num_batched_tokens=3))
    a = harness.add("a", [1, 2] * 4, SamplingParams(max_tokens=2, prompt_logprobs=0))
    harness.step()
    harness.step()
    harness.lose_target()
    harness.run().verify()
    assert a.first is not None and len(a.first.prompt_logprobs or []) == 7


def test_prompt_logprobs_of_an_aborted_prompt_are_not_sent_half() -> None:
    harness = Harness(config(max_num_batched_tokens=3))
    a = harness.add("a", [1] * 8, SamplingParams(max_tokens=1, prompt_logprobs=0))
    harness.step()
    harness.abort("a")
    assert a.first is not None and a.first.prompt_logprobs is None


def test_a_resumed_request_goes_on_behind_its_output() -> None:
    harness = Harness(config())
    params = SamplingParams(max_tokens=6, prompt_logprobs=0)
    tokens = naive([1, 2], params)[0]
    a = harness.add("a", [1, 2], params, tokens[:4])
    harness.run().verify()
    assert a.first is not None and a.first.offset == 4 and a.first.prompt_logprobs is None


def test_a_resumed_request_that_was_complete_ends_at_once() -> None:
    harness = Harness(config())
    params = SamplingParams(max_tokens=3, stop_token_ids=[7])
    a = harness.add("a", [1, 2], params, naive([1, 2], params)[0])
    assert a.last is not None and a.last.finish_reason == "length" and a.last.token_ids == []
    b = harness.add("b", [1, 2], params, [7])
    assert b.last is not None and (b.last.finish_reason, b.last.stop_reason) == ("stop", 7)
    harness.verify_idle()


# --- preemption -------------------------------------------------------------------------------------------------------


def crowded(**changes: object) -> Harness:
    """Two requests whose outputs do not both fit the pool of 8 blocks of 4."""
    harness = Harness(config(num_blocks=8, enable_prefix_caching=False, **changes))
    harness.add("dear", [1] * 12, SamplingParams(max_tokens=12))
    harness.add("cheap", [2] * 4, SamplingParams(max_tokens=20))
    return harness


@pytest.mark.parametrize("max_in_flight", [1, 2])
def test_the_cheaper_request_is_preempted_and_comes_back_the_same(max_in_flight: int) -> None:
    harness = crowded(max_in_flight=max_in_flight)
    harness.run().verify()
    assert harness.core.stats().num_preemptions == 1
    opened = [(new.request_id, new.epoch) for plan in harness.plans for new in plan.new]
    assert opened == [("dear", 0), ("cheap", 0), ("cheap", 1)]
    back = next(new for plan in harness.plans for new in plan.new if new.epoch == 1)
    stream = harness.streams["cheap"]
    assert back.token_ids == (stream.prompt + stream.output)[: len(back.token_ids)] and back.num_prompt == 4
    assert len(back.token_ids) > 4


def test_blocks_of_a_preempted_request_stay_with_its_plan() -> None:
    harness, before = crowded(max_in_flight=2), 0
    while harness.core.stats().num_preemptions == 0:
        before = harness.core.stats().num_used_blocks
        harness.schedule()
        if harness.core.stats().num_preemptions == 0 and len(harness.unanswered) == 2:
            harness.answer()
    assert harness.unanswered and harness.core.stats().num_used_blocks >= before
    while harness.unanswered:
        harness.answer()
    assert harness.core.stats().num_used_blocks < before
    harness.run().verify()


def test_priority_decides_who_gives_way_and_who_goes_first() -> None:
    harness = Harness(config(num_blocks=8, enable_prefix_caching=False, policy="priority", max_num_seqs=2))
    harness.add("low", [1] * 12, SamplingParams(max_tokens=12), priority=5)
    harness.add("high", [2] * 4, SamplingParams(max_tokens=20), priority=-5)
    harness.add("mid", [3] * 4, SamplingParams(max_tokens=2), priority=0)
    plan = harness.step()
    assert plan is not None and [new.request_id for new in plan.new] == ["high", "mid"]
    harness.run().verify()
    assert {n.request_id for p in harness.plans for n in p.new if n.epoch} <= {"low"}


def test_half_computed_prompts_never_wait_for_each_other() -> None:
    harness = Harness(config(num_blocks=8, max_num_batched_tokens=4, enable_prefix_caching=False))
    for name in "abc":
        harness.add(name, [ord(name) % 30] * 26, SamplingParams(max_tokens=4))
    harness.run().verify()
    assert harness.core.stats().num_preemptions == 0


def test_a_prompt_pauses_while_decoding_needs_its_blocks() -> None:
    harness = Harness(config(num_blocks=6, max_num_batched_tokens=2, enable_prefix_caching=False))
    harness.add("a", [1] * 4, SamplingParams(max_tokens=12))
    harness.step()
    harness.step()
    harness.add("b", [2] * 14, SamplingParams(max_tokens=2))
    harness.run().verify()
    rows = [[row.request_id for row in plan.rows] for plan in harness.plans]
    assert rows[9:14] == [["a", "b"], ["a"], ["a"], ["a"], ["b"]]
    assert harness.core.stats().num_preemptions == 0


def test_fifo_admission_is_strict() -> None:
    harness = Harness(config(num_blocks=8, enable_prefix_caching=False))
    harness.add("a", [1] * 20, SamplingParams(max_tokens=4))
    harness.add("big", [2] * 20, SamplingParams(max_tokens=4))
    harness.add("small", [3], SamplingParams(max_tokens=4))
    harness.run().verify()
    assert [new.request_id for plan in harness.plans for new in plan.new] == ["a", "big", "small"]


# --- abort, error, loss of the target ---------------------------------------------------------------------------------


def test_abort_frees_blocks_within_one_step() -> None:
    harness = Harness(config(max_in_flight=2))
    harness.add("a", [1] * 9)
    harness.schedule()
    harness.schedule()
    (output,) = harness.abort("a")
    assert output.finish_reason == "abort" and output.token_ids == []
    assert harness.core.stats().num_used_blocks == 3 and harness.core.stats().num_running == 0
    assert harness.answer() == [] and harness.core.stats().num_used_blocks == 3
    assert harness.answer() == [] and harness.core.stats().num_used_blocks == 0
    assert harness.schedule() is None
    harness.add("b", [2])
    plan = harness.step()
    assert plan is not None and plan.closed == ["a"]
    harness.run().verify()


def test_an_aborted_queued_request_is_never_planned() -> None:
    harness = Harness(config(max_num_seqs=1))
    harness.add("a", [1])
    harness.add("b", [2])
    harness.abort("b")
    harness.run().verify()
    assert {row.request_id for plan in harness.plans for row in plan.rows} == {"a"}
    assert harness.abort("b") == [] == harness.abort("nobody")


def test_an_id_may_be_used_again_while_its_old_row_is_in_flight() -> None:
    harness = Harness(config(max_in_flight=2))
    harness.add("a", [1] * 4)
    harness.schedule()
    harness.abort("a")
    a = harness.add("a", [2] * 4)
    plan = harness.schedule()
    assert plan is not None and plan.closed == ["a"] and plan.new[0].request_id == "a"
    assert harness.answer() == []
    harness.run().verify()
    assert len(a.output) == 8


def test_an_error_of_a_row_ends_that_request_alone() -> None:
    harness = Harness(config(max_in_flight=2))
    a, b = harness.add("a", [1] * 4), harness.add("b", [2] * 4)
    error = ErrorInfo("internal", "numbers went bad")
    harness.schedule()
    harness.schedule()
    harness.edit = lambda result: StepResult(
        result.step, [RowResult("a", 0, [], error=error) if r.request_id == "a" else r for r in result.rows]
    )
    harness.answer()
    harness.edit = lambda result: result
    harness.run().verify()
    assert a.last is not None and a.last.error == error and a.last.finish_reason == "error"
    assert b.last is not None and b.last.finish_reason == "length"


@pytest.mark.parametrize(
    "row",
    [
        RowResult("b", 0, [3]),
        RowResult("a", 1, [3]),
        RowResult("a", 0, []),
        RowResult("a", 0, [3, 4]),
        RowResult("a", 0, [3, 4], 1),
        RowResult("a", 0, [32]),
        RowResult("a", 0, [-1]),
        RowResult("a", 0, [3], logprobs=[]),
    ],
)
def test_an_answer_that_does_not_fit_its_row_ends_the_request(row: RowResult) -> None:
    harness = Harness(config())
    a = harness.add("a", [1] * 4)
    harness.schedule()
    harness.edit = lambda result: StepResult(result.step, [row])
    harness.answer()
    assert a.last is not None and a.last.error is not None and "does not fit its row" in a.last.error.message
    harness.verify_idle()


@pytest.mark.parametrize(("num_tokens", "logprobs", "token_ids"), [(3, None, [1]), (3, 2, []), (8, 6, [1])])
def test_a_wrong_answer_to_a_chunk_ends_the_request(num_tokens: int, logprobs: int | None, token_ids: list) -> None:
    harness = Harness(config(max_num_batched_tokens=num_tokens))
    prompt_logprobs = 0 if logprobs is not None else None
    a = harness.add("a", [1] * 8, SamplingParams(max_tokens=1, prompt_logprobs=prompt_logprobs))
    harness.schedule()
    harness.edit = lambda result: StepResult(
        result.step,
        [RowResult("a", 0, token_ids, prompt_logprobs=(result.rows[0].prompt_logprobs or [])[: logprobs or 0])],
    )
    harness.answer()
    assert a.last is not None and a.last.finish_reason == "error"


def test_accepted_drafts_must_be_the_drafts() -> None:
    harness = Harness(config())
    a = harness.add("a", [1] * 4)
    harness.step()
    harness.core.offer(Drafts("a", 0, 5, [3, 4]))
    harness.schedule(2)
    harness.edit = lambda result: StepResult(result.step, [RowResult("a", 0, [4, 4, 5], 2)])
    harness.answer()
    assert a.last is not None and a.last.finish_reason == "error"


def test_answers_out_of_order_or_of_other_shape_are_the_targets_fault() -> None:
    harness = Harness(config(max_in_flight=2))
    harness.add("a", [1] * 4)
    first, second = harness.schedule(), harness.schedule()
    assert first is not None and second is not None
    answer = harness.target.run(first)
    with pytest.raises(ActorError, match="step 1 with 1 rows as step 1, but step 0 with 1 rows is next"):
        harness.core.apply(second, StepResult(1, answer.rows))
    with pytest.raises(ActorError, match="restart the target"):
        harness.core.apply(first, StepResult(0, []))
    with pytest.raises(ActorError):
        harness.core.apply(first, StepResult(7, answer.rows))
    harness.core.check()
    outputs = harness.core.apply(first, answer)
    assert len(outputs) == 1
    assert harness.core.apply(first, answer) == []  # twice is once
    harness.take(outputs)
    harness.unanswered.popleft()
    harness.run().verify()


def test_a_lost_target_costs_nothing_but_time() -> None:
    harness = Harness(config(max_in_flight=2))
    harness.add("a", [1] * 9)
    harness.add("b", [1] * 9, fork_of="a")
    for _ in range(5):
        harness.step()
    harness.abort("b")
    lost = harness.unanswered[0]
    harness.lose_target()
    stats = harness.core.stats()
    assert (stats.num_used_blocks, stats.num_cached_blocks, stats.num_in_flight) == (0, 0, 0)
    assert harness.core.apply(lost, StepResult(lost.step, [])) == []
    plan = harness.step()
    assert plan is not None and plan.closed == [] and plan.new[0].epoch == 1
    harness.run().verify()


def test_replay_gives_all_output_so_far() -> None:
    harness = Harness(config())
    a = harness.add("a", [1] * 4)
    for _ in range(3):
        harness.step()
    replayed = harness.core.replay("a")
    assert replayed is not None and (replayed.offset, replayed.token_ids) == (0, a.output) and len(a.output) == 3
    assert harness.core.replay("b") is None


def test_what_was_taken_once_is_taken_again_whatever_waits() -> None:
    core = Scheduler(config(max_num_seqs=1, max_queued_requests=1))
    for name in ("a", "b"):
        core.add(name, [1] * 4, SamplingParams(max_tokens=3), now=0.0)
    with pytest.raises(UnavailableError, match="max_queued_requests"):
        core.add("c", [1] * 4, SamplingParams(max_tokens=3), now=0.0)
    core.add("c", [1] * 4, SamplingParams(max_tokens=3), now=0.0, is_again=True)
    core.drain()
    core.add("d", [1] * 4, SamplingParams(max_tokens=3), now=0.0, is_again=True)
    core.check()
    assert core.stats().num_waiting == 4


# --- forks ------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("caching", [True, False])
def test_forks_share_the_full_blocks_of_the_prompt(caching: bool) -> None:
    harness = Harness(config(max_num_batched_tokens=6, enable_prefix_caching=caching))
    for i in range(3):
        harness.add(f"a-{i}", [1] * 10, SamplingParams(max_tokens=4, seed=i), fork_of="a-0" if i else None)
    assert shape(harness.step()) == [("a-0", 0, 6, False)]
    assert shape(harness.step()) == [("a-0", 6, 4, True)]
    assert harness.core.stats().num_waiting == 2
    plan = harness.step()
    assert shape(plan) == [("a-0", 10, 1, True), ("a-1", 8, 2, True), ("a-2", 8, 2, True)]
    assert plan is not None and plan.new[0].block_ids == plan.new[1].block_ids and len(plan.new[0].block_ids) == 2
    assert harness.core.stats().num_used_blocks == 5
    harness.run().verify()
    first = harness.streams["a-1"].first
    assert first is not None and first.num_cached == 8


def test_forks_of_someone_gone_or_done_start_at_once() -> None:
    harness = Harness(config())
    harness.add("a", [1] * 9)
    harness.add("b", [1] * 9, fork_of="a")
    harness.abort("a")
    harness.add("c", [1] * 9, fork_of="nobody")
    plan = harness.step()
    assert plan is not None and [new.request_id for new in plan.new] == ["b", "c"]
    harness.add("d", [1] * 9, fork_of="b")
    harness.step()
    assert harness.streams["d"].output
    harness.run().verify()


def test_a_fork_waiting_can_be_aborted() -> None:
    harness = Harness(config())
    harness.add("a", [1] * 9)
    harness.add("b", [1] * 9, fork_of="a")
    harness.add("c", [1] * 9, fork_of="b")
    harness.abort("b")
    harness.run().verify()
    assert harness.streams["b"].output == [] and len(harness.streams["c"].output) == 8


@pytest.mark.parametrize("options", [{"prompt": [1] * 4 + [2] * 5}, {"cache_salt": "mine"}])
def test_a_fork_shares_only_what_is_the_same(options: dict) -> None:
    harness = Harness(config(enable_prefix_caching=False))
    harness.add("a", [1] * 9)
    b = harness.add("b", options.pop("prompt", [1] * 9), fork_of="a", **options)
    harness.run().verify()
    assert b.first is not None and b.first.num_cached == 0


def test_forks_of_a_resumed_request_whose_prompt_is_cached() -> None:
    harness = Harness(config(max_num_batched_tokens=4))
    params = SamplingParams(max_tokens=9)
    harness.add("first", [1] * 4, params)
    harness.run()
    harness.add("a", [1] * 4, params, naive([1] * 4, params)[0][:8])
    harness.add("b", [1] * 4, params, fork_of="a")
    harness.step()
    assert harness.streams["b"].last is None and harness.core._requests["b"].state is not State.FORKING
    harness.run().verify()


# --- drafts -----------------------------------------------------------------------------------------------------------


def truth(harness: Harness, request_id: str, num: int) -> list[int]:
    """The next ``num`` tokens of a request."""
    stream = harness.streams[request_id]
    tokens = stream.prompt + stream.output
    for _ in range(num):
        tokens = [*tokens, draw(tokens, 0, stream.params)]
    return tokens[-num:]


def speaking(**changes: object) -> Harness:
    """One request, just begun to decode: 4 prompt tokens, 1 output token."""
    harness = Harness(config(**changes))
    harness.add("a", [1] * 4, SamplingParams(max_tokens=20))
    harness.schedule()
    harness.answer()
    return harness


def test_a_tree_rides_in_the_row_and_its_path_is_kept() -> None:
    harness = speaking()
    good = truth(harness, "a", 5)
    tree = ([good[0] ^ 1, good[0], 7, good[1], good[1] ^ 1, good[2]], [-1, -1, 0, 1, 1, 3])
    laws = [([x], [1.0]) for x in tree[0]]
    assert harness.core.offer(Drafts("a", 0, 5, *tree, draft_q=laws)) == tree[0]
    plan = harness.schedule(5)
    assert plan is not None
    row = plan.rows[0]
    assert (row.draft_ids, row.draft_parents, row.draft_q) == (tree[0][:5], tree[1][:5], laws[:5])
    (output,) = harness.answer()
    assert output.token_ids == good[:3]
    stats = harness.core.stats()
    assert (stats.num_draft_tokens, stats.num_accepted_tokens) == (5, 2)
    assert stats.num_used_blocks == 2  # 7 slots are valid
    plan = harness.schedule(5)  # of the tree nothing is left: the sixth node was the token that the target added itself
    assert plan is not None and plan.rows[0].draft_ids == []


def test_without_trees_the_best_child_is_verified() -> None:
    harness = speaking(draft_trees=False)
    good = truth(harness, "a", 2)
    harness.core.offer(Drafts("a", 0, 5, [good[0], 9, good[1]], [-1, -1, 0]))
    plan = harness.schedule(5)
    assert plan is not None and (plan.rows[0].draft_ids, plan.rows[0].draft_parents) == (good, None)


@pytest.mark.parametrize(
    ("path", "accepted"),
    [(None, 2), *((p, 2) for p in ([1], [1, 2], [0, 2], [2, 1], [1, 3, 3], [1, 9], [-1, 1])), ([1, 3], 3)],
)
def test_a_path_that_is_none_ends_the_request(path: list[int] | None, accepted: int) -> None:
    harness = speaking()
    harness.core.offer(Drafts("a", 0, 5, [1, 2, 3, 4], [-1, -1, 0, 1]))
    harness.schedule(5)
    harness.edit = lambda result: StepResult(
        result.step, [RowResult("a", 0, [2, 4, 5, 6][: accepted + 1], accepted, path=path)]
    )
    harness.answer()
    last = harness.streams["a"].last
    assert last is not None and last.error is not None and "does not fit its row" in last.error.message


def test_a_path_that_fits_is_believed() -> None:
    harness = speaking()
    harness.core.offer(Drafts("a", 0, 5, [1, 2, 3, 4], [-1, -1, 0, 1]))
    harness.schedule(5)
    harness.edit = lambda result: StepResult(result.step, [RowResult("a", 0, [2, 4, 5], 2, path=[1, 3])])
    (output,) = harness.answer()
    assert output.token_ids == [2, 4, 5] and output.error is None


def test_drafts_ride_in_the_row_and_what_agrees_is_kept() -> None:
    harness = speaking()
    good = truth(harness, "a", 5)
    harness.core.offer(Drafts("a", 0, 5, [*good[:3], good[3] ^ 1, 9]))
    plan = harness.schedule(5)
    assert plan is not None and plan.rows[0].draft_ids == [*good[:3], good[3] ^ 1, 9]
    assert (plan.rows[0].start, plan.rows[0].num_tokens, plan.rows[0].num_blocks) == (4, 1, 1)
    assert len(plan.rows[0].new_block_ids) == 2  # slots 4 .. 9
    (output,) = harness.answer()
    assert output.token_ids == good[:4]
    assert harness.core.stats().num_used_blocks == 2  # 8 slots are valid: the third block went back
    stats = harness.core.stats()
    assert (stats.num_drafts, stats.num_draft_tokens, stats.num_accepted_tokens) == (1, 5, 3)
    assert stats.num_accepted_by_position == [1, 1, 1, 0, 0]
    plan = harness.schedule()
    assert plan is not None and plan.rows[0].num_blocks == 2 and len(plan.rows[0].new_block_ids) == 1
    harness.run().verify()


def test_what_is_left_of_a_chain_is_used_later() -> None:
    harness = speaking()
    good = truth(harness, "a", 8)
    harness.core.offer(Drafts("a", 0, 5, good))
    for expected in (good[:2], good[3:5], good[6:8], []):
        plan = harness.schedule(2)
        assert plan is not None and plan.rows[0].draft_ids == expected
        harness.answer()
    assert harness.core.stats().num_stale_drafts == {}
    harness.run().verify()


def test_drafts_offered_in_flight_are_advanced() -> None:
    harness = speaking()
    good = truth(harness, "a", 6)
    harness.core.offer(Drafts("a", 0, 5, good[:2]))
    harness.schedule(4)
    harness.core.offer(Drafts("a", 0, 5, [*good[:4], 30], None))  # made ahead: those in flight come first
    assert harness.schedule(4) is None
    harness.answer()
    plan = harness.schedule(4)
    assert plan is not None and plan.rows[0].draft_ids == [good[3], 30]
    harness.run().verify()


def test_a_request_with_unanswered_drafts_waits_and_one_with_waiting_drafts_too() -> None:
    harness = speaking(max_in_flight=2)
    harness.add("b", [2] * 4)
    harness.core.offer(Drafts("a", 0, 5, truth(harness, "a", 3)))
    plan = harness.schedule(3)
    assert plan is not None and plan.rows[0].draft_ids
    plan = harness.schedule(3)
    assert plan is not None and [row.request_id for row in plan.rows] == ["b"]
    harness.core.offer(Drafts("b", 0, 4, truth(harness, "b", 3)))
    harness.answer()
    plan = harness.schedule(3)  # b's drafts wait for the result that tells whether they fit
    assert plan is not None and [row.request_id for row in plan.rows] == ["a"]
    harness.answer()
    plan = harness.schedule(3)
    assert plan is not None and ("b", 1) in [(row.request_id, len(row.draft_ids)) for row in plan.rows]
    harness.run().verify()


def test_depth_is_per_request_and_zero_means_plain() -> None:
    harness = speaking()
    harness.add("b", [2] * 4)
    harness.step()
    for name in "ab":
        length = len(harness.streams[name].prompt + harness.streams[name].output)
        harness.core.offer(Drafts(name, 0, length, truth(harness, name, 6)))
    plan = harness.schedule({"a": 2})
    assert plan is not None and [len(row.draft_ids) for row in plan.rows] == [2, 0]
    harness.run().verify()


def test_drafts_end_where_the_output_does() -> None:
    harness = Harness(config())
    harness.add("a", [1] * 4, SamplingParams(max_tokens=4))
    harness.step()
    harness.core.offer(Drafts("a", 0, 5, truth(harness, "a", 6)))
    plan = harness.schedule(6)
    assert plan is not None and len(plan.rows[0].draft_ids) == 2  # two drafts and the next token make four
    harness.run().verify()


def test_a_stop_inside_an_accepted_run_cuts_it() -> None:
    prompt = [1] * 4
    tokens = naive(prompt, SamplingParams(max_tokens=9))[0]
    harness = Harness(config())
    a = harness.add("a", prompt, SamplingParams(max_tokens=9, stop_token_ids=[tokens[2]], logprobs=0))
    harness.step()
    harness.core.offer(Drafts("a", 0, 5, tokens[1:6]))
    harness.schedule(5)
    (output,) = harness.answer()
    assert output.token_ids == tokens[1:3] and output.stop_reason == tokens[2] and len(output.logprobs or []) == 2
    assert a.last is output
    harness.verify_idle()


def test_drafts_take_what_is_left_and_half_of_it_while_prompts_wait() -> None:
    harness = speaking(max_num_batched_tokens=7)
    harness.core.offer(Drafts("a", 0, 5, truth(harness, "a", 10)))
    plan = harness.schedule(10)
    assert plan is not None and len(plan.rows[0].draft_ids) == 6
    harness.answer()
    harness.add("b", [2] * 20)
    harness.core.offer(Drafts("a", 0, 12, truth(harness, "a", 10)))
    plan = harness.schedule(10)
    assert plan is not None and [len(row.draft_ids) for row in plan.rows] == [3, 0]
    assert plan.rows[1].num_tokens == 3
    harness.run().verify()


def test_drafts_never_take_a_block_that_somebody_needs() -> None:
    harness = Harness(config(num_blocks=9, enable_prefix_caching=False))  # just enough for both
    harness.add("a", [1] * 16, SamplingParams(max_tokens=8))
    harness.add("b", [2] * 8, SamplingParams(max_tokens=4))
    guesser = Guesser(1, 1.0)
    harness.run(6, speculate=guesser).verify()
    assert harness.core.stats().num_preemptions == 0
    assert harness.core.stats().num_accepted_tokens > 0


def test_drafts_leave_the_last_block_to_the_next_token_of_another() -> None:
    harness = Harness(config(num_blocks=4, enable_prefix_caching=False))
    harness.add("a", [1] * 5, SamplingParams(max_tokens=8))
    harness.add("b", [2] * 4, SamplingParams(max_tokens=3))
    harness.step()
    harness.core.offer(Drafts("a", 0, 6, truth(harness, "a", 6)))
    plan = harness.schedule(6)
    assert plan is not None and [(row.request_id, len(row.draft_ids)) for row in plan.rows] == [("a", 2), ("b", 0)]
    assert len(plan.rows[1].new_block_ids) == 1
    harness.run().verify()


def test_drafts_leave_reserved_blocks_to_the_prompt() -> None:
    harness = Harness(config(num_blocks=7, max_num_batched_tokens=8, enable_prefix_caching=False))
    harness.add("a", [1] * 4, SamplingParams(max_tokens=8))
    harness.step()
    harness.add("b", [2] * 16, SamplingParams(max_tokens=1))
    harness.step()
    harness.core.offer(Drafts("a", 0, 6, truth(harness, "a", 6)))
    plan = harness.schedule(6)
    assert plan is not None and [(row.request_id, len(row.draft_ids)) for row in plan.rows] == [("a", 2), ("b", 0)]
    harness.run().verify()


def test_drafts_without_a_block_become_a_plain_step() -> None:
    harness = Harness(config(num_blocks=4, block_size=1, max_model_len=8, enable_prefix_caching=False))
    harness.add("a", [1], SamplingParams(max_tokens=3))
    harness.add("b", [2], SamplingParams(max_tokens=3))
    harness.step()
    harness.core.offer(Drafts("a", 0, 2, truth(harness, "a", 1)))
    plan = harness.schedule(1)
    assert plan is not None and [(row.num_tokens, row.draft_ids) for row in plan.rows] == [(1, []), (1, [])]
    harness.run().verify()


def test_stale_and_faulty_drafts_are_counted_by_reason() -> None:
    harness = speaking()
    good = truth(harness, "a", 3)
    offer = harness.core.offer
    offer(Drafts("nobody", 0, 5, good))
    offer(Drafts("a", 1, 5, good))
    offer(Drafts("a", 0, 4, [31, 31]))
    offer(Drafts("a", 0, 5, []))  # nothing to say is no fault
    offer(Drafts("a", 0, 6, good, source="ahead"))
    offer(Drafts("a", 0, 5, good, source="ahead"))
    offer(Drafts("a", 0, 5, [32], source="wide"))
    offer(Drafts("a", 0, 0, good, source="zero"))
    offer(Drafts("a", 0, 5, good, [0, 0, 0], source="tree"))
    assert harness.core.stats().num_stale_drafts == {
        "unknown": 1,
        "epoch": 1,
        "diverged": 1,
        "fault": 4,
        "quarantined": 1,
    }
    offer(Drafts("a", 0, 5, [good[0], good[1] ^ 1, 7, 7]))
    harness.schedule(1)
    harness.answer()
    plan = harness.schedule(1)  # x_2 was wrong: nothing below the committed tokens
    assert plan is not None and plan.rows[0].draft_ids == []
    assert harness.core.stats().num_stale_drafts["diverged"] == 2
    harness.run().verify()


# --- figures ----------------------------------------------------------------------------------------------------------


def test_kv_waste_stays_under_four_per_cent() -> None:
    """Random lengths around 300 tokens, blocks of 16: unfilled over allocated slots, mean of all steps."""
    chance = random.Random(7)
    core = config(
        num_blocks=2000, block_size=16, max_num_seqs=32, max_num_batched_tokens=512, max_model_len=1024, max_in_flight=2
    )
    harness = Harness(core)
    core_only, allocated, filled = harness.core, 0, 0
    for i in range(64):
        prompt = [chance.randrange(32) for _ in range(chance.randint(50, 400))]
        core_only.add(f"r{i}", prompt, SamplingParams(max_tokens=chance.randint(20, 400)), now=0.0)
    unanswered = []
    while core_only.has_work():
        plan = core_only.schedule(0.0)
        if plan is not None:
            unanswered.append(plan)
        if plan is None or len(unanswered) == 2:
            answered = unanswered.pop(0)
            rows = [RowResult(r.request_id, r.epoch, [1] if r.yields else []) for r in answered.rows]
            core_only.apply(answered, StepResult(answered.step, rows))
        stats = core_only.stats()
        allocated += stats.num_allocated_slots
        filled += stats.num_filled_slots
    assert 0.0 < 1 - filled / allocated < 0.04
    harness.verify_idle()


def test_check_sees_damage() -> None:
    harness = speaking(max_in_flight=2)
    core = harness.core
    harness.schedule()
    request = core._requests["a"]
    for field, value, message in [
        ("num_computed", 9, "out of order"),
        ("after", -1, "newest token expected of step -1"),
        ("after", 77, "newest token expected of step 77"),
        ("verifying", True, "not as its state promises"),
        ("last_step", -1, "not as its state promises"),
        ("state", State.PREFILLING, "not as its state promises"),
    ]:
        sound = getattr(request, field)
        setattr(request, field, value)
        with pytest.raises(AssertionError, match=message):
            core.check()
        setattr(request, field, sound)
        core.check()
    core._running.decoding.clear()
    with pytest.raises(AssertionError, match="0 decoding listed, 1 there, or out of order"):
        core.check()
    core._running.decoding.append(request)
    core._running.open[99] = core._running.open[98] = next(iter(core._running.open.values()))
    with pytest.raises(AssertionError, match="1 run with 3 plans open: too many"):
        core.check()
