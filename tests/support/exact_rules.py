"""Acceptance rules over exact fractions, as the papers write them: what the production kernels must agree with.

A law is a list of fractions over the vocabulary. A window has k drafts x_1..x_k with laws q_1..q_k, and the target's
laws p_1..p_{k+1}, each given the drafts before it. h_i is the chance that u_i lets draft i pass.
"""

import itertools
from collections.abc import Callable, Sequence
from fractions import Fraction
from typing import TypeAlias

Law: TypeAlias = list[Fraction]
Text: TypeAlias = tuple[int, ...]
Model: TypeAlias = Callable[[Text], Law]
"""The law of the next token behind a text."""
Windows: TypeAlias = Callable[[Text], list[tuple[Text, Fraction]]]
"""All outcomes of one speculative window behind a text: committed tokens and their probability."""

ONE, ZERO = Fraction(1), Fraction(0)


def excess(p: Law, q: Law, scale: Fraction = ONE) -> Law:
    """[scale * p - q] with negative parts cut off, not normalised."""
    return [max(ZERO, scale * a - b) for a, b in zip(p, q, strict=True)]


def normalised(weights: Law) -> Law:
    """The weights divided by their sum."""
    total = sum(weights)
    return [w / total for w in weights]


def one_hot(token: int, size: int) -> Law:
    """The law of a drafter that could have said nothing else."""
    return [ONE if i == token else ZERO for i in range(size)]


def scales(p: Sequence[Law], q: Sequence[Law], drafts: Sequence[int], rule: str) -> list[Fraction]:
    """What p is multiplied by in the residual behind 0..k accepted drafts: rho for ``block``, else 1."""
    rho = [ONE]
    for p_i, q_i, x in zip(p, q, drafts, strict=False):
        rho.append(min(ONE, rho[-1] * p_i[x] / q_i[x]) if rule == "block" else ONE)
    return rho


def thresholds(p: Sequence[Law], q: Sequence[Law], drafts: Sequence[int], rule: str) -> list[Fraction]:
    """h_1..h_k."""
    rho = scales(p, q, drafts, rule)
    if rule == "token":
        return [min(ONE, p_i[x] / q_i[x]) for p_i, q_i, x in zip(p, q, drafts, strict=False)]
    found: list[Fraction] = []
    for i in range(1, len(drafts)):
        mass = sum(excess(p[i], q[i], rho[i]), ZERO)
        below = mass + 1 - rho[i]
        found.append(mass / below if below else ONE)
    return [*found, rho[-1]] if drafts else []


def count(chances: Sequence[Fraction], u: Sequence[Fraction], rule: str) -> int:
    """Drafts accepted; i passes if u_i <= h_i. Token takes all before the first failure, block to the last pass."""
    passed = [a <= b for a, b in zip(u, chances, strict=True)]
    if rule == "token":
        return passed.index(False) if False in passed else len(passed)
    return max((i + 1 for i, good in enumerate(passed) if good), default=0)


def chance_of_count(chances: Sequence[Fraction], num: int, rule: str) -> Fraction:
    """The probability of ``num`` accepted drafts over independent uniform u."""
    result = ONE
    if rule == "token":
        for h in chances[:num]:
            result *= h
        return result * (1 - chances[num]) if num < len(chances) else result
    for h in chances[num:]:
        result *= 1 - h
    return result * chances[num - 1] if num else result


def next_law(p: Sequence[Law], q: Sequence[Law], drafts: Sequence[int], num: int, rule: str) -> Law:
    """The law of the next token behind ``num`` accepted drafts."""
    if num == len(drafts):
        return p[num]
    rest = excess(p[num], q[num], scales(p, q, drafts, rule)[num])
    return normalised(rest) if sum(rest) else p[num]


def race(weights: Law, exponentials: Sequence[Fraction]) -> int:
    """The id at which exponential / weight is least, the lowest of equals: drawn in proportion to the weights."""
    times = [(e / w, i) for i, (w, e) in enumerate(zip(weights, exponentials, strict=True)) if w]
    return min(times)[1]


def window(
    target: Model, drafter: Model, depth: int, rule: str, cut: Callable[[Text, Sequence[Law], Text], int] | None = None
) -> Windows:
    """Outcomes of a window of ``depth`` sampled drafts; ``cut(text, q, drafts)`` says how many of them are kept."""

    def outcomes(text: Text) -> list[tuple[Text, Fraction]]:
        size = len(target(text))
        found: list[tuple[Text, Fraction]] = []
        for drafts in itertools.product(range(size), repeat=depth):
            q = [drafter(text + drafts[:i]) for i in range(depth)]
            drawn = ONE
            for q_i, x in zip(q, drafts, strict=True):
                drawn *= q_i[x]
            if drawn:
                kept = drafts if cut is None else drafts[: cut(text, q, drafts)]
                found += _verified(text, target, q, kept, rule, drawn)
        return found

    return outcomes


def _verified(
    text: Text, target: Model, q: Sequence[Law], drafts: Text, rule: str, drawn: Fraction
) -> list[tuple[Text, Fraction]]:
    p = [target(text + drafts[:i]) for i in range(len(drafts) + 1)]
    chances = thresholds(p, q, drafts, rule)
    found: list[tuple[Text, Fraction]] = []
    for num in range(len(drafts) + 1):
        chance = drawn * chance_of_count(chances, num, rule)
        if chance:
            law = next_law(p, q, drafts, num, rule)
            found += [((*drafts[:num], token), chance * law[token]) for token in range(len(law)) if law[token]]
    return found


def text_law(step: Windows, target: Model, length: int, windows: int) -> dict[Text, Fraction]:
    """The law of the first ``length`` tokens: at most ``windows`` speculative windows, then plain decoding."""
    law: dict[Text, Fraction] = {}

    def walk(text: Text, chance: Fraction, left: int) -> None:
        if len(text) >= length:
            law[text[:length]] = law.get(text[:length], ZERO) + chance
            return
        after = step(text) if left else [((token,), c) for token, c in enumerate(target(text)) if c]
        for tokens, c in after:
            walk(text + tokens, chance * c, left - 1 if left else 0)

    walk((), ONE, windows)
    return law


def plain_law(target: Model, length: int) -> dict[Text, Fraction]:
    """The law of the first ``length`` tokens without speculation."""
    return text_law(lambda _: [], target, length, 0)


def sibling_chance(rest: Law, proposal: Law, child: int) -> Fraction:
    """The chance that a child drawn from ``proposal`` stands; ``rest`` is what elder siblings left of the target."""
    return min(ONE, rest[child] / proposal[child])


def siblings_law(p: Law, q: Law, num_children: int) -> Law:
    """The law of the token behind a node whose children were drawn from q one by one, without replacement."""
    law = [ZERO] * len(p)

    def walk(rest: Law, proposal: Law, chance: Fraction, left: int) -> None:
        if not left or not sum(proposal):
            for token, r in enumerate(rest):
                law[token] += chance * r
            return
        proposal = normalised(proposal)
        for child, drawn in enumerate(proposal):
            if not drawn:
                continue
            passes = sibling_chance(rest, proposal, child)
            law[child] += chance * drawn * passes
            if passes < 1:
                refused = normalised(excess(rest, proposal))
                without = [ZERO if i == child else w for i, w in enumerate(proposal)]
                walk(refused, without, chance * drawn * (1 - passes), left - 1)

    walk(p, q, ONE, num_children)
    return law
