"""Each sampling field by itself and all of them together against the slow oracle; rows never influence each other."""

import math
import random
from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest
import torch
from sampling_oracle import processed

from paceline.engine.core.plan import NewRequest
from paceline.engine.execution.acceptance import VerifyBatch
from paceline.engine.execution.sampler import Ask, process
from paceline.engine.execution.state import RequestTable, signed64
from paceline.engine.types import SamplingParams
from paceline.kernels import ops

GONE = -math.inf


def ask_of(params: SamplingParams, prompt: list[int], output: list[int], drafts: list[int], vocab: int) -> Ask:
    ids = prompt + output
    held = RequestTable(num_blocks=1, block_size=1, vocab_size=vocab).open(
        NewRequest("r", 0, ids, len(prompt), [], params)
    )
    return Ask(held, drafts, np.asarray(ids + drafts, np.int32))


def after(
    logits: list[float], *, prompt: list[int] | None = None, output: list[int] | None = None, **fields: Any
) -> list[float]:
    """Processed logits of one position."""
    params = SamplingParams(max_tokens=100, **fields)
    rows = torch.tensor([logits], dtype=torch.float32)
    process(rows, [ask_of(params, prompt or [0], output or [], [], len(logits))])
    return rows[0].tolist()


def kept(values: list[float]) -> list[int]:
    return [i for i, v in enumerate(values) if v != GONE]


# --- each field -------------------------------------------------------------------------------------------------------


def test_nothing_asked_changes_nothing() -> None:
    assert after([1.0, -2.0, 0.5]) == [1.0, -2.0, 0.5]


def test_temperature_divides() -> None:
    assert after([1.0, -2.0, 0.5], temperature=0.5) == [2.0, -4.0, 1.0]


def test_greedy_ignores_the_filters_but_not_the_edits() -> None:
    filters = {"temperature": 0.0, "top_k": 1, "top_p": 0.1, "min_p": 0.9}
    assert after([1.0, 3.0, 2.0], **filters) == [1.0, 3.0, 2.0]
    assert after([1.0, 3.0, 2.0], logit_bias={0: 9.0}, **filters) == [10.0, 3.0, 2.0]


def test_top_k_keeps_the_k_largest_and_their_equals() -> None:
    assert kept(after([1.0, 3.0, 2.0, 2.0, 0.0], top_k=2)) == [1, 2, 3]
    assert kept(after([1.0, 3.0, 2.0], top_k=99)) == [0, 1, 2]


def test_top_p_keeps_the_fewest_that_reach_its_mass() -> None:
    logits = [math.log(p) for p in (0.1, 0.5, 0.15, 0.25)]
    assert kept(after(logits, top_p=0.45)) == [1]
    assert kept(after(logits, top_p=0.55)) == [1, 3]
    assert kept(after(logits, top_p=0.8)) == [1, 2, 3]
    assert kept(after(logits, top_p=0.95)) == [0, 1, 2, 3]
    assert kept(after(logits, top_p=1e-9)) == [1]


def test_top_p_counts_its_mass_over_what_top_k_left() -> None:
    logits = [math.log(p) for p in (0.1, 0.5, 0.15, 0.25)]
    assert kept(after(logits, top_p=0.65, top_k=2)) == [1]
    assert kept(after(logits, top_p=0.65)) == [1, 3]


def test_min_p_is_relative_to_the_most_likely() -> None:
    logits = [math.log(p) for p in (0.1, 0.5, 0.15, 0.25)]
    assert kept(after(logits, min_p=0.4)) == [1, 3]
    assert kept(after(logits, min_p=0.25)) == [1, 2, 3]
    assert kept(after(logits, min_p=1.0)) == [1]


def test_temperature_comes_before_the_filters() -> None:
    logits = [math.log(p) for p in (0.1, 0.5, 0.15, 0.25)]
    assert kept(after(logits, min_p=0.4, temperature=2.0)) == [0, 1, 2, 3]


def test_repetition_weighs_on_prompt_and_output_once_each_and_by_sign() -> None:
    values = after([2.0, -2.0, 2.0, -2.0], prompt=[0, 0, 1], output=[1], repetition_penalty=2.0)
    assert values == [1.0, -4.0, 2.0, -2.0]


def test_presence_and_frequency_count_output_only() -> None:
    assert after([2.0, 2.0, 2.0], prompt=[0, 0], output=[1, 1, 2], presence_penalty=0.5) == [2.0, 1.5, 1.5]
    assert after([2.0, 2.0, 2.0], prompt=[0, 0], output=[1, 1, 2], frequency_penalty=0.5) == [2.0, 1.0, 1.5]
    assert after([2.0, 2.0], prompt=[0], output=[0, 0], presence_penalty=-1.0, frequency_penalty=-0.25) == [3.5, 2.0]


def test_bias_is_added_after_the_penalties() -> None:
    assert after([4.0, 1.0], prompt=[0], repetition_penalty=2.0, logit_bias={0: 1.0, 1: -100.0}) == [3.0, -99.0]


def test_allowed_ids_are_all_that_is_left() -> None:
    assert after([1.0, 2.0, 3.0, 4.0], allowed_token_ids=[2, 0, 2]) == [1.0, GONE, 3.0, GONE]


@pytest.mark.parametrize(
    ("prompt", "output", "gone"),
    [
        ([0], [], [3]),  # a word of one token never
        ([0], [1], [2, 3]),  # 1 2 would be complete
        ([0, 1], [], [2, 3]),  # also where the prompt began it
        ([4, 1], [4], [0, 3]),  # 1 4 0, begun in the prompt, gone on in the output
        ([1], [0, 4], [3]),
        ([4], [], [3]),  # too short for 1 4 0
    ],
)
def test_bad_words_lose_the_token_that_would_complete_them(
    prompt: list[int], output: list[int], gone: list[int]
) -> None:
    values = after([1.0] * 5, prompt=prompt, output=output, bad_words=[[3], [1, 2], [1, 4, 0]])
    assert [i for i, v in enumerate(values) if v == GONE] == gone


@pytest.mark.parametrize("ignore_eos", [False, True])
def test_min_tokens_masks_the_ends_until_then(ignore_eos: bool) -> None:
    fields = {"end_ids": [1], "stop_token_ids": [3], "min_tokens": 2, "ignore_eos": ignore_eos}
    assert kept(after([1.0] * 4, output=[], **fields)) == [0, 2]
    assert kept(after([1.0] * 4, output=[0], **fields)) == [0, 2]
    assert kept(after([1.0] * 4, output=[0, 0], **fields)) == [0, 1, 2, 3]


def test_seed_temperature_and_position_are_those_of_the_token_chosen() -> None:
    plain = SamplingParams(max_tokens=9, seed=2**63 + 5)
    greedy = SamplingParams(max_tokens=9, seed=7, temperature=0.0)
    batch = process(torch.zeros(4, 8), [ask_of(plain, [1, 2], [3], [4, 5], 8), ask_of(greedy, [1], [], [], 8)])
    assert batch.positions.tolist() == [3, 4, 5, 1]
    assert batch.seeds.tolist() == [5 - 2**63] * 3 + [7]
    assert batch.temperatures.tolist() == [1.0, 1.0, 1.0, 0.0]
    assert (batch.starts, batch.draft_ids) == ([0, 3, 4], [[4, 5], []])


@pytest.mark.parametrize("seed", [0, 1, -1, 2**63 - 1, -(2**63), 2**64 - 1])
def test_seeds_keep_their_64_bits(seed: int) -> None:
    assert (signed64(seed) - seed) % 2**64 == 0 and -(2**63) <= signed64(seed) < 2**63


# --- all together -----------------------------------------------------------------------------------------------------


def random_params(rng: random.Random, vocab: int) -> SamplingParams:
    def ids(most: int) -> list[int]:
        return [rng.randrange(vocab) for _ in range(rng.randint(1, most))]

    def maybe(value: Any, otherwise: Any) -> Any:
        return value if rng.random() < 0.4 else otherwise

    return SamplingParams(
        max_tokens=100,
        temperature=maybe(rng.choice([0.0, 0.25, 2.0]), 1.0),
        top_k=maybe(rng.choice([1, 3, 20, vocab // 2, vocab + 5]), 0),
        top_p=maybe(rng.choice([0.05, 0.6, 0.93, 0.999]), 1.0),
        min_p=maybe(rng.choice([0.01, 0.2, 1.0]), 0.0),
        repetition_penalty=maybe(rng.choice([0.5, 1.25]), 1.0),
        presence_penalty=maybe(rng.uniform(-2, 2), 0.0),
        frequency_penalty=maybe(rng.uniform(-2, 2), 0.0),
        logit_bias=maybe({i: rng.uniform(-5, 5) for i in ids(6)}, None),
        allowed_token_ids=maybe(ids(vocab), None),
        bad_words=maybe([ids(3) for _ in range(4)], None),
        min_tokens=maybe(6, 0),
        end_ids=ids(2),
        stop_token_ids=maybe(ids(2), []),
        seed=rng.getrandbits(63),
    )


def random_asks(rng: random.Random, vocab: int, count: int) -> Iterator[tuple[Ask, list[int], list[int]]]:
    for _ in range(count):
        prompt = [rng.randrange(vocab) for _ in range(rng.randint(1, 12))]
        output = [rng.randrange(vocab) for _ in range(rng.randint(0, 8))]
        drafts = [rng.randrange(vocab) for _ in range(rng.choice([0, 0, 1, 4]))]
        yield ask_of(random_params(rng, vocab), prompt, output, drafts, vocab), prompt, output


@pytest.mark.parametrize(("vocab", "spread"), [(11, 2.0), (300, 1.0), (700, 0.01), (700, 3.0)])
def test_everything_at_once_agrees_with_the_oracle(vocab: int, spread: float) -> None:
    rng = random.Random(vocab)
    asks = list(random_asks(rng, vocab, 60 if vocab < 100 else 25))
    total = sum(len(ask.draft_ids) + 1 for ask, _, _ in asks)
    raw = torch.randn(total, vocab, generator=torch.Generator().manual_seed(vocab)) * spread
    batch = process(raw.clone(), [ask for ask, _, _ in asks])
    place = 0
    for ask, prompt, output in asks:
        for i in range(len(ask.draft_ids) + 1):
            expected = processed(raw[place].tolist(), ask.held.params, prompt, output + ask.draft_ids[:i])
            assert kept(batch.logits[place].tolist()) == kept(expected), ask.held.params
            torch.testing.assert_close(batch.logits[place], torch.tensor(expected), rtol=1e-5, atol=1e-5)
            place += 1


def test_drafts_leave_no_trace_in_the_counts() -> None:
    params = SamplingParams(max_tokens=9, frequency_penalty=1.0, presence_penalty=1.0, repetition_penalty=1.5)
    ask = ask_of(params, [1, 2], [3], [4, 3, 4, 1], 8)
    first = torch.randn(5, 8, generator=torch.Generator().manual_seed(0))
    again = first.clone()
    process(first, [ask])
    process(again, [ask])
    assert torch.equal(first, again)


@pytest.mark.parametrize("vocab", [1003, 49155])
def test_a_row_is_the_same_bit_for_bit_alone_and_in_any_crowd(vocab: int) -> None:
    rng = random.Random(5)
    noise = torch.Generator().manual_seed(1)
    asks = [ask for ask, _, _ in random_asks(rng, vocab, 12)]
    raw = [torch.randn(len(ask.draft_ids) + 1, vocab, generator=noise) * 3 for ask in asks]
    alone = [process(rows.clone(), [ask]) for rows, ask in zip(raw, asks, strict=True)]
    threads = torch.get_num_threads()
    try:
        for trial in range(4):
            torch.set_num_threads(1 + trial % 2)
            order = rng.sample(range(len(asks)), len(asks))
            batch = process(torch.cat([raw[i] for i in order]), [asks[i] for i in order])
            drawn = draw(batch)
            for place, i in enumerate(order):
                mine = slice(batch.starts[place], batch.starts[place + 1])
                assert torch.equal(batch.logits[mine], alone[i].logits)
                assert torch.equal(drawn[mine], draw(alone[i]))
    finally:
        torch.set_num_threads(threads)


def draw(batch: VerifyBatch) -> torch.Tensor:
    return ops.sample(batch.logits, batch.temperatures, batch.seeds, batch.positions)
