"""Random sampling parameters: every field that the sampler knows, in combination."""

import random
from typing import Any

from paceline.engine.types import SamplingParams


def some_params(rng: random.Random, vocab: int, kind: str) -> SamplingParams:
    """``kind``: greedy, seeded (temperature and filters), or everything at once."""

    def ids(count: int) -> list[int]:
        return rng.sample(range(vocab), count)

    common: dict[str, Any] = {"max_tokens": rng.randint(1, 24), "seed": rng.getrandbits(63)}
    if kind == "greedy":
        return SamplingParams(temperature=0.0, **common)
    filters: dict[str, Any] = {
        "temperature": rng.choice([0.3, 0.7, 1.0, 1.7]),
        "top_k": rng.choice([0, 1, 5, 40]),
        "top_p": rng.choice([1.0, 0.9, 0.5]),
        "min_p": rng.choice([0.0, 0.05]),
    }
    if kind == "seeded":
        return SamplingParams(**filters, **common)
    if rng.random() < 0.3:
        filters["temperature"] = 0.0
    return SamplingParams(
        **filters,
        **common,
        min_tokens=rng.choice([0, min(5, common["max_tokens"])]),
        presence_penalty=rng.choice([0.0, 1.5, -0.5]),
        frequency_penalty=rng.choice([0.0, 0.7]),
        repetition_penalty=rng.choice([1.0, 1.3, 0.8]),
        logit_bias=rng.choice([None, dict.fromkeys(ids(5), 3.0)]),
        allowed_token_ids=rng.choice([None, ids(vocab // 2)]),
        bad_words=rng.choice([None, [ids(1), ids(2), ids(3)]]),
        end_ids=ids(2),
        stop_token_ids=ids(1),
        logprobs=rng.choice([None, 0, 3]),
        prompt_logprobs=rng.choice([None, 2]),
    )
