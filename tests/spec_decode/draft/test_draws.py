"""q = sparse: a draft is drawn from exactly the numbers that are sent with it, and from no other request's noise."""

import math
import random
from collections import Counter
from typing import Any

import pytest
import torch
from drafting import GREEDY, ask, load, make, some_text
from msgspec.structs import replace

from paceline.engine.config import Config, Speculation
from paceline.engine.core.plan import Drafts
from paceline.engine.errors import ConfigError
from paceline.engine.execution.acceptance import VerifyBatch
from paceline.engine.nn.model import Model
from paceline.engine.types import SamplingParams
from paceline.spec_decode import draws
from paceline.spec_decode.base import ProposeReq, StepBudget
from paceline.spec_decode.drafter import Drafter
from paceline.spec_decode.speculators import draft_model

NUM = 40_000


@pytest.fixture(scope="module")
def small(tmp_path_factory: pytest.TempPathFactory) -> Model:
    return load(tmp_path_factory.mktemp("small"), seed=2, hidden_size=32, num_hidden_layers=1)


def batch(logits: torch.Tensor, seeds: torch.Tensor, temperature: float = 1.0, position: int = 9) -> VerifyBatch:
    num = len(seeds)
    return VerifyBatch(
        logits=logits.expand(num, -1).clone(),
        temperatures=torch.full((num,), temperature),
        seeds=seeds,
        positions=torch.full((num,), position),
        starts=list(range(num + 1)),
        draft_ids=[[] for _ in range(num)],
    )


def chi_square(counts: Counter[int], law: dict[int, float], num: int) -> tuple[float, int]:
    """Statistic and degrees of freedom; all draws must lie inside the law."""
    assert set(counts) <= set(law)
    total = sum(law.values())
    bins = [(counts[i], num * w / total) for i, w in law.items() if num * w / total >= 5]
    rest = (num - sum(seen for seen, _ in bins), num - sum(mean for _, mean in bins))
    bins += [rest] if rest[1] >= 5 else []
    return sum((seen - mean) ** 2 / mean for seen, mean in bins), len(bins) - 1


@pytest.mark.parametrize("vocab_size", [16, 100])
def test_drafts_follow_the_law_that_is_sent(vocab_size: int) -> None:
    """Consecutive seeds; with more ids than a law may name, the likeliest 64 are drawn from."""
    logits = torch.randn(vocab_size, generator=torch.Generator().manual_seed(1)) * 2
    found = draws.draw(batch(logits, torch.arange(NUM)), "sparse", [4] * NUM)
    law = found[0].law
    assert law is not None and all(one.law == law for one in found)
    names, weights = law
    assert len(names) == min(64, vocab_size) == len(set(names)) and math.isclose(sum(weights), 1.0, abs_tol=1e-5)
    assert set(names) == set(logits.topk(len(names)).indices.tolist())
    statistic, freedom = chi_square(
        Counter(one.token_id for one in found), dict(zip(names, weights, strict=True)), NUM
    )
    assert statistic < freedom + 5.5 * math.sqrt(2 * freedom) + 15  # beyond the 1e-6 quantile


def test_each_window_and_stream_has_noise_of_its_own() -> None:
    logits = torch.zeros(16)
    seeds = torch.arange(2000)

    def ids(how: draws.How, window: int) -> list[int]:
        return [one.token_id for one in draws.draw(batch(logits, seeds), how, [window] * 2000)]

    first = ids("sparse", 4)
    assert ids("sparse", 4) == first
    for other in (ids("sparse", 5), ids("shared", 4)):
        assert 60 < sum(a == b for a, b in zip(first, other, strict=True)) < 200, "about one in 16 agree by chance"


def test_ids_without_a_chance_are_not_named_and_temperature_0_is_sure() -> None:
    logits = torch.full((100,), -torch.inf)
    logits[[7, 40, 90]] = torch.tensor([0.0, 1.0, -1.0])
    hot = draws.draw(batch(logits, torch.arange(5)), "sparse", [1] * 5)
    assert all(one.law is not None and set(one.law[0]) == {7, 40, 90} for one in hot)
    cold = draws.draw(batch(logits, torch.arange(5), temperature=0.0), "sparse", [1] * 5)
    assert all((one.token_id, one.law) == (40, None) for one in cold)


@pytest.mark.parametrize("how", ["shared", "likeliest", "sparse"])
def test_rivals_are_what_would_come_next(how: draws.How) -> None:
    logits = torch.tensor([0.0, 3.0, 2.0, 1.0, -torch.inf])
    found = draws.draw(batch(logits, torch.arange(1), temperature=0.0), how, [1], 3)
    assert (found[0].token_id, found[0].rivals) == (1, [2, 3, 0])


def propose(drafter: Drafter, params: SamplingParams, text: list[int]) -> Drafts:
    drafter.open("r", text, params, 0)
    return drafter.propose([ProposeReq("r", 0, len(text), [], 4)], StepBudget(64, 8))[0]


@pytest.mark.parametrize("rule", ["token", "block"])
def test_drafts_bring_their_laws_and_no_confidence(small: Model, rule: str) -> None:
    text = some_text(random.Random(1), 9)
    drafter = make(small, rule=rule, q="sparse")
    assert (drafter.caps.q, drafter.caps.seeded) == ("sparse", False)
    drafts = propose(drafter, replace(GREEDY, temperature=1.0, top_k=5, seed=3), text)
    assert drafts.draft_q is not None and drafts.confidence is None
    for token, (names, weights) in zip(drafts.token_ids, drafts.draft_q, strict=True):
        assert len(names) == len(weights) == 5 and token in names
    cold = propose(drafter, GREEDY, text)
    assert cold.draft_q is None and cold.confidence is not None


def test_a_table_of_outcomes_brings_laws_for_all_its_nodes(small: Model) -> None:
    drafter = make(small, num_blocks=200, rule="token", q="sparse", mode="enumerate")
    text = some_text(random.Random(2), 9)
    propose(drafter, replace(GREEDY, temperature=1.0, seed=3), text)
    sent: list[Drafts] = []
    while drafter.has_work:
        sent += drafter.work()
    tree = sent[-1]
    assert tree.parents is not None and tree.draft_q is not None and len(tree.draft_q) == len(tree.token_ids)
    assert all(token in names for token, (names, _) in zip(tree.token_ids, tree.draft_q, strict=True))


def test_other_rules_get_the_likeliest_tokens(small: Model) -> None:
    drafter = make(small, rule="token")
    drafts = propose(drafter, replace(GREEDY, temperature=1.5, seed=3), [5, 6, 7])
    assert drafts.draft_q is None
    drafter.close("r")
    drafter.open("r", [5, 6, 7], GREEDY, 0)
    assert drafts.token_ids == ask(drafter, "r", 3, [])


@pytest.mark.parametrize("rule", ["coupled", "lossy_typical"])
def test_laws_that_the_rule_has_no_use_for_are_refused_at_start(rule: str) -> None:
    from paceline.actors import draft_files

    table: dict[str, Any] = {"model": "nowhere", "q": "sparse"}
    section = Speculation(methods=["draft_model"], rule=rule, settings={"draft_model": table})
    with pytest.raises(ConfigError, match=r"draft_model\.q = sparse") as caught:
        draft_files.find_drafter(Config(speculation=section))
    assert "\n" not in str(caught.value)
    draft_model.check_rule(draft_model.Config(model="m", q="sparse"), "block")
