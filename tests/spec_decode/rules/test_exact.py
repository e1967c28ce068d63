"""The reference rules give the target's law exactly: V = 3, k = 2, every history, over fractions."""

import random
from collections.abc import Sequence
from fractions import Fraction

import exact_rules as er
import pytest

V, K = 3, 2


def tables(seed: int, *, zeros: bool = False, sharp: bool = False) -> er.Model:
    """A random law for each text, the same for a text each time; with ``zeros`` some tokens are impossible."""

    def law(text: er.Text) -> er.Law:
        r = random.Random(f"{seed} {text}")
        weights = [Fraction(r.randint(1, 9) ** (3 if sharp else 1)) for _ in range(V)]
        if zeros:
            weights[r.randrange(V)] = Fraction(0)
        return er.normalised(weights)

    return law


def deterministic(model: er.Model, best: bool) -> er.Model:
    """A drafter that always says the model's most, or least, likely token."""
    pick = max if best else min
    return lambda text: er.one_hot(pick(range(V), key=lambda t: (model(text)[t], t)), V)


DRAFTERS = {
    "other": lambda target: tables(2),
    "equal": lambda target: target,
    "inverse": lambda target: lambda text: er.normalised([1 / max(p, Fraction(1, 99)) for p in target(text)]),
    "zeros": lambda target: tables(3, zeros=True),
    "one-hot at the mode": lambda target: deterministic(target, True),
    "one-hot at a rare token": lambda target: deterministic(target, False),
}
TARGETS = {"even": tables(7), "sharp": tables(8, sharp=True), "zeros": tables(9, zeros=True)}


def error(law: dict[er.Text, Fraction], expected: dict[er.Text, Fraction]) -> Fraction:
    """The largest difference of a cell."""
    return max(abs(law.get(t, er.ZERO) - expected.get(t, er.ZERO)) for t in law.keys() | expected.keys())


@pytest.mark.parametrize("rule", ["token", "block"])
@pytest.mark.parametrize("drafter", DRAFTERS)
@pytest.mark.parametrize("target", TARGETS)
def test_one_window_leaves_the_law_unchanged(rule: str, drafter: str, target: str) -> None:
    p = TARGETS[target]
    step = er.window(p, DRAFTERS[drafter](p), K, rule)
    assert error(er.text_law(step, p, K + 1, 1), er.plain_law(p, K + 1)) == 0


@pytest.mark.parametrize("rule", ["token", "block"])
@pytest.mark.parametrize("drafter", ["other", "zeros", "one-hot at a rare token"])
def test_two_windows_in_a_row_leave_the_law_unchanged(rule: str, drafter: str) -> None:
    p = TARGETS["sharp"]
    step = er.window(p, DRAFTERS[drafter](p), K, rule)
    assert error(er.text_law(step, p, K + 2, 2), er.plain_law(p, K + 2)) == 0


def test_block_accepts_more_than_token() -> None:
    """Never less at any text, and more on the whole."""

    def accepted(rule: str, seed: int) -> Fraction:
        outcomes = er.window(tables(seed), tables(seed + 100), K, rule)(())
        return sum((c * (len(tokens) - 1) for tokens, c in outcomes), er.ZERO)

    pairs = [(accepted("token", seed), accepted("block", seed)) for seed in range(30)]
    assert all(token <= block for token, block in pairs)
    assert sum(block for _, block in pairs) > Fraction(101, 100) * sum(token for token, _ in pairs)


@pytest.mark.parametrize("num_children", [1, 2, 3])
@pytest.mark.parametrize("seed", range(20))
def test_siblings_without_replacement_leave_the_law_unchanged(seed: int, num_children: int) -> None:
    p, q = tables(seed, zeros=seed % 5 == 0)(()), tables(seed + 50, zeros=seed % 3 == 0)(())
    assert er.siblings_law(p, q, num_children) == p


# --- which drafts may be dropped before verification ------------------------------------------------------------------


def by_earlier_value(text: er.Text, q: Sequence[er.Law], drafts: er.Text) -> int:
    return 1 if drafts[0] == 2 else 2


def by_shape(text: er.Text, q: Sequence[er.Law], drafts: er.Text) -> int:
    return next((i for i, law in enumerate(q) if max(law) < Fraction(1, 2)), K)


def by_own_value(text: er.Text, q: Sequence[er.Law], drafts: er.Text) -> int:
    return next((i for i, x in enumerate(drafts) if x == 2), K)


def by_own_chance(text: er.Text, q: Sequence[er.Law], drafts: er.Text) -> int:
    return next((i for i, (law, x) in enumerate(zip(q, drafts, strict=True)) if law[x] < Fraction(1, 3)), K)


@pytest.mark.parametrize("rule", ["token", "block"])
@pytest.mark.parametrize("cut", [by_earlier_value, by_shape])
def test_drafts_may_be_cut_by_what_lies_before_them(rule: str, cut) -> None:
    p = TARGETS["even"]
    assert error(er.text_law(er.window(p, tables(2), K, rule, cut), p, K + 1, 1), er.plain_law(p, K + 1)) == 0


@pytest.mark.parametrize("rule", ["token", "block"])
@pytest.mark.parametrize("cut", [by_own_value, by_own_chance])
def test_dropping_a_draft_by_its_own_value_is_biased(rule: str, cut) -> None:
    """The mutation "drop x_i by its own value": not a rounding matter, cells move by percents."""
    p = TARGETS["even"]
    law = er.text_law(er.window(p, tables(2), K, rule, cut), p, K + 1, 1)
    assert error(law, er.plain_law(p, K + 1)) > Fraction(1, 200)


# --- mutations of the rules themselves --------------------------------------------------------------------------------


def no_residual(p, q, drafts, num, rule):
    return p[num]


def law_of_the_last_draft(p, q, drafts, num, rule, original=er.next_law):
    return p[num - 1] if num == len(drafts) and num else original(p, q, drafts, num, rule)


def stop_at_the_first_refusal(chances, num, rule, original=er.chance_of_count):
    return original(chances, num, "token")


def plain_scale(p, q, drafts, rule):
    return [er.ONE] * (len(drafts) + 1)


@pytest.mark.parametrize(
    ("name", "mutation", "rule"),
    [
        ("next_law", no_residual, "token"),
        ("next_law", no_residual, "block"),
        ("next_law", law_of_the_last_draft, "token"),
        ("next_law", law_of_the_last_draft, "block"),
        ("chance_of_count", stop_at_the_first_refusal, "block"),
        ("scales", plain_scale, "block"),
    ],
)
def test_a_mutated_rule_changes_the_law(name: str, mutation, rule: str, monkeypatch: pytest.MonkeyPatch) -> None:
    p = TARGETS["even"]
    step = er.window(p, tables(2), K, rule)
    assert error(er.text_law(step, p, K + 1, 1), er.plain_law(p, K + 1)) == 0
    monkeypatch.setattr(er, name, mutation)
    assert error(er.text_law(step, p, K + 1, 1), er.plain_law(p, K + 1)) > Fraction(1, 200)


def sibling_errors() -> bool:
    """Whether any of some random nodes with two children has another law than the target's."""
    nodes = [(tables(seed)(()), tables(seed + 50)(())) for seed in range(10)]
    return any(er.siblings_law(p, q, 2) != p for p, q in nodes)


def no_sibling_residual(rest: er.Law, proposal: er.Law) -> er.Law:
    return rest


def half_proposal(rest: er.Law, proposal: er.Law, child: int) -> Fraction:
    """A child tested with another proposal than the one it was drawn from."""
    return min(er.ONE, rest[child] / (proposal[child] / 2))


@pytest.mark.parametrize(("name", "mutation"), [("excess", no_sibling_residual), ("sibling_chance", half_proposal)])
def test_a_mutated_sibling_rule_changes_the_law(name: str, mutation, monkeypatch: pytest.MonkeyPatch) -> None:
    assert not sibling_errors()
    monkeypatch.setattr(er, name, mutation)
    assert sibling_errors()
