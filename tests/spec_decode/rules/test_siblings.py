"""Children sampled without replacement: the production function against fractions, and the law of its tokens."""

from fractions import Fraction

import exact_rules as er
import pytest
import torch
from spec_windows import p_value

from paceline.kernels import noise
from paceline.spec_decode import siblings

P, Q = [3, 1, 4, 2], [1, 5, 2, 2]
POSITION, WINDOW = 5, 4


def laws(weights: list[int], num: int) -> torch.Tensor:
    return (torch.tensor(weights, dtype=torch.float64) / sum(weights)).expand(num, -1)


def keys(num: int) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Consecutive seeds at one position of one window."""
    return torch.arange(num), torch.full((num,), POSITION), torch.full((num,), WINDOW)


def expected(children: list[int], seed: int) -> tuple[int, int]:
    """What the rule over fractions decides with the same noise."""
    rest, proposal = er.normalised([Fraction(w) for w in P]), er.normalised([Fraction(w) for w in Q])
    at = (torch.tensor([seed]), torch.tensor([POSITION]))
    window = torch.tensor([WINDOW])
    for j, child in enumerate(children):
        u = Fraction(float(noise.uniforms(*at, noise.SIBLING + j, window)))
        if u < er.sibling_chance(rest, proposal, child):
            return j, child
        rest = er.normalised(er.excess(rest, proposal))
        proposal = er.normalised([er.ZERO if i == child else w for i, w in enumerate(proposal)])
    e = noise.exponentials(noise.keys(*at, noise.RESIDUAL, window), at[1], 4)[0].tolist()
    return -1, er.race(rest, [Fraction(x) for x in e])


def test_decides_as_the_fractions_do() -> None:
    """Nodes with one, two and three children in one call."""
    shapes = [[1], [1, 0], [0, 1], [2, 3, 1], []]
    children = torch.tensor([[*c, -1, -1, -1][:3] for c in shapes]).repeat(60, 1)
    which, tokens = siblings.choose(laws(P, 300), laws(Q, 300), children, *keys(300))
    answers = list(zip(which.tolist(), tokens.tolist(), strict=True))
    assert answers == [expected(shapes[seed % 5], seed) for seed in range(300)]
    assert {a for a, _ in answers} >= {-1, 0}


def table(num: int, num_children: int) -> torch.Tensor:
    """Tokens counted; children are the best of log q + noise, which is drawing one by one without replacement."""
    seeds, positions, windows = keys(num)
    times = noise.exponentials(noise.keys(seeds, positions, noise.DRAFT, windows), positions, 4) / laws(Q, num)
    children = times.argsort(-1)[:, :num_children]
    tokens = siblings.choose(laws(P, num), laws(Q, num), children, seeds, positions, windows)[1]
    return torch.bincount(tokens, minlength=4)


@pytest.mark.parametrize("num_children", [1, 2, 3])
def test_token_follows_the_target(num_children: int) -> None:
    assert p_value(table(200_000, num_children), laws(P, 1)[0]) > 1e-6


def test_one_stream_for_drafts_and_residual_is_seen(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(noise, "RESIDUAL", noise.DRAFT)
    assert p_value(table(60_000, 2), laws(P, 1)[0]) < 1e-6


def test_learning_nothing_from_a_refusal_is_seen(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(siblings, "_normalised", lambda weights, before: before)
    assert p_value(table(60_000, 2), laws(P, 1)[0]) < 1e-6


def test_all_children_refused_leave_the_residual() -> None:
    """q sure of an id that the target never says."""
    which, tokens = siblings.choose(laws([0, 1, 1], 40), laws([1, 0, 0], 40), torch.zeros(40, 1).long(), *keys(40))
    assert set(which.tolist()) == {-1} and set(tokens.tolist()) == {1, 2}
