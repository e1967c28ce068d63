"""mode = enumerate: what is drafted for an outcome is what would be drafted behind it once it has come."""

import random
from typing import Any

import pytest
import torch
from drafting import BLOCK, GREEDY, ask, likely, load, make, some_text
from msgspec.structs import replace
from naive import judge

from paceline.engine.core.plan import Drafts
from paceline.engine.nn.model import Model
from paceline.engine.types import SamplingParams
from paceline.spec_decode import landing, outcomes
from paceline.spec_decode.base import Outcome, ProposeReq, StepBudget
from paceline.spec_decode.drafter import Drafter


@pytest.fixture(scope="module")
def small(tmp_path_factory: pytest.TempPathFactory) -> Model:
    return load(tmp_path_factory.mktemp("small"), seed=2, hidden_size=32, num_hidden_layers=1)


def work(drafter: Drafter) -> list[Drafts]:
    """All that is made ahead until nothing is left to do."""
    sent: list[Drafts] = []
    for _ in range(200):
        if not drafter.has_work:
            return sent
        sent += drafter.work()
        drafter.check()
    raise AssertionError("there is always more work")


@pytest.mark.parametrize(("fanout", "depth"), [(1, 1), (1, 4), (3, 4), (3, 8), (16, 2), (2, 0)])
def test_guesses_fall_with_the_place_and_the_last_gets_more(fanout: int, depth: int) -> None:
    guesses = outcomes.fan_out(fanout, depth)
    assert len(guesses) == depth + 1 and sum(guesses) == fanout * (depth + 1)
    assert guesses[:-1] == sorted(guesses[:-1], reverse=True) and guesses[-1] == max(guesses)


@pytest.mark.parametrize("length", [6, 7, 8, 9])  # around the end of a block
def test_each_outcome_has_the_chain_that_the_model_would_write_behind_it(small: Model, length: int) -> None:
    text = some_text(random.Random(length), length)
    drafter = make(small, num_blocks=200, mode="enumerate", fanout=2)
    drafter.open("r", text, GREEDY, 0)
    chain = ask(drafter, "r", length, [], 3)
    assert chain == likely(small, text, 3)
    tree = work(drafter)[-1]
    assert tree.parents is not None and landing.is_whole(tree)
    fed, drafted = drafter.stats()["tokens_fed"], drafter.stats()["drafted"]
    outcomes_seen = set()
    for node, (token, parent) in enumerate(zip(tree.token_ids, tree.parents, strict=True)):
        if parent < 3 and node >= 7:  # behind the chain of 3 in flight, the next token, 3 more
            path, at = [token], parent
            while at >= 0:
                path.insert(0, tree.token_ids[at])
                at = tree.parents[at]
            below = landing.behind(tree, path)
            assert below is not None and below.token_ids == likely(small, text + path, 3)
            outcomes_seen.add((len(path) - 1, token))
    assert {accepted for accepted, _ in outcomes_seen} == {0, 1, 2, 3} and len(outcomes_seen) == 8
    assert (drafter.stats()["tokens_fed"], drafter.stats()["drafted"]) == (fed, drafted)


@pytest.mark.parametrize("temperature", [0.0, 1.0])
@pytest.mark.parametrize("wishes", [{}, {"repetition_penalty": 1.3, "presence_penalty": 0.5}])
def test_a_likely_outcome_is_adopted_and_costs_nothing(
    small: Model, temperature: float, wishes: dict[str, Any]
) -> None:
    rng = random.Random(3)
    params = SamplingParams(max_tokens=64, temperature=temperature, seed=5, ignore_eos=True, **wishes)
    text = some_text(rng, 10)
    drafter = make(small, num_blocks=200, mode="enumerate", fanout=3)
    drafter.open("r", text, params, 0)
    delta: list[int] = []
    hits = 0
    for turn in range(12):
        chain = ask(drafter, "r", len(text), delta, 3)
        # A reopened request counts its output as prompt, so penalties on output are compared with one opened here.
        fresh = make(small, num_blocks=200)
        fresh.open("r", text[:10], params, 0)
        fresh.observe([Outcome("r", 0, 10, 0, text[10:])])
        assert chain == ask(fresh, "r", len(text), [], 3)
        tree = work(drafter)[-1]
        forks = [(p, t) for p, t in zip(tree.parents or [], tree.token_ids, strict=True)]
        accepted = turn % 4
        rivals = [t for node, (p, t) in enumerate(forks) if p == accepted - 1 and node != accepted]
        assert chain is not None and (rivals or accepted == 3)
        delta = [*chain[:accepted], rng.choice(rivals or [tree.token_ids[3]])]
        expected = landing.behind(tree, delta)
        text += delta
        before = drafter.stats()["drafted"]
        found = drafter.propose([ProposeReq("r", 0, len(text), delta, 3)], StepBudget(64, 8))[0]
        drafter.check()
        assert expected is not None and found.token_ids == expected.token_ids[:3]
        hits += drafter.stats()["drafted"] == before
        delta = []
    assert hits == 12


def test_an_outcome_that_was_not_drafted_for_starts_anew_and_frees_the_forks(small: Model) -> None:
    text = some_text(random.Random(4), 9)
    drafter = make(small, num_blocks=200, mode="enumerate")
    drafter.open("r", text, GREEDY, 0)
    chain = ask(drafter, "r", 9, [], 3) or []
    tree = work(drafter)[-1]
    token = next(t for t in range(3, 512) if t not in tree.token_ids)
    delta = [chain[0], token]
    assert ask(drafter, "r", 11, delta, 3) == likely(small, text + delta, 3)
    drafter.close("r")
    drafter.check()
    assert drafter.stats()["num_requests"] == 0


def test_little_memory_means_fewer_forks_and_evicted_requests_lose_theirs(small: Model) -> None:
    rng = random.Random(5)
    texts = {name: some_text(rng, 10) for name in "ab"}
    drafter = make(small, num_blocks=14, mode="enumerate", fanout=4)
    for name, text in texts.items():
        drafter.open(name, text, GREEDY, 0)
    for turn in range(6):
        for name, text in texts.items():
            chain = ask(drafter, name, len(text), [], 3)
            assert chain is not None and chain == likely(small, text, 3)
            tree = work(drafter)
            forked = [t for d in tree for t, p in zip(d.token_ids[7:], (d.parents or [])[7:], strict=True) if p < 3]
            delta = [*chain[: turn % 3], (forked or [5])[-1]]
            text += delta
            drafter.observe([Outcome(name, 0, len(text) - len(delta), 0, delta)])
            drafter.check()
    assert drafter.stats()["evictions"] > 0


def test_drafts_in_the_shared_noise_are_what_the_target_would_draw(small: Model) -> None:
    """With the target as its own drafter every next token is among the guesses: the chain itself."""
    prompt = some_text(random.Random(6), 8)
    params = replace(GREEDY, temperature=1.0, seed=7)
    answer = judge(small, prompt, replace(params, max_tokens=20), dtype=torch.float32).token_ids
    drafter = make(small, num_blocks=200, mode="enumerate")
    drafter.open("r", prompt, params, 0)
    assert ask(drafter, "r", 8, [], 4) == answer[:4]
    tree = work(drafter)[-1]
    assert tree.token_ids[:9] == answer[:9]
    assert BLOCK == 4
