"""Token and block rejection keep the target's law: chi-square over 200 000 consecutive seeds.

That mutations of them do not is shown in ``test_mutations.py``.

Narrow vocabularies, because a bias spreads thin over a wide one. Fixed seeds; a test fails below ALPHA, and is never
run again until it passes.
"""

import pytest
import torch
from spec_windows import Setting, law, p_value, surprise, texts

from paceline.engine.execution import filters
from paceline.engine.types import SamplingParams

ALPHA = 1e-6
RULES = ["token", "block"]
FEW = 60_000
"""Seeds that are enough to see a mutation."""


def logits(size: int, seed: int, scale: float = 1.5) -> torch.Tensor:
    return torch.randn(size + 1, size, generator=torch.Generator().manual_seed(seed)) * scale


def filtered(x: torch.Tensor, params: SamplingParams) -> torch.Tensor:
    """As the sampler leaves them."""
    x = x.clone()
    filters.apply(x, list(range(len(x))), [params] * len(x))
    assert torch.isinf(x).any()
    return x


def rare(p: torch.Tensor) -> torch.Tensor:
    return torch.nn.functional.one_hot(p.argmin(-1), p.shape[1]).float()


def every_other(x: torch.Tensor, first: int) -> torch.Tensor:
    """x, impossible at each second id."""
    x = x.clone()
    x[:, first::2] = -torch.inf
    return x


P, Q = logits(16, 1), logits(16, 2)
DRAFTERS: dict[str, tuple[torch.Tensor, torch.Tensor]] = {
    "other": (P, Q.softmax(-1)),
    "equal": (P, P.softmax(-1)),
    "inverse": (P, (-P).softmax(-1)),
    "disjoint": (every_other(P, 0), every_other(Q, 1).softmax(-1)),
    "sure of the mode": (P, torch.nn.functional.one_hot(P.argmax(-1), 16).float()),
    "sure of a rare token": (P, rare(P)),
    "zeros": (P, every_other(Q, 0).softmax(-1)),
    "near ties": (P, (P + 1e-3 * Q).softmax(-1)),
    "not normalised": (P, 7.0 * Q.softmax(-1)),
    "temperature 0.3": (P / 0.3, Q.softmax(-1)),
    "temperature 1.5": (P / 1.5, (Q / 1.5).softmax(-1)),
    "top_k": (filtered(P, SamplingParams(max_tokens=1, top_k=5)), Q.softmax(-1)),
    "top_p": (filtered(P, SamplingParams(max_tokens=1, top_p=0.8)), Q.softmax(-1)),
    "q in bf16": (P, (Q + 40.0).bfloat16().float().softmax(-1)),
}


@pytest.mark.parametrize("rule", RULES)
@pytest.mark.parametrize("drafter", DRAFTERS)
def test_one_token_over_16_ids(rule: str, drafter: str) -> None:
    setting = Setting(*DRAFTERS[drafter], rule)
    assert surprise(texts(setting, 1), setting) > ALPHA


JOINT = Setting(logits(8, 1), logits(8, 2).softmax(-1), "token")
THREE = Setting(logits(3, 1, 1.0), logits(3, 2, 1.0).softmax(-1), "token", depth=3)


@pytest.mark.parametrize("rule", RULES)
@pytest.mark.parametrize("weights", [JOINT.weights, JOINT.logits.softmax(-1), rare(JOINT.logits)])
def test_joint_tables_across_window_ends(rule: str, weights: torch.Tensor) -> None:
    """Tables of 64 and 512 cells: pairs and triples that lie in one window or in two or three."""
    setting = Setting(JOINT.logits, weights, rule)
    tokens = texts(setting, 3)
    assert surprise(tokens[:, :2], setting) > ALPHA
    assert surprise(tokens, setting) > ALPHA


@pytest.mark.parametrize("rule", RULES)
def test_per_position_conditionals(rule: str) -> None:
    """The law of the second and of the third token behind each token before it."""
    setting = Setting(JOINT.logits, JOINT.weights, rule, depth=3)
    tokens = texts(setting, 3)
    conditionals = setting.logits.double().softmax(-1)
    for at in (1, 2):
        for before in range(8):
            counts = torch.bincount(tokens[tokens[:, at - 1] == before, at], minlength=8)
            assert p_value(counts, conditionals[before]) > ALPHA, f"token {at} behind {before}"


@pytest.mark.parametrize("rule", RULES)
def test_texts_over_several_windows(rule: str) -> None:
    setting = Setting(THREE.logits, THREE.weights, rule, depth=3)
    assert surprise(texts(setting, 4), setting) > ALPHA


def test_chi_square_agrees_with_the_tables() -> None:
    """Of 9, 15 and 255 degrees of freedom, the 5 % points; and what cannot happen is noticed."""
    for df, point in ((9, 16.919), (15, 24.996), (255, 293.248)):
        n = 1_000_000.0
        counts = torch.full((df + 1,), n, dtype=torch.float64)
        shift = (point * n / 2) ** 0.5
        counts[0] += shift
        counts[1] -= shift
        even = torch.full((df + 1,), 1 / (df + 1), dtype=torch.float64)
        assert p_value(counts, even) == pytest.approx(0.05, abs=1e-4)
    assert p_value(torch.tensor([90, 10]), torch.tensor([1.0, 0.0], dtype=torch.float64)) == 0.0
    assert float(law(JOINT, 3).sum()) == pytest.approx(1.0)


# --- which drafts may be dropped --------------------------------------------------------------------------------------


def by_earlier_value(drafts: torch.Tensor, chances: torch.Tensor) -> torch.Tensor:
    return torch.where(drafts[:, 0] == 2, 1, 2)


def by_own_value(drafts: torch.Tensor, chances: torch.Tensor) -> torch.Tensor:
    return (drafts % 3 != 2).long().cumprod(-1).sum(-1)


def by_own_chance(drafts: torch.Tensor, chances: torch.Tensor) -> torch.Tensor:
    return (chances >= 0.1).long().cumprod(-1).sum(-1)


@pytest.mark.parametrize("rule", RULES)
@pytest.mark.parametrize(
    ("cut", "is_allowed"), [(by_earlier_value, True), (by_own_value, False), (by_own_chance, False)]
)
def test_selection_may_not_look_at_the_draft_itself(rule: str, cut, is_allowed: bool) -> None:
    setting = Setting(JOINT.logits, JOINT.weights, rule, cut=cut)
    assert (surprise(texts(setting, 2, 200_000 if is_allowed else FEW), setting) > ALPHA) is is_allowed
