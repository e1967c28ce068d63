"""The one test that rules them all: tokens from the whole engine under load equal those of the naive loop."""

import random
from pathlib import Path
from typing import Any

import naive
import pytest
from server import Server
from wire_client import completion, eventually, metrics, ready, together

from paceline.engine.errors import PacelineError
from paceline.engine.store.resolve import locate
from paceline.engine.types import SamplingParams

pytestmark = pytest.mark.e2e


@pytest.fixture(scope="module")
def loop(tiny_folder: Path) -> Any:
    """``loop(prompt_ids, **params)`` -> token ids of the naive loop over the same weights and kernels."""
    model = naive.load(tiny_folder)

    def generate(prompt_ids: list[int], **params: Any) -> list[int]:
        return naive.generate(model, prompt_ids, SamplingParams(ignore_eos=True, **params))

    return generate


def mixed(
    count: int, vocab: int, longest_prompt: int, longest_output: int, seed: int = 0
) -> list[tuple[list[int], int]]:
    rng = random.Random(seed)
    lengths = [(rng.randint(1, longest_prompt), rng.randint(1, longest_output)) for _ in range(count)]
    return [([rng.randrange(vocab) for _ in range(p)], o) for p, o in lengths]


def all_at_once(server: Server, work: list[tuple[list[int], int]], **fields: Any) -> list[dict[str, Any]]:
    body = {"temperature": 0, "ignore_eos": True} | fields
    return together([lambda p=p, o=o: completion(server.url, p, max_tokens=o, **body) for p, o in work])


def test_32_greedy_streams_equal_the_naive_loop_cold_and_with_prefix_hits(server: Server, loop: Any) -> None:
    work = mixed(32, vocab=300, longest_prompt=200, longest_output=60)
    expected = [loop(p, temperature=0.0, max_tokens=o) for p, o in work]
    cold = all_at_once(server, work)
    assert [c["token_ids"] for c in cold] == expected
    warm = all_at_once(server, work)
    assert [c["token_ids"] for c in warm] == expected
    assert sum(c["usage"]["prompt_tokens_details"]["cached_tokens"] for c in warm) > 1000
    eventually(lambda: metrics(server.url)["vllm:num_requests_running"] == 0)


@pytest.mark.parametrize("in_flight", [1, 2])
def test_a_pool_too_small_preempts_and_changes_nothing(serve: Any, loop: Any, in_flight: int) -> None:
    work = [(p, o + 70) for p, o in mixed(24, vocab=300, longest_prompt=40, longest_output=60, seed=1)]
    small = [
        "-s",
        "cache.num_blocks=40",
        "-s",
        "target.max_model_len=256",
        "-s",
        f"scheduler.max_in_flight={in_flight}",
    ]
    with serve(*small, "-s", "scheduler.max_num_batched_tokens=48") as server:
        answers = all_at_once(server, work)
        assert [a["token_ids"] for a in answers] == [loop(p, temperature=0.0, max_tokens=o) for p, o in work]
        eventually(lambda: metrics(server.url).get("vllm:num_preemptions_total", 0) > 0)
        eventually(lambda: ready(server.url)["free_blocks"] == 40)


def test_seeded_sampling_is_the_same_alone_and_in_a_crowd(server: Server, loop: Any) -> None:
    work = mixed(32, vocab=300, longest_prompt=60, longest_output=40, seed=2)
    fields: dict[str, Any] = {"temperature": 0.9, "top_p": 0.95, "top_k": 50, "presence_penalty": 0.3}
    prompt = work[7][0]
    alone = completion(server.url, prompt, seed=1234, max_tokens=40, ignore_eos=True, **fields)
    crowd: list[Any] = [
        lambda p=p, o=o, i=i: completion(server.url, p, seed=i, max_tokens=o, ignore_eos=True, **fields)
        for i, (p, o) in enumerate(work[:31])
    ]
    crowd.insert(11, lambda: completion(server.url, prompt, seed=1234, max_tokens=40, ignore_eos=True, **fields))
    among = together(crowd)[11]
    assert among["token_ids"] == alone["token_ids"] == loop(prompt, seed=1234, max_tokens=40, **fields)
    other = completion(server.url, prompt, seed=4321, max_tokens=40, ignore_eos=True, **fields)
    assert other["token_ids"] != alone["token_ids"]


@pytest.mark.model
@pytest.mark.slow
def test_real_model_under_load_equals_the_naive_loop(serve: Any) -> None:
    """SmolLM2 itself: 32 prompts of mixed lengths, greedy, against the naive loop."""
    try:
        locate("smollm2:135m", download=False)
    except PacelineError as e:
        pytest.skip(f"make fetch first: {e}")
    model = naive.load("smollm2:135m")
    work = mixed(32, vocab=49000, longest_prompt=120, longest_output=24, seed=3)
    base = ["-s", "target.max_model_len=1024", "-s", "cache.num_blocks=1024"]
    with serve(model="smollm2:135m", base=base) as server:
        answers = all_at_once(server, work)
    params = [SamplingParams(temperature=0.0, max_tokens=o, ignore_eos=True) for _, o in work]
    expected = [naive.generate(model, p, s) for (p, _), s in zip(work, params, strict=True)]
    assert [a["token_ids"] for a in answers] == expected
