"""Where an output ends, and why."""

import pytest

from paceline.engine.core.stop import Stop, StopRules
from paceline.engine.types import SamplingParams


def rules(max_model_len: int = 100, num_prompt: int = 10, max_tokens: int = 8, **fields) -> StopRules:
    params = SamplingParams(max_tokens=max_tokens, end_ids=[2, 3], stop_token_ids=[3, 5], **fields)
    return StopRules(params, num_prompt, max_model_len)


@pytest.mark.parametrize(
    ("ids", "num_output", "stop"),
    [
        ([7], 0, None),
        ([7, 7, 7], 0, None),
        ([2], 0, Stop(1, "stop", None)),
        ([3], 0, Stop(1, "stop", None)),  # an end id before all else
        ([5], 0, Stop(1, "stop", 5)),
        ([7, 5, 2], 0, Stop(2, "stop", 5)),  # cut inside an accepted run, at the first hit
        ([7], 7, Stop(1, "length", None)),
        ([7, 7, 7], 6, Stop(2, "length", None)),
        ([2], 7, Stop(1, "stop", None)),  # both at once: the better reason
    ],
)
def test_find(ids: list[int], num_output: int, stop: Stop | None) -> None:
    assert rules().find(ids, num_output) == stop


def test_ignore_eos_leaves_stop_ids() -> None:
    ignoring = rules(ignore_eos=True)
    assert ignoring.find([2], 0) is None
    assert ignoring.find([3], 0) == Stop(1, "stop", 3)


def test_no_stop_before_min_tokens() -> None:
    patient = rules(min_tokens=3)
    assert patient.find([2, 5], 0) is None
    assert patient.find([2, 5, 2], 0) == Stop(3, "stop", None)


def test_the_model_length_bounds_the_output() -> None:
    assert rules(max_model_len=12).find([7, 7, 7], 0) == Stop(2, "length", None)
