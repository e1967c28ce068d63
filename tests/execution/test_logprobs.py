"""Log-probabilities are torch's log_softmax of the raw logits, whatever else was asked for."""

import pytest
import torch
from naive import judge
from toy_model import ToyModel

from paceline.engine.core.plan import NewRequest, Row, RowResult, StepPlan
from paceline.engine.execution.kv_pool import allocate
from paceline.engine.execution.logprobs import describe, largest_ids
from paceline.engine.execution.runner import Runner
from paceline.engine.types import SamplingParams
from paceline.spec_decode.rules import coupled


def test_values_rank_and_order() -> None:
    logits = torch.randn(1000, generator=torch.Generator().manual_seed(0)) * 5
    expected = torch.log_softmax(logits.double(), 0)
    found = describe(logits.numpy(), 17, 5)
    assert found.token_id == 17 and found.logprob == pytest.approx(float(expected[17]), abs=1e-6)
    assert found.rank == 1 + int((logits > logits[17]).sum())
    assert found.top_ids == torch.topk(logits, 5).indices.tolist()
    assert found.top_logprobs == pytest.approx(expected[found.top_ids].tolist(), abs=1e-6)


def test_equal_values_come_by_lower_id() -> None:
    row = torch.tensor([1.0, 3.0, 1.0, 3.0, 1.0, 0.0]).numpy()
    assert [largest_ids(row, n).tolist() for n in (0, 1, 2, 3, 4)] == [[], [1], [1, 3], [1, 3, 0], [1, 3, 0, 2]]
    assert largest_ids(row, -1).tolist() == largest_ids(row, 99).tolist() == [1, 3, 0, 2, 4, 5]


def test_given_ids_are_reported_instead_in_their_order() -> None:
    found = describe(torch.tensor([0.0, 1.0, 2.0]).numpy(), 2, 1, [2, 0])
    assert found.top_ids == [2, 0] and len(found.top_logprobs) == 2


def run(params: SamplingParams, drafts: list[int], prompt: list[int]) -> RowResult:
    """One step over the whole prompt and the drafts."""
    model = ToyModel()
    runner = Runner(model, allocate(model.config, 8, 4, torch.float32), coupled.build())
    row = Row("r", 0, 0, len(prompt), 8, [], True, draft_ids=drafts)
    result = runner.run(StepPlan(0, [], [NewRequest("r", 0, prompt, len(prompt), list(range(8)), params)], [row]))
    answer = judge(model, prompt, params, dtype=torch.float32)
    assert result.rows[0].token_ids == answer.token_ids[: len(result.rows[0].token_ids)]
    return result.rows[0]


def test_raw_and_one_for_each_committed_token_also_of_a_draft() -> None:
    loud = {"temperature": 0.5, "logit_bias": {5: 50.0}, "repetition_penalty": 1.7, "top_k": 1}
    params = SamplingParams(max_tokens=8, logprobs=4, **loud)
    row = run(params, [5, 5, 6], [1, 2, 3])
    assert row.token_ids == [5, 5, 5] and row.num_accepted == 2
    plain = run(SamplingParams(max_tokens=8, logprobs=4, allowed_token_ids=[5]), [5, 5, 6], [1, 2, 3])
    assert row.logprobs is not None and row.logprobs == plain.logprobs and len(row.logprobs) == 3
    assert all(len(e.top_ids) == 4 and e.token_id == 5 and e.rank > 1 for e in row.logprobs)


def test_prompt_logprobs_are_of_the_prompt_behind_its_first_token() -> None:
    prompt = list(range(10, 22))
    row = run(SamplingParams(max_tokens=8, prompt_logprobs=1), [], prompt)
    assert row.prompt_logprobs is not None and [e.token_id for e in row.prompt_logprobs] == prompt[1:]
    assert row.prompt_logprobs == judge(
        ToyModel(), prompt, SamplingParams(max_tokens=1, prompt_logprobs=1), dtype=torch.float32
    ).prompt_logprobs


def test_one_token_has_no_prompt_logprobs_and_silence_gives_none() -> None:
    assert run(SamplingParams(max_tokens=8, prompt_logprobs=1), [], [3]).prompt_logprobs is None
    row = run(SamplingParams(max_tokens=8), [], [3, 4])
    assert row.prompt_logprobs is None and row.logprobs is None


def test_the_whole_vocabulary() -> None:
    row = run(SamplingParams(max_tokens=1, logprobs=-1), [], [3, 4])
    assert row.logprobs is not None and sorted(row.logprobs[0].top_ids) == list(range(97))
    assert sum(torch.tensor(row.logprobs[0].top_logprobs).exp()) == pytest.approx(1.0, abs=1e-5)
