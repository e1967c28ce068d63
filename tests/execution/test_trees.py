"""Trees on real kernels: every small shape commits the bytes of its chains, and leaves KV behind that says so."""

import itertools
from pathlib import Path

import pytest
import torch
from model_runs import load
from naive import judge
from tiny_models import make_llama

from paceline.engine.core.plan import NewRequest, Row, RowResult, StepPlan, path_to
from paceline.engine.execution.kv_pool import allocate
from paceline.engine.execution.runner import Runner
from paceline.engine.nn.model import Model
from paceline.engine.types import SamplingParams
from paceline.spec_decode.rules import coupled

PROMPT = [5, 6, 7, 8, 9, 11, 5]
GREEDY = SamplingParams(max_tokens=9, temperature=0.0, logprobs=2)
EVERYTHING = SamplingParams(
    max_tokens=9, temperature=0.8, seed=11, top_k=30, logprobs=2, repetition_penalty=1.3, frequency_penalty=0.4,
    bad_words=[[9, 12]], min_tokens=4, end_ids=[3],
)  # fmt: skip


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Model:
    return load(make_llama(Path(tmp_path_factory.mktemp("model"))), dtype="int8")  # fp32 products depend on the batch


def fill(parents: list[int], right: list[int], truth: int) -> list[int]:
    """Tokens for a tree in which the path to node ``truth`` is right and nothing else is."""
    path = path_to(truth, parents)
    wrong = itertools.cycle(t for t in range(20, 30) if t not in right)
    return [right[path.index(node)] if node in path else next(wrong) for node in range(len(parents))]


def steps(model: Model, params: SamplingParams, rows: list[tuple[list[int], list[int] | None]]) -> list[RowResult]:
    """One request, its prompt first, then rows of drafts; blocks of three slots in no order."""
    blocks = [7, 2, 9, 0, 5, 3, 8, 1]
    runner = Runner(model, allocate(model.config, 10, 3, torch.bfloat16), coupled.build())
    new = NewRequest("a", 0, PROMPT, len(PROMPT), blocks, params)
    results = runner.run(StepPlan(0, [], [new], [Row("a", 0, 0, len(PROMPT), 8, [], True)])).rows
    for step, (ids, parents) in enumerate(rows, 1):
        known = len(PROMPT) + sum(len(r.token_ids) for r in results)
        row = Row("a", 0, known - 1, 1, 8, [], True, draft_ids=ids, draft_parents=parents)
        results += runner.run(StepPlan(step, [], [], [row])).rows
    return results


@pytest.mark.parametrize("params", [GREEDY, EVERYTHING], ids=["greedy", "everything"])
@pytest.mark.parametrize("num", [2, 3])
def test_every_small_tree_is_its_chains(model: Model, params: SamplingParams, num: int) -> None:
    expected = judge(model, PROMPT, params)
    own = expected.token_ids
    assert expected.logprobs is not None and len(own) == 9
    moved = 0
    for parents in map(list, itertools.product(*(range(-1, n) for n in range(num)))):
        for truth in range(num):
            ids = fill(parents, own[1:], truth)
            path = path_to(truth, parents)
            first, tree, after = steps(model, params, [(ids, parents), ([], None)])
            assert tree.error is None and tree.path == path and tree.num_accepted == len(path)
            assert first.token_ids + tree.token_ids + after.token_ids == own[: len(path) + 3], (parents, truth)
            logprobs = [e for r in (first, tree, after) for e in r.logprobs or []]
            assert logprobs == expected.logprobs[: len(path) + 3]  # the bits of ``after`` show what was moved where
            moved += path != list(range(len(path)))
    assert moved > 0


def test_tree_behind_tree(model: Model) -> None:
    expected = judge(model, PROMPT, EVERYTHING)
    own = expected.token_ids
    tree = [-1, -1, 1, 1, 3]  # the path 1, 3, 4 is right
    results = steps(model, EVERYTHING, [(fill(tree, own[1:], 4), tree), (fill(tree, own[5:], 4), tree)])
    assert [t for r in results for t in r.token_ids] == own[:9]
    assert [r.path for r in results[1:]] == [[1, 3, 4], [1, 3, 4]]
    assert [e for r in results for e in r.logprobs or []] == expected.logprobs


def test_a_move_to_the_wrong_slot_is_seen(model: Model, monkeypatch: pytest.MonkeyPatch) -> None:
    expected = judge(model, PROMPT, GREEDY)
    own = expected.token_ids
    monkeypatch.setattr("paceline.kernels.ops.move_kv", lambda *_: None)
    rows = [(fill([-1, -1, 1], own[1:], 2), [-1, -1, 1]), ([], None)]
    logprobs = [e for r in steps(model, GREEDY, rows) for e in r.logprobs or []]
    assert expected.logprobs is not None and logprobs != expected.logprobs[: len(logprobs)]
