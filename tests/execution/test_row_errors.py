"""A bad request ends itself and nobody else; a rule's answer, and the batch it sees."""

import math
from typing import Any

import pytest
import torch
from naive import generate
from toy_model import ToyModel

from paceline.engine import plugins
from paceline.engine.core.plan import NewRequest, Row, StepPlan
from paceline.engine.execution.acceptance import VerifyBatch
from paceline.engine.execution.kv_pool import allocate
from paceline.engine.execution.runner import Runner
from paceline.engine.nn.model import Batch, KVCache
from paceline.engine.types import SamplingParams
from paceline.spec_decode.rules import coupled

GREEDY = SamplingParams(max_tokens=20, temperature=0.0)
GOOD = NewRequest("good", 0, [5, 6, 7], 3, [0, 1], GREEDY)
GOOD_ROW = Row("good", 0, 0, 3, 2, [], True)


def new(ids: list[int] | None = None, blocks: list[int] | None = None, **fields: Any) -> NewRequest:
    params = SamplingParams(max_tokens=9, **fields)
    return NewRequest("bad", 1, [1, 2, 3] if ids is None else ids, 3, [3, 4] if blocks is None else blocks, params)


def row(epoch: int = 1, start: int = 0, count: int = 3, blocks: int = 2, **fields: Any) -> Row:
    return Row("bad", epoch, start, count, blocks, **({"new_block_ids": [], "yields": True} | fields))


@pytest.mark.parametrize(
    ("opened", "asked", "words"),
    [
        (None, row(), "none"),
        (new(), row(epoch=2), "epoch 1"),
        (new([1, 2, 97]), row(), "token id 97"),
        (new([1, -2, 9]), row(), "token id -2"),
        (new([1, 2]), row(), "2 tokens"),
        (new(logit_bias={400: 1.0}), row(), "token id 400"),
        (new(bad_words=[[1, 97]]), row(), "token id 97"),
        (new(blocks=[3, 16]), row(), "outside the pool of 16"),
        (new(blocks=[-1]), row(), "outside the pool"),
        (new(), row(new_block_ids=[16]), "outside the pool"),
        (new(blocks=[]), row(blocks=0), "0 blocks"),
        (new(blocks=[3]), row(blocks=1, draft_ids=[1, 1]), "needs 5 slots"),
        (new(), row(blocks=3), "2 blocks"),
        (new(), row(count=2), "positions 0..1 of 3"),
        (new(), row(count=4), "positions 0..3 of 3"),
        (new(), row(count=0, yields=False), "positions"),
        (new(), row(start=-1, count=4), "positions -1"),
        (new(), row(draft_ids=[97]), "token id 97"),
        (new(), row(draft_ids=[1], yields=False), "does not yield"),
        (new(), row(draft_ids=[1, 2], draft_parents=[-1]), "no tree"),
        (new(), row(draft_ids=[1, 2], draft_parents=[-1, 1]), "no tree"),
        (new(), row(draft_ids=[1, 2], draft_parents=[-2, 0]), "no tree"),
        (new(allowed_token_ids=[4], bad_words=[[4]]), row(), "no token is possible at position 3"),
    ],
)
def test_one_bad_request_fails_alone(opened: NewRequest | None, asked: Row, words: str) -> None:
    model = ToyModel()
    runner = Runner(model, allocate(model.config, 16, 4, torch.float32), coupled.build())
    opened_all = [GOOD] if opened is None else [opened, GOOD]
    result = runner.run(StepPlan(7, [], opened_all, [asked, GOOD_ROW]))
    bad, good = result.rows
    assert (result.step, bad.request_id, good.request_id) == (7, "bad", "good")
    assert bad.error is not None and words in bad.error.message and "\n" not in bad.error.message
    assert bad.error.kind == ("invalid" if "no token is possible" in words else "internal")
    assert bad.token_ids == [] and bad.logprobs is None
    assert good.token_ids == generate(model, [5, 6, 7], GREEDY, dtype=torch.float32)[:1]
    later = runner.run(StepPlan(8, ["bad", "nobody"], [], [Row("good", 0, 3, 1, 2, [], True)]))
    assert later.rows[0].token_ids == generate(model, [5, 6, 7], GREEDY, dtype=torch.float32)[1:2]
    assert runner.num_held == 1


def test_logits_that_are_not_numbers_fail_their_row_alone() -> None:
    class Sick(ToyModel):
        def logits(self, hidden: torch.Tensor) -> torch.Tensor:
            found = super().logits(hidden)
            found[0] = math.nan
            return found

    model = Sick()
    runner = Runner(model, allocate(model.config, 16, 4, torch.float32), coupled.build())
    bad, good = runner.run(StepPlan(0, [], [new(), GOOD], [row(), GOOD_ROW])).rows
    assert bad.error is not None and "finite" in bad.error.message
    assert good.error is None and len(good.token_ids) == 1


def test_an_empty_plan_closes_and_answers_nothing() -> None:
    model = ToyModel()
    runner = Runner(model, allocate(model.config, 16, 4, torch.float32), coupled.build())
    runner.run(StepPlan(0, [], [GOOD], [GOOD_ROW]))
    assert runner.run(StepPlan(1, ["good"], [], [])).rows == [] and runner.num_held == 0


def test_a_failure_of_the_whole_step_is_raised() -> None:
    class Broken(ToyModel):
        def forward(
            self, batch: Batch, kv: KVCache, layers: dict[int, torch.Tensor] | None = None
        ) -> torch.Tensor:
            raise RuntimeError("device lost")

    model = Broken()
    runner = Runner(model, allocate(model.config, 16, 4, torch.float32), coupled.build())
    with pytest.raises(RuntimeError, match="device lost"):
        runner.run(StepPlan(0, [], [GOOD], [GOOD_ROW]))


# --- the coupled rule -------------------------------------------------------------------------------------------------


def verify(drafts: list[list[int]], temperature: float) -> tuple[VerifyBatch, list[int]]:
    """Random logits, and the target's own draw at each position: what drafts must equal."""
    starts = [0]
    for chain in drafts:
        starts.append(starts[-1] + len(chain) + 1)
    size = starts[-1]
    logits = torch.randn(size, 50, generator=torch.Generator().manual_seed(3))
    batch = VerifyBatch(
        logits, torch.full((size,), temperature), torch.full((size,), 11), torch.arange(size) + 4, starts, drafts
    )
    plain = VerifyBatch(
        logits, batch.temperatures, batch.seeds, batch.positions, list(range(size + 1)), [[] for _ in range(size)]
    )
    return batch, [answer.token_ids[0] for answer in coupled.build().accept(plain)]


@pytest.mark.parametrize("temperature", [0.0, 1.0])
@pytest.mark.parametrize("right", [0, 1, 2, 3])
def test_drafts_stand_while_they_equal_the_targets_own_draw(temperature: float, right: int) -> None:
    _, own = verify([[0, 0, 0], []], temperature)
    chain = [*own[:right], *((t + 1) % 50 for t in own[right:3])]
    batch, _ = verify([chain, []], temperature)
    first, second = coupled.build().accept(batch)
    assert (first.token_ids, first.num_accepted) == (own[: right + 1], right)
    assert (second.token_ids, second.num_accepted) == (own[4:5], 0)


def test_a_right_draft_behind_a_wrong_one_is_refused() -> None:
    _, own = verify([[0, 0, 0]], 1.0)
    batch, _ = verify([[own[0], (own[1] + 1) % 50, own[2]]], 1.0)
    assert coupled.build().accept(batch)[0].num_accepted == 1


def test_every_rule_is_a_plug_in_that_says_whether_it_is_lossless() -> None:
    assert "coupled" in plugins.names("spec_decode.rules")
    for name in plugins.names("spec_decode.rules"):
        rule = plugins.load("spec_decode.rules", name)
        assert isinstance(rule.LOSSLESS, bool) and callable(rule.build(None).accept)
