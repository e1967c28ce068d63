"""With the policy on, no load, acceptance or price of drafts makes the engine slower, and gains are not left lying.

Simulated (``policy_sim``): what a real target and drafter do beyond that is for the benchmarks.
"""

import pytest
from policy_sim import Case, Shape, tokens_a_second

from paceline.spec_decode.adapt import Fixed
from paceline.spec_decode.goodput import Goodput

SHAPES: dict[str, Shape] = {
    "free": lambda rows: 1.0 + 0.002 * rows,
    "cpu": lambda rows: 1.0 + 0.04 * max(0, rows - 5),
    "dear": lambda rows: 0.5 + 0.5 * rows,
}
ALPHAS = (0.0, 0.5, 0.8, 0.99)
DEPTHS = (1, 2, 4, 8)


def steps(num_requests: int) -> int:
    return 400 if num_requests < 16 else 150


def fixed(case: Case, depth: int) -> float:
    return tokens_a_second(case, lambda _: Fixed(depth), 300 if case.num_requests < 16 else 60)


@pytest.mark.parametrize("draft_cost", [0.0, 0.3, 0.6])
@pytest.mark.parametrize("num_requests", [1, 8, 64])
@pytest.mark.parametrize("shape", SHAPES)
def test_at_least_98_percent_of_off(shape: str, num_requests: int, draft_cost: float) -> None:
    for alpha in ALPHAS:
        case = Case(num_requests, alpha, draft_cost, SHAPES[shape], seed=int(100 * alpha))
        ratio = tokens_a_second(case, Goodput, steps(num_requests)) / tokens_a_second(case, None)
        assert ratio >= 0.98, f"alpha {alpha}: {ratio:.3f} of off"


@pytest.mark.parametrize("draft_cost", [0.0, 0.3])
@pytest.mark.parametrize("num_requests", [1, 16])
@pytest.mark.parametrize("shape", ["free", "cpu"])
def test_within_5_percent_of_the_best_fixed_depth(shape: str, num_requests: int, draft_cost: float) -> None:
    for alpha in (0.8, 0.95, 0.99):
        case = Case(num_requests, alpha, draft_cost, SHAPES[shape], seed=int(100 * alpha))
        best = max(fixed(case, depth) for depth in DEPTHS)
        if best < 1.15 * tokens_a_second(case, None):
            continue  # a gain near the hurdle may be found late
        ratio = tokens_a_second(case, Goodput, 2 * steps(num_requests)) / best
        assert ratio >= 0.95, f"alpha {alpha}: {ratio:.3f} of the best fixed depth"


def test_fixed_loses_where_the_policy_does_not() -> None:
    """The simulation can show a loss."""
    case = Case(16, 0.3, 0.3, SHAPES["dear"])
    assert fixed(case, 4) < 0.7 * tokens_a_second(case, None)


def test_a_drafter_that_never_fits_is_hardly_asked() -> None:
    """A fifth of a step for each draft, all refused: asked while nothing is known, then ever more rarely."""
    case = Case(1, 0.0, 0.2, SHAPES["cpu"], noise=0.0)
    ratio = [tokens_a_second(case, Goodput, num) / tokens_a_second(case, None) for num in (50, 2000)]
    assert ratio[0] > 0.8 and ratio[1] > 0.99
