"""The draft model as a speculator: what it drafts is what its model says, whatever was evicted, refused or missed."""

import random
from collections.abc import Callable
from typing import Any

import pytest
import torch
from drafting import GREEDY, ask, likely, load, make, some_text
from naive import judge

from paceline.engine.nn.model import Model
from paceline.engine.types import SamplingParams
from paceline.spec_decode.base import Outcome, ProposeReq, StepBudget
from paceline.spec_decode.drafter import Drafter
from paceline.spec_decode.speculators import draft_model


@pytest.fixture(scope="module")
def target(tmp_path_factory: pytest.TempPathFactory) -> Model:
    return load(tmp_path_factory.mktemp("target"), seed=1)


@pytest.fixture(scope="module")
def small(tmp_path_factory: pytest.TempPathFactory) -> Model:
    return load(tmp_path_factory.mktemp("small"), seed=2, hidden_size=32, num_hidden_layers=1)


def accepted_run(drafter: Drafter, answer: list[int], prompt: list[int], depth: int) -> tuple[int, int]:
    """Serve ``answer`` with drafts, as a target that writes exactly this would; (drafted, accepted)."""
    text, end, delta = list(prompt), len(prompt) + len(answer), []
    whole = prompt + answer
    drafted = taken = 0
    while len(text) < end - 1:
        drafts = ask(drafter, "r", len(text), delta, min(depth, end - len(text) - 1)) or []
        num = 0
        while num < len(drafts) and drafts[num] == whole[len(text) + num]:
            num += 1
        drafted, taken = drafted + len(drafts), taken + num
        delta = whole[len(text) : len(text) + num + 1]
        text += delta
    return drafted, taken


def test_drafts_are_what_the_model_would_write(small: Model) -> None:
    text = some_text(random.Random(1), 9)
    drafter = make(small)
    drafter.open("r", text, GREEDY, 0)
    assert ask(drafter, "r", len(text), [], 6) == likely(small, text, 6)


@pytest.mark.parametrize("depth", [1, 3, 8])
def test_the_target_as_its_own_draft_is_always_right(target: Model, depth: int) -> None:
    prompt = some_text(random.Random(2), 11)
    answer = likely(target, prompt, 40)
    drafter = make(target)
    drafter.open("r", prompt, GREEDY, 0)
    drafted, taken = accepted_run(drafter, answer, prompt, depth)
    assert drafted == taken > 0


@pytest.mark.parametrize(
    "wishes",
    [
        {},
        {"top_k": 20, "top_p": 0.9},
        {"min_p": 0.02, "repetition_penalty": 1.2},
        {"presence_penalty": 0.7, "frequency_penalty": 0.4, "logit_bias": {7: 4.0}, "bad_words": [[9], [11, 12]]},
    ],
)
def test_shared_noise_and_processing_make_equal_models_agree(target: Model, wishes: dict[str, Any]) -> None:
    prompt = some_text(random.Random(3), 8)
    params = SamplingParams(max_tokens=40, temperature=1.0, seed=77, ignore_eos=True, **wishes)
    answer = judge(target, prompt, params, dtype=torch.float32).token_ids
    drafter = make(target)
    drafter.open("r", prompt, params, 0)
    drafted, taken = accepted_run(drafter, answer, prompt, 4)
    assert drafted == taken > 0


def test_other_rules_than_coupled_get_no_shared_noise(target: Model) -> None:
    prompt = some_text(random.Random(4), 8)
    drafter = make(target, rule="token")
    assert not drafter.caps.seeded
    drafter.open("r", prompt, SamplingParams(max_tokens=40, temperature=1.5, seed=3), 0)
    assert ask(drafter, "r", 8, []) == likely(target, prompt, 4)


def test_many_requests_at_once_get_what_each_would_get_alone(small: Model) -> None:
    rng = random.Random(5)
    texts = {f"r{i}": some_text(rng, rng.randint(1, 30)) for i in range(4)}
    drafter = make(small)
    for name, text in texts.items():
        drafter.open(name, text, GREEDY, 0)
    while drafter.has_work:
        drafter.work()
    asks = [ProposeReq(name, 0, len(text), [], 1 + i) for i, (name, text) in enumerate(texts.items())]
    found = {d.request_id: d.token_ids for d in drafter.propose(asks, StepBudget(64, 8))}
    assert found == {name: likely(small, text, 1 + i) for i, (name, text) in enumerate(texts.items())}


def test_refused_drafts_are_overwritten_and_missed_tokens_caught_up(small: Model) -> None:
    rng = random.Random(6)
    text = some_text(rng, 6)
    drafter = make(small)
    drafter.open("r", text, GREEDY, 0)
    for turn in range(12):
        drafts = ask(drafter, "r", len(text), []) or []
        assert drafts == likely(small, text, 4)
        kept = drafts[: turn % 5]
        delta = [*kept, *some_text(rng, 1 + turn % 3)]
        drafter.observe([Outcome("r", 0, len(text), len(kept), delta)])
        text += delta
    fed = drafter.stats()["tokens_fed"]
    ask(drafter, "r", len(text), [])
    assert drafter.stats()["tokens_fed"] - fed <= 3 + 4, "the common prefix was computed again"


def test_prompts_are_fed_in_chunks_and_others_go_on(small: Model) -> None:
    rng = random.Random(7)
    long, short = some_text(rng, 100), some_text(rng, 5)
    drafter = make(small, chunk_tokens=32)
    drafter.open("long", long, GREEDY, 0)
    drafter.open("short", short, GREEDY, 0)
    asks = [ProposeReq("long", 0, 100, [], 3), ProposeReq("short", 0, 5, [], 3)]
    answers = [{d.request_id: d.token_ids for d in drafter.propose(asks, StepBudget(64, 8))} for _ in range(5)]
    assert [set(a) for a in answers[:3]] == [{"short"}] * 3
    assert answers[-1] == {"long": likely(small, long, 3), "short": likely(small, short, 3)}


def test_who_lacks_a_few_tokens_does_not_wait_for_a_prompt(small: Model) -> None:
    rng = random.Random(7)
    long, short = some_text(rng, 100), some_text(rng, 5)
    drafter = make(small)
    drafter.open("long", long, GREEDY, 0)
    drafter.open("short", short, GREEDY, 0)
    asks = [ProposeReq("long", 0, 100, [], 3), ProposeReq("short", 0, 5, [], 3)]
    found = drafter.propose(asks, StepBudget(64, 8))
    assert [d.request_id for d in found] == ["short"]
    assert drafter.stats()["tokens_fed"] == 32 + 5 + 2
    assert ask(drafter, "long", 100, [], 3) == likely(small, long, 3), "nobody else waits: all of it is read"


def test_idle_time_is_used_for_prompts(small: Model) -> None:
    text = some_text(random.Random(8), 90)
    drafter = make(small, chunk_tokens=32)
    drafter.open("r", text, GREEDY, 0)
    rounds = 0
    while drafter.has_work:
        assert drafter.work() == []
        rounds += 1
    assert rounds == 3
    fed = drafter.stats()["tokens_fed"]
    assert ask(drafter, "r", 90, []) == likely(small, text, 4)
    assert drafter.stats()["tokens_fed"] == fed + 4


def test_memory_for_one_serves_two_in_turn(small: Model) -> None:
    """KV is given up and computed again; drafts stay what they were."""
    rng = random.Random(9)
    texts = {name: some_text(rng, 20) for name in "ab"}
    drafter = make(small, num_blocks=7)
    for name, text in texts.items():
        drafter.open(name, text, GREEDY, 0)
    for _ in range(3):
        for name, text in texts.items():
            assert ask(drafter, name, len(text), []) == likely(small, text, 4)
            drafter.work()
    assert drafter.stats()["evictions"] >= 4
    asks = [ProposeReq(name, 0, 20, [], 8) for name in texts]
    assert len(drafter.propose(asks, StepBudget(64, 8))) == 1, "only one of them fits"
    drafter.check()


def test_a_text_longer_than_the_pool_is_left_alone(small: Model) -> None:
    drafter = make(small, num_blocks=4)
    text = some_text(random.Random(10), 13)
    drafter.open("r", text, GREEDY, 0)
    assert ask(drafter, "r", 13, [], 8) == likely(small, text, 2)
    assert ask(drafter, "r", 16, [1, 2, 3]) is None
    assert ask(drafter, "r", 40, some_text(random.Random(1), 24)) is None
    assert not drafter.has_work


STALE: dict[str, tuple[Callable[[Drafter], list[int] | None], str]] = {
    "unknown": (lambda d: ask(d, "nobody", 3, []), "stale"),
    "earlier epoch": (lambda d: ask(d, "r", 6, [], epoch=0), "stale"),
    "shorter than known": (lambda d: ask(d, "r", 5, [], epoch=1), "stale"),
    "gap": (lambda d: ask(d, "r", 9, [4], epoch=1), "behind"),
    "longer than told": (lambda d: ask(d, "r", 7, [], epoch=1), "behind"),
    "no token": (lambda d: ask(d, "r", 7, [512], epoch=1), "refused"),
    "below zero": (lambda d: ask(d, "r", 7, [-1], epoch=1), "refused"),
}


@pytest.mark.parametrize("case", STALE)
def test_messages_that_do_not_fit_are_counted_and_answered_with_nothing(small: Model, case: str) -> None:
    send, counter = STALE[case]
    drafter = make(small)
    drafter.open("r", [3, 4, 5, 6, 7, 8], GREEDY, 0)
    drafter.rollback("r", 6, 1)
    assert send(drafter) is None
    assert drafter.stats()[counter] == 1
    drafter.check()


def test_ids_beyond_the_tokenizer_are_not_drafted(small: Model) -> None:
    drafter = make(small, num_ids=5)
    drafter.open("r", [3, 4], GREEDY, 0)
    assert max(ask(drafter, "r", 2, [], 8) or [99]) < 5


def test_a_request_with_ids_of_the_target_alone_goes_without(small: Model) -> None:
    drafter = make(small)
    drafter.open("r", [3, 600], GREEDY, 0)
    drafter.open("s", [3], SamplingParams(max_tokens=4, logit_bias={600: 1.0}), 0)
    assert ask(drafter, "r", 2, []) is None and drafter.stats()["refused"] == 2


def test_chains_end_at_end_ids_and_where_they_grow_unlikely(small: Model) -> None:
    text = some_text(random.Random(11), 9)
    ids = likely(small, text, 5)
    drafter = make(small)
    drafter.open("r", text, SamplingParams(max_tokens=9, temperature=0.0, stop_token_ids=[ids[2]]), 0)
    assert ask(drafter, "r", 9, [], 8) == ids[: ids.index(ids[2]) + 1]
    doubtful = make(small, min_token_prob=1.0)
    doubtful.open("r", text, GREEDY, 0)
    found = doubtful.propose([ProposeReq("r", 0, 9, [], 8)], StepBudget(64, 8))[0]
    assert found.token_ids == ids[:1] and found.confidence is not None and 0 < found.confidence[0] < 1
    assert found.parents is None and found.draft_q is None


def test_drafting_ahead_is_the_same_chain_and_a_hit_costs_nothing(target: Model) -> None:
    text = some_text(random.Random(12), 7)
    ids = likely(target, text, 16)
    drafter = make(target, mode="ahead")
    drafter.open("r", text, GREEDY, 0)
    assert ask(drafter, "r", 7, [], 3) == ids[:3]
    ahead: list[Any] = []
    while drafter.has_work:
        ahead += drafter.work()
        drafter.check()
    # 3 in flight, the next token, and 3 more: told half way and at the end
    assert [(d.base_len, d.token_ids) for d in ahead] == [(7, ids[:6]), (7, ids[:7])]
    drafted = drafter.stats()["drafted"]
    assert ask(drafter, "r", 11, ids[:4], 3) == ids[4:7]
    assert drafter.stats()["drafted"] == drafted
    wrong = (ids[7] + 1) % 512
    miss = [*ids[4:7], wrong]
    assert ask(drafter, "r", 15, miss, 3) == likely(target, text + ids[:4] + miss, 3)


def test_warm_up_measures_and_leaves_nothing_behind(small: Model) -> None:
    drafter = make(small)
    drafter.warmup()
    assert [width for width, _ in drafter.costs] == [1, 4]
    assert 0 < drafter.cost(2, 1) < drafter.cost(2, 4)
    assert set(drafter.stats().values()) == {0}


@pytest.mark.parametrize(
    "wrong", [{"model": " "}, {"chunk_tokens": 3}, {"min_token_prob": 1.5}, {"memory_fraction": 0.0}]
)
def test_impossible_settings_are_refused(wrong: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match=next(iter(wrong))):
        draft_model.Config(**{"model": "small", **wrong})
