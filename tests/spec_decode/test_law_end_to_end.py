"""Token and block keep the model's law through scheduler and runner: many runs of a tiny transformer, counted.

V = 64. A drafter with a law of its own sends chains that it drew, and does what the rules must survive: late, stale,
doubled, foreign and impossible drafts, and silence. Requests are batched and preempted. What it may not do is to tell
another law than it drew from; that this would be seen is shown as well. The exact law comes from the model by
enumeration; top-k narrows each step to a few ids, because a bias spreads thin over a wide table.
"""

import functools
import random
from collections.abc import Iterator
from typing import Any

import pytest
import torch
from fake_actors import LOCATED
from spec_windows import drawn, p_value

from paceline.engine.core.limits import CoreConfig
from paceline.engine.core.plan import Drafts, NewRequest, Row, StepPlan, StepResult
from paceline.engine.core.scheduler import Scheduler
from paceline.engine.execution.kv_pool import allocate
from paceline.engine.execution.runner import Runner
from paceline.engine.nn.load import load_model
from paceline.engine.types import ModelConfig, SamplingParams
from paceline.kernels import noise
from paceline.spec_decode.rules import block, token

VOCAB, TOP_K, LENGTH, BLOCK = 64, 4, 4, 4
PROMPT = [5, 17, 40]
NUM_RUNS = 2_500
ALPHA = 1e-6
MODEL = load_model(
    ModelConfig(
        architecture="TinyForTesting", vocab_size=VOCAB, hidden_size=16, num_layers=1, num_heads=2, num_kv_heads=1,
        head_dim=8, intermediate_size=32, max_position=64, tie_embeddings=True,
    ),
    LOCATED,
    dtype="float32",
)  # fmt: skip


@functools.cache
def law_behind(*text: int) -> torch.Tensor:
    """The law fp64 [VOCAB] of the token behind the prompt and ``text``, after top-k."""
    runner = Runner(MODEL, allocate(MODEL.config, 4, BLOCK, torch.float32), token.build())
    params = SamplingParams(max_tokens=1, temperature=0.0, logprobs=TOP_K)
    ids = [*PROMPT, *text]
    new = NewRequest("law", 0, ids, len(PROMPT), [0, 1], params)
    (row,) = runner.run(StepPlan(0, [], [new], [Row("law", 0, 0, len(ids), 2, [], True)])).rows
    assert row.logprobs is not None
    law = torch.zeros(VOCAB, dtype=torch.float64)
    law[row.logprobs[0].top_ids[:TOP_K]] = torch.tensor(row.logprobs[0].top_logprobs[:TOP_K], dtype=torch.float64).exp()
    return law / law.sum()


def exact(length: int) -> dict[tuple[int, ...], float]:
    """The chance of every text of ``length`` tokens that has one."""
    chances: dict[tuple[int, ...], float] = {(): 1.0}
    for _ in range(length):
        longer: dict[tuple[int, ...], float] = {}
        for text, chance in chances.items():
            law = law_behind(*text)
            for x in law.nonzero().flatten().tolist():
                longer[(*text, x)] = chance * float(law[x])
        chances = longer
    return chances


class Drafter:
    """Draws chains of two from laws of its own over a few ids behind each token; misbehaves, as ``mischief`` draws."""

    def __init__(self, mischief: random.Random, is_truthful: bool) -> None:
        self._random = mischief
        self._is_truthful = is_truthful
        self._late: list[Drafts] = []
        rng = torch.Generator().manual_seed(3)
        likely = torch.stack([law_behind(x) for x in range(VOCAB)])
        self._weights = (likely + 0.3 * torch.rand(VOCAB, VOCAB, generator=rng) * (likely > 0)).float()
        self._weights[:, 7] = 0.05  # an id that the target may find impossible

    def propose(self, texts: dict[str, list[int]], epochs: dict[str, int]) -> Iterator[Drafts]:
        """For each request behind what is committed; some now, some in a later step."""
        names = list(texts)
        seeds = torch.tensor([int(name) for name in names])
        base = torch.tensor([len(texts[name]) for name in names])
        last = torch.tensor([texts[name][-1] for name in names])
        ids, laws = [], []
        for i in range(2):
            weights = self._weights[last]
            last = drawn(weights, seeds, base + i, noise.DRAFT, base)
            ids.append(last.tolist())
            told = weights if self._is_truthful else torch.where(weights > 0, 1 / weights, 0.0)
            laws.append([(w.nonzero().flatten().tolist(), w[w > 0].tolist()) for w in told])
        late, self._late = self._late, []
        yield from late
        for row, name in enumerate(names):
            chain = [ids[0][row], ids[1][row]]
            stamp = name, epochs[name], int(base[row])
            drafts = Drafts(*stamp, chain, source="test", draft_q=[laws[0][row], laws[1][row]])
            yield from self._spoil(drafts)

    def _spoil(self, drafts: Drafts) -> list[Drafts]:
        draw = self._random.random()
        name, epoch, base, ids = drafts.request_id, drafts.epoch, drafts.base_len, drafts.token_ids
        if draw < 0.1:
            self._late.append(drafts)
            return []
        if draw < 0.2:
            return []
        if draw < 0.25:
            return [drafts, drafts]
        if draw < 0.3:
            return [Drafts(name, epoch + 1, base, ids, draft_q=drafts.draft_q), Drafts("none", 0, base, ids), drafts]
        if draw < 0.31:
            return [Drafts(name, epoch, base, [VOCAB, -1], source="garbage"), drafts]
        return [drafts]


def runs(rule: Any, num: int, *, is_truthful: bool = True) -> tuple[list[list[int]], dict[str, int]]:
    """The outputs of requests with seeds 0 .. num - 1, and what happened on the way."""
    sizes = CoreConfig(
        num_blocks=64, block_size=BLOCK, max_num_seqs=48, max_num_batched_tokens=192, max_in_flight=1,
        max_model_len=16, vocab_size=VOCAB, draft_trees=False, enable_prefix_caching=False, max_queued_requests=num,
        max_queued_tokens=1 << 30,
    )  # fmt: skip
    core = Scheduler(sizes)
    runner = Runner(MODEL, allocate(MODEL.config, sizes.num_blocks, BLOCK, torch.float32), rule.build())
    drafter = Drafter(random.Random(1), is_truthful)
    outputs: dict[str, list[int]] = {str(seed): [] for seed in range(num)}
    for name in outputs:
        params = SamplingParams(max_tokens=LENGTH + 2, top_k=TOP_K, seed=int(name))
        core.add(name, PROMPT, params, now=0.0)
    now, live, epochs = 0.0, dict[str, list[int]](), dict[str, int]()
    while core.stats().num_running or core.stats().num_waiting:
        if live and not 2.0 < now % 5 < 2.2:  # now and then the drafter is away
            for drafts in drafter.propose(live, epochs):
                core.offer(drafts)
        now += 0.01
        plan = core.schedule(now, 2)
        assert plan is not None
        epochs |= {row.request_id: row.epoch for row in plan.rows}
        result: StepResult = runner.run(plan)
        for output in core.apply(plan, result):
            assert output.error is None, output.error
            outputs[output.request_id] += output.token_ids
            live[output.request_id] = PROMPT + outputs[output.request_id]
            if output.finish_reason is not None:
                del live[output.request_id]
    stats = core.stats()
    counts = {"preemptions": stats.num_preemptions, "drafts": stats.num_draft_tokens}
    counts |= {"accepted": stats.num_accepted_tokens, **stats.num_stale_drafts}
    return list(outputs.values()), counts


def surprise(texts: list[list[int]], start: int) -> float:
    """The p-value of the table of the three tokens from ``start`` on, given the exact law of all before and in it."""
    cells: dict[tuple[int, ...], float] = {}
    for text, chance in exact(start + 3).items():
        cells[text[start:]] = cells.get(text[start:], 0.0) + chance
    place = {text: i for i, text in enumerate(cells)}
    counts = torch.zeros(len(cells) + 1, dtype=torch.int64)
    for text in texts:
        counts[place.get(tuple(text[start : start + 3]), -1)] += 1
    return p_value(counts, torch.tensor([*cells.values(), 0.0], dtype=torch.float64))


@pytest.mark.parametrize("rule", [token, block])
def test_the_law_of_three_tokens(rule: Any) -> None:
    texts, counts = runs(rule, NUM_RUNS)
    assert surprise(texts, 0) > ALPHA
    assert surprise(texts, 1) > ALPHA
    assert counts["preemptions"] > 5 and counts["epoch"] > 50 and counts["fault"] > 10, counts
    assert 0.15 * counts["drafts"] < counts["accepted"] < 0.85 * counts["drafts"], counts


@pytest.mark.parametrize("rule", [token, block])
def test_another_law_than_was_drawn_from_is_seen(rule: Any) -> None:
    texts, _ = runs(rule, NUM_RUNS, is_truthful=False)
    assert min(surprise(texts, 0), surprise(texts, 1)) < ALPHA
