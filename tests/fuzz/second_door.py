"""Frames of a sender whom nobody has checked -> the scheduler core, which must hold whatever they say.

The input is a list of messages; each is added, offered, answered or aborted, and every invariant is checked after it.
"""

from collections.abc import Sequence
from typing import Any

import msgspec
from core_sim import VOCAB, config
from fuzzing.messages import EXAMPLES, PARAMS
from fuzzing.target import Target
from fuzzing.tree_mutator import msgpack_mutator

from paceline.actors import wire
from paceline.actors.messages import Abort, Add
from paceline.engine.core.plan import Drafts, RowResult, StepPlan, StepResult
from paceline.engine.core.scheduler import Scheduler
from paceline.engine.errors import PacelineError
from paceline.engine.types import SamplingParams

_MOST_MESSAGES = 24
_MOST_STEPS = 40
_decoder = wire.decoder("scheduler")
_version = bytes(wire.encode(Abort("")))[:1]


def run(data: bytes) -> None:
    try:
        frames: Any = msgspec.msgpack.decode(data, type=list[msgspec.Raw])
    except (msgspec.DecodeError, RecursionError, UnicodeDecodeError):
        return
    core, open_plans = Scheduler(config(max_in_flight=2)), list[StepPlan]()
    for frame in frames[:_MOST_MESSAGES]:
        try:
            _handle(core, _decoder.decode(_version + bytes(frame)), open_plans)
        except PacelineError:
            continue
        finally:
            core.check()
    for _ in range(_MOST_STEPS):
        _step(core, open_plans)
    core.check()


def _handle(core: Scheduler, message: Any, open_plans: list[StepPlan]) -> None:
    match message:
        case Add():
            core.add(
                message.request_id, message.prompt_ids, message.params, now=0.0, priority=message.priority,
                cache_salt=message.cache_salt, fork_of=message.fork_of, output_ids=message.output_ids,
                deadline=message.deadline_s,
            )  # fmt: skip
        case Drafts():
            core.offer(message)
        case Abort():
            core.abort(message.request_id)
        case StepResult():
            _step(core, open_plans, message.rows)
        case _:
            pass


def _step(core: Scheduler, open_plans: list[StepPlan], rows: Sequence[RowResult] = ()) -> None:
    """Plan, and answer the oldest plan with ``rows``, then with rows that fit."""
    if (plan := core.schedule(1.0, 2)) is not None:
        open_plans.append(plan)
    if not open_plans:
        return
    plan = open_plans.pop(0)
    told = [*rows[: len(plan.rows)]]
    for row in plan.rows[len(told) :]:
        ids = [7] if row.yields else []
        told.append(RowResult(row.request_id, row.epoch, ids))
    outputs = core.apply(plan, StepResult(plan.step, told, 0.01))
    assert all(0 <= i < VOCAB for output in outputs for i in output.token_ids)


def _seeds() -> list[bytes]:
    adds = [Add(f"a-{i}", [1, 2, 3, i], SamplingParams(max_tokens=3 + i, seed=i)) for i in range(3)]
    forked = Add("a-9", [1, 2, 3, 0], PARAMS, fork_of="a-0")
    answer = StepResult(0, [RowResult("a-0", 0, [1])])
    talks = [
        [EXAMPLES["scheduler"][0]],
        [*adds, answer, Drafts("a-0", 0, 5, [7, 7], source="s"), answer, Abort("a-1")],
        [adds[0], forked, answer, Drafts("a-0", 0, 5, [7, 7, 1], [-1, 0, 0], "t"), answer],
        EXAMPLES["scheduler"],
    ]
    return [msgspec.msgpack.encode(talk) for talk in talks]


TARGET = Target(run=run, seeds=_seeds(), mutate=msgpack_mutator(), most_bytes=8192)
