"""Rules inside the real runner: each draft meets the law that its row brought for it."""

import math
from collections.abc import Sequence

import pytest
import torch
from naive import generate
from spec_windows import drawn, p_value
from toy_model import ToyModel

from paceline.engine.core.plan import DraftLaw, NewRequest, Row, RowResult, StepPlan
from paceline.engine.execution.kv_pool import allocate
from paceline.engine.execution.runner import Runner
from paceline.engine.types import SamplingParams
from paceline.kernels import noise, ops
from paceline.spec_decode.rules import block, token

PROMPT = [1, 2, 3]
VOCAB = 12
LAWS: list[DraftLaw] = [([7, 0, 4, 9, 11], [0.1, 0.3, 0.2, 0.3, 0.1]), ([2, 5, 6], [0.6, 0.3, 0.1])]


def run(rule, requests: Sequence[tuple[SamplingParams, list[int], list[DraftLaw] | None]]) -> list[RowResult]:
    """Each request's prompt and drafts in one plan."""
    model = ToyModel(VOCAB)
    runner = Runner(model, allocate(model.config, 2 * len(requests), 4, torch.float32), rule.build())
    new, rows = [], []
    for i, (params, drafts, laws) in enumerate(requests):
        new.append(NewRequest(str(i), 0, PROMPT, 3, [2 * i, 2 * i + 1], params))
        rows.append(Row(str(i), 0, 0, 3, 2, [], True, draft_ids=drafts, draft_q=laws))
    return runner.run(StepPlan(0, [], new, rows)).rows


def law_behind(drafts: list[int]) -> torch.Tensor:
    """The model's own law behind the prompt and drafts, from the logprobs of a greedy run."""
    model = ToyModel(VOCAB)
    runner = Runner(model, allocate(model.config, 4, 4, torch.float32), token.build())
    params = SamplingParams(max_tokens=1, temperature=0.0, logprobs=VOCAB)
    new = NewRequest("a", 0, PROMPT + drafts, 3, [0, 1], params)
    (row,) = runner.run(StepPlan(0, [], [new], [Row("a", 0, 0, 3 + len(drafts), 2, [], True)])).rows
    assert row.logprobs is not None
    law = torch.zeros(VOCAB, dtype=torch.float64)
    law[row.logprobs[0].top_ids] = torch.tensor(row.logprobs[0].top_logprobs, dtype=torch.float64).exp()
    return law


@pytest.mark.parametrize("rule", [token, block])
@pytest.mark.parametrize("swapped", [False, True])
def test_text_follows_the_model(rule, swapped: bool) -> None:
    """Pairs of tokens of 4 000 seeds; that laws were given to the wrong drafts must show."""
    n = 4_000
    seeds, base = torch.arange(n), torch.full((n,), 3)
    chains = []
    for i, (ids, weights) in enumerate(LAWS):
        w = torch.zeros(n, VOCAB)
        w[:, ids] = torch.tensor(weights)
        chains.append(drawn(w, seeds, base + i, noise.DRAFT, base).tolist())
    given = [LAWS[1], LAWS[0]] if swapped else LAWS
    asked = [(SamplingParams(max_tokens=9, seed=s), [a, b], given) for s, a, b in zip(range(n), *chains, strict=True)]
    texts = [result.token_ids for result in run(rule, asked)]
    behind = torch.stack([law_behind([a]) for a in range(VOCAB)])
    first = torch.tensor([text[0] for text in texts])
    plain = ops.sample(behind[first].log().float(), torch.ones(n), seeds, base + 1).tolist()  # where one token came
    second = torch.tensor([text[1] if len(text) > 1 else after for text, after in zip(texts, plain, strict=True)])
    assert sum(len(text) > 1 for text in texts) > n / 10 or swapped
    table = torch.bincount(first * VOCAB + second, minlength=VOCAB * VOCAB)
    law = (law_behind([]).unsqueeze(1) * behind).flatten()
    assert (p_value(table, law) > 1e-6) is not swapped


@pytest.mark.parametrize("rule", [token, block])
def test_greedy_text_is_the_naive_loops(rule) -> None:
    greedy = SamplingParams(max_tokens=9, temperature=0.0)
    own = generate(ToyModel(VOCAB), PROMPT, greedy, dtype=torch.float32)
    for right in range(3):
        chain = [*own[:right], (own[right] + 1) % VOCAB]
        for laws in (None, [([x, (x + 1) % VOCAB], [0.4, 0.6]) for x in chain]):
            (row,) = run(rule, [(greedy, chain, laws)])
            assert (row.token_ids, row.num_accepted) == (own[: right + 1], right)


@pytest.mark.parametrize(
    ("laws", "words"),
    [
        ([([1], [1.0])], "2 drafts but the laws of 1"),
        ([([1], [1.0]), ([VOCAB], [1.0])], f"token id {VOCAB}"),
        ([([1], [1.0]), ([-1], [1.0])], "token id -1"),
        ([([1], [1.0]), ([], [])], "0 distinct ids"),
        ([([1], [1.0]), ([1, 2], [1.0])], "1 weights"),
        ([([1], [1.0]), ([2, 2], [0.5, 0.5])], "1 distinct ids of 2"),
        ([([1], [0.0]), ([1], [1.0])], "positive"),
        ([([1], [-1.0]), ([1], [1.0])], "positive"),
        ([([1], [math.nan]), ([1], [1.0])], "positive"),
        ([([1], [math.inf]), ([1], [1.0])], "positive"),
    ],
)
def test_a_bad_law_ends_its_request_alone(laws: list[DraftLaw], words: str) -> None:
    params = SamplingParams(max_tokens=9, seed=1)
    bad, good = run(token, [(params, [1, 1], laws), (params, [1, 1], None)])
    assert bad.error is not None and words in bad.error.message and bad.error.kind == "internal"
    assert good.error is None and good.token_ids
