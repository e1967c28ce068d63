"""Thousands of seeds make texts through ``ops.verify`` at once; how likely their tables are under the exact law.

Target and drafter are Markov chains over V tokens: one line of logits, or of weights, for each previous token and one
more for the start.
"""

import itertools
from collections.abc import Callable
from dataclasses import dataclass
from typing import TypeAlias

import torch

from paceline.kernels import noise, ops
from paceline.kernels.verify import cpu

PROMPT = 3
"""Committed tokens before the first that is drawn: positions and windows start here."""
_SEEDS_AT_ONCE = 1 << 14
"""Their tensors stay in a core's cache."""

Cut: TypeAlias = Callable[[torch.Tensor, torch.Tensor], torch.Tensor]
"""(drafts [N, k], their chances [N, k]) -> how many are kept [N]."""


@dataclass
class Setting:
    """One experiment."""

    logits: torch.Tensor  # fp32 [V + 1, V], of the target, as processed
    weights: torch.Tensor  # fp32 [V + 1, V], what the verifier is told of the drafter
    rule: str
    depth: int = 2
    drawn_from: torch.Tensor | None = None  # fp32 [V + 1, V], what drafts are really drawn from; None = weights
    cut: Cut | None = None
    wrong_place: bool = False  # the next token behind all drafts is drawn from the law of the last draft's place

    @property
    def size(self) -> int:
        return self.logits.shape[1]


def texts(setting: Setting, length: int, num_seeds: int = 200_000, first_seed: int = 0) -> torch.Tensor:
    """Tokens int64 [num_seeds, length], of consecutive seeds."""
    seeds = torch.arange(first_seed, first_seed + num_seeds)
    return torch.cat([_some_texts(setting, length, part) for part in seeds.split(_SEEDS_AT_ONCE)])


def _some_texts(setting: Setting, length: int, seeds: torch.Tensor) -> torch.Tensor:
    text = torch.zeros(len(seeds), length + setting.depth + 1, dtype=torch.int64)
    done = torch.zeros_like(seeds)
    while len(active := torch.nonzero(done < length).flatten()):
        rows, at = text[active], done[active]
        last = torch.where(at > 0, rows.gather(1, (at - 1).clamp(min=0).unsqueeze(1))[:, 0], setting.size)
        drafts, decided = _window(setting, seeds[active], at + PROMPT, last)
        num = decided[:, 0]
        new = torch.nn.functional.pad(drafts, (0, 1)).scatter(1, num.unsqueeze(1), decided[:, 1:])
        text[active] = rows.scatter(1, at.unsqueeze(1) + torch.arange(setting.depth + 1), new)
        done[active] = at + num + 1
    return text[:, :length]


def _window(
    setting: Setting, seeds: torch.Tensor, base: torch.Tensor, last: torch.Tensor
) -> tuple[torch.Tensor, torch.Tensor]:
    """Draft and verify behind ``last`` [N] -> drafts [N, k], and the op's answer [N, 2]."""
    depth, told = setting.depth, setting.weights
    real = told if setting.drawn_from is None else setting.drawn_from
    before = [last]
    for i in range(depth):
        before.append(drawn(real[before[-1]], seeds, base + i, noise.DRAFT, base))
    state = torch.stack(before, dim=1)  # [N, k + 1], the token before each place
    drafts = state[:, 1:]
    kept = torch.full_like(last, depth)
    if setting.cut is not None:
        laws = told / told.sum(-1, keepdim=True)
        kept = setting.cut(drafts, laws[state[:, :-1], drafts])
    place = torch.arange(depth + 1).expand_as(state)
    used, behind = place <= kept.unsqueeze(1), place == kept.unsqueeze(1)
    ids = torch.where(behind, -1, torch.nn.functional.pad(drafts, (0, 1)))
    law_of = state
    if setting.wrong_place:
        law_of = torch.where(behind, state.gather(1, (place - 1).clamp(min=0)), state)
    count = int(used.sum())
    decided = cpu.run(
        setting.logits[law_of[used]],
        torch.ones(count),
        seeds.unsqueeze(1).expand_as(state)[used],
        (base.unsqueeze(1) + place)[used],
        ids[used],
        torch.arange(setting.size).expand(count, -1),
        told[state[used]],
        setting.rule,
    )
    return drafts, decided


def drawn(
    weights: torch.Tensor, seeds: torch.Tensor, positions: torch.Tensor, stream: int, windows: torch.Tensor
) -> torch.Tensor:
    """Ids int64 [N] drawn in proportion to weights [N, V] with a stream's noise."""
    keys = noise.keys(seeds, positions, stream, windows)
    return ops.sample(weights.float().log(), torch.ones(len(weights)), keys, positions)


def law(setting: Setting, length: int) -> torch.Tensor:
    """The target's law of the first ``length`` tokens, fp64 [V ** length], the last token counting fastest."""
    p = setting.logits.double().softmax(-1)
    cells = []
    for text in itertools.product(range(setting.size), repeat=length):
        before = (setting.size, *text)
        chance = 1.0
        for a, b in itertools.pairwise(before):
            chance *= float(p[a, b])
        cells.append(chance)
    return torch.tensor(cells, dtype=torch.float64)


def surprise(tokens: torch.Tensor, setting: Setting) -> float:
    """The p-value of chi-square for the joint table of ``tokens`` [N, length] against the target's law."""
    size, length = setting.size, tokens.shape[1]
    cell = torch.zeros(len(tokens), dtype=torch.int64)
    for i in range(length):
        cell = cell * size + tokens[:, i]
    return p_value(torch.bincount(cell, minlength=size**length), law(setting, length))


def p_value(counts: torch.Tensor, chances: torch.Tensor) -> float:
    """Chi-square of counts [cells] against their law; cells that expect fewer than 5 are merged, the rarest first."""
    expected = chances * float(counts.sum())
    if bool((counts[expected == 0] > 0).any()):
        return 0.0
    order = expected.argsort()
    expected, seen = expected[order], counts[order].double()
    total = expected.cumsum(0)
    num_merged = int((expected < 5).sum())
    while num_merged and num_merged < len(expected) and 0 < total[num_merged - 1] < 5:
        num_merged += 1
    if num_merged:
        expected = torch.cat([expected[:num_merged].sum(0, keepdim=True), expected[num_merged:]])
        seen = torch.cat([seen[:num_merged].sum(0, keepdim=True), seen[num_merged:]])
    expected, seen = expected[expected > 0], seen[expected > 0]
    if len(expected) < 2:
        return 1.0
    statistic = ((seen - expected) ** 2 / expected).sum()
    return float(torch.special.gammaincc(torch.tensor((len(expected) - 1) / 2, dtype=torch.float64), statistic / 2))
