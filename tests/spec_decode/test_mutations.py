"""Each known way to get speculation wrong, applied on purpose: the check that guards against it must turn red.

The list is ``MUTATIONS``, one line each; every check is green without its mutation. Kernel mutations are seen by the
law of Markov chains (``spec_windows.py``), the others by texts that change.
"""

import math
from collections.abc import Callable
from typing import Any

import pytest
import torch
from naive import judge
from outside import chaos_speculator
from repeating_model import Loop
from simulation import simulate
from spec_engine import Engine, config
from spec_windows import Cut, Setting, surprise, texts

from paceline.engine.config import Speculation
from paceline.engine.core.scheduler import Scheduler
from paceline.engine.execution import sampler
from paceline.engine.types import SamplingParams
from paceline.kernels import noise, ops
from paceline.kernels.linear_int8 import reference as linear_int8
from paceline.kernels.verify import cpu
from paceline.spec_decode.proposer import Proposer

Patch = Callable[[pytest.MonkeyPatch], None]
Check = Callable[[], bool]
CHAOS = "outside.chaos_speculator"
ALPHA, NUM_SEEDS = 1e-6, 60_000


def no_residual(m: pytest.MonkeyPatch) -> None:
    """The token behind a refusal is drawn from p."""
    m.setattr(cpu, "_residual", lambda logits, *_: logits)


def accept_on(stream: int) -> Patch:
    """u is the noise with which id 0 was, or will be, drawn in another stream."""

    def patch(m: pytest.MonkeyPatch) -> None:
        keys = noise.keys

        def uniforms(seeds: Any, positions: Any, _: Any, windows: Any) -> torch.Tensor:
            return 1.0 - (-noise.exponentials(keys(seeds, positions, stream, windows), positions, 1)[:, 0]).exp()

        m.setattr(noise, "uniforms", uniforms)

    return patch


def residual_on_the_drafts_noise(m: pytest.MonkeyPatch) -> None:
    m.setattr(noise, "RESIDUAL", noise.DRAFT)


def everything_on_the_targets_noise(m: pytest.MonkeyPatch) -> None:
    m.setattr(noise, "keys", lambda seeds, *_: seeds)


def accept_if_equal(m: pytest.MonkeyPatch) -> None:
    """A draw from p that shares nothing with the draft equals it with chance p(x)."""
    known = cpu._judge
    m.setattr(cpu, "_judge", lambda p, q, hit, *rest: known(p, hit.double(), hit, *rest))


def no_window(m: pytest.MonkeyPatch) -> None:
    """Noise keyed by position alone: a refused tail's is used again."""
    words = noise._words
    m.setattr(noise, "_words", lambda groups, seeds, places, stream, w: words(groups, seeds, places, stream, w * 0))


def stop_at_the_first_failure(m: pytest.MonkeyPatch) -> None:
    """Block must look at every draft."""
    m.setattr(cpu, "_up_to_the_last_pass", cpu._before_the_first_failure)


def unscaled_residual(m: pytest.MonkeyPatch) -> None:
    """Block's residual is that of rho p, not of p."""
    known = cpu._judge

    def without_scale(*args: Any) -> tuple[torch.Tensor, torch.Tensor]:
        num, scale = known(*args)
        return num, torch.ones_like(scale)

    m.setattr(cpu, "_judge", without_scale)


def nothing(m: pytest.MonkeyPatch) -> None:
    """The mutation is in the experiment itself."""


def one_context_for_all_rows(m: pytest.MonkeyPatch) -> None:
    """Penalties, bad words and the least length as of the first row."""

    def edit(rows: Any, ask: sampler.Ask) -> None:
        assert ask.held.edits is not None
        for row in rows:
            ask.held.edits.apply(row, ask.context[: len(ask.context) - len(ask.draft_ids)])

    m.setattr(sampler, "_edit_chain", edit)


def nothing_told_at_depth_0(m: pytest.MonkeyPatch) -> None:
    """Tokens of rows without drafts never reach the speculators."""
    applied = Proposer.applied

    def deaf(self: Proposer, plan: Any, result: Any, outputs: Any) -> None:
        applied(self, plan, result, outputs)
        for row in plan.rows:
            if not row.draft_ids and row.request_id in self._live:
                self._live[row.request_id].pending.clear()

    m.setattr(Proposer, "applied", deaf)


def publish_what_is_not_computed(m: pytest.MonkeyPatch) -> None:
    """The newest token has no KV yet: its slot holds what a refused draft left there, or nothing."""
    advance = Scheduler._advance

    def early(self: Scheduler, request: Any, num_computed: int) -> None:
        advance(self, request, num_computed)
        request.num_computed = len(request.tokens)
        self._tables.publish(request)
        request.num_computed = num_computed

    m.setattr(Scheduler, "_advance", early)


def one_scale_for_all_rows(m: pytest.MonkeyPatch) -> None:
    """Activations quantised by the largest of the whole batch."""

    def quantise(x: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        most = x.abs().max()
        groups = linear_int8._groups(x)
        return torch.round(groups * (127.0 / most)), torch.full(groups.shape[:2], float(most) / 127.0)

    m.setattr(linear_int8, "quantise", quantise)


# --- checks: True = all is well ---------------------------------------------------------------------------------------


def table(size: int, seed: int, scale: float) -> torch.Tensor:
    return torch.randn(size + 1, size, generator=torch.Generator().manual_seed(seed)) * scale


def lawful(rule: str, length: int = 4, num_seeds: int = NUM_SEEDS, **changes: Any) -> Check:
    """Texts over several windows follow the target's law."""
    size, scale = (8, 1.5) if changes else (3, 1.0)
    depth = 2 if changes else 3
    setting = Setting(table(size, 1, scale), table(size, 2, scale).softmax(-1), rule, depth=depth, **changes)
    return lambda: surprise(texts(setting, length, num_seeds), setting) > ALPHA


def lawful_in_bf16(rule: str) -> Check:
    """Drafts are drawn from bf16 numbers, and weighed in fp32."""
    told = table(16, 2, 1.5) + 40.0
    drawn_from = told.bfloat16().float().softmax(-1)
    setting = Setting(table(16, 1, 1.5), told.softmax(-1), rule, drawn_from=drawn_from)
    return lambda: surprise(texts(setting, 1), setting) > ALPHA


def by_own_value(drafts: torch.Tensor, chances: torch.Tensor) -> torch.Tensor:
    return (drafts % 3 != 2).long().cumprod(-1).sum(-1)


def served(*waves: dict[str, tuple[list[int], SamplingParams]], section: Speculation) -> bool:
    """All texts are right, drafts were accepted, and no speculator was switched off."""
    model = Loop(seed=5)
    asked = {name: work for wave in waves for name, work in wave.items()}
    right = {name: judge(model, *work, dtype=torch.float32).token_ids for name, work in asked.items()}
    chaos_speculator.ANSWERS.clear()
    chaos_speculator.ANSWERS.update({name: [*asked[name][0], *ids] for name, ids in right.items()})

    async def main() -> bool:
        async with Engine(config(section), model=model, num_blocks=600) as engine:
            for wave in waves:
                for name, work in wave.items():
                    engine.add(name, *work)
                await engine.finish()
            stats = engine.scheduler.stats()
            assert stats is not None
            is_well = not stats.values.get("spec_disabled_state/fault")
            is_used = stats.values["spec_decode_num_accepted_tokens"] > 0
            return is_well and is_used and all(engine.tokens(name) == ids for name, ids in right.items())

    return simulate(main)


def chaos(**keys: Any) -> Speculation:
    return Speculation(**{"methods": [CHAOS], "policy": "fixed", "settings": {CHAOS: {"right": 0.8}}, **keys})


def edits_see_their_row() -> bool:
    """Penalties, and many words of two tokens that must not be completed."""
    words = [[a, b] for a in range(11) for b in range(0, 11, 3)]
    work = {f"p{i}": ([7, 3, i], SamplingParams(max_tokens=30, seed=i, frequency_penalty=2.0)) for i in range(6)}
    work |= {f"w{i}": ([7, 3, i], SamplingParams(max_tokens=30, seed=i, bad_words=words)) for i in range(6)}
    return served(work, section=chaos())


def speculators_hear_everything() -> bool:
    """With two requests depth is 0; when one has gone, the other's drafts must know what came meanwhile."""
    work = {f"r{i}": ([7, 3, 9], SamplingParams(max_tokens=20 + 30 * i, temperature=0.0)) for i in range(2)}
    return served(work, section=chaos(policy="table", table=[(1, 1, 4)]))


def warm_blocks_are_right() -> bool:
    """A second wave begins with the first one's texts, which fill their blocks."""
    model = Loop(seed=5)
    first = {f"a{i}": ([7, 3, i], SamplingParams(max_tokens=29, seed=i)) for i in range(8)}
    second = {}
    for i, (prompt, params) in enumerate(first.values()):
        text = judge(model, prompt, params, dtype=torch.float32).token_ids
        second[f"b{i}"] = [*prompt, *text, i], SamplingParams(max_tokens=8, seed=i)
    return served(first, second, section=chaos())


def rows_alone_are_rows_together() -> bool:
    rng = torch.Generator().manual_seed(1)
    x, weight = torch.randn(5, 64, generator=rng), torch.randn(8, 64, generator=rng)
    x[3] *= 30  # the outlier
    packed = linear_int8.pack(weight)
    together = linear_int8.run(x, packed, 8)
    return all(torch.equal(linear_int8.run(x[i : i + 1], packed, 8)[0], together[i]) for i in range(5))


def shared_noise_agrees() -> bool:
    """Drafts of the same noise agree with the target at least as often as (1 - TV) / (1 + TV)."""
    n, rng = 20_000, torch.Generator().manual_seed(2)
    p = torch.randn(16, generator=rng)
    q = p + 0.4 * torch.randn(16, generator=rng)
    seeds, positions, warm = torch.arange(n), torch.full((n,), 7), torch.ones(n)
    drafts = ops.sample(q.expand(n, 16).contiguous(), warm, drafting_keys(seeds, positions), positions)
    own = ops.sample(p.expand(n, 16).contiguous(), warm, seeds, positions)
    tv = 0.5 * float((p.softmax(-1) - q.softmax(-1)).abs().sum())
    bound = (1 - tv) / (1 + tv)
    return float((drafts == own).double().mean()) > bound - 5 * math.sqrt(bound * (1 - bound) / n)


def drafting_keys(seeds: torch.Tensor, positions: torch.Tensor) -> torch.Tensor:
    """Under what a drafter of the coupled rule draws."""
    return seeds


def drafts_on_their_own_noise(m: pytest.MonkeyPatch) -> None:
    """Correct under coupled, but quietly slow."""
    m.setitem(globals(), "drafting_keys", lambda seeds, positions: noise.keys(seeds, positions, noise.DRAFT, positions))


MUTATIONS: dict[str, tuple[Patch, Check]] = {
    "skip the residual, token": (no_residual, lawful("token")),
    "skip the residual, block": (no_residual, lawful("block")),
    "share a stream: accept and draft, token": (accept_on(noise.DRAFT), lawful("token")),
    "share a stream: accept and draft, block": (accept_on(noise.DRAFT), lawful("block")),
    "share a stream: accept and residual, token": (accept_on(noise.RESIDUAL), lawful("token")),
    "share a stream: accept and residual, block": (accept_on(noise.RESIDUAL), lawful("block")),
    "share a stream: residual and draft, token": (residual_on_the_drafts_noise, lawful("token")),
    "share a stream: residual and draft, block": (residual_on_the_drafts_noise, lawful("block")),
    "share a stream: everything, token": (everything_on_the_targets_noise, lawful("token")),
    "share a stream: everything, block": (everything_on_the_targets_noise, lawful("block")),
    "drop the window key, block": (no_window, lawful("block")),
    "next token from p_k, token": (nothing, lawful("token", 3, wrong_place=True)),
    "next token from p_k, block": (nothing, lawful("block", 3, wrong_place=True)),
    "accept if equal with independent noise, token": (accept_if_equal, lawful("token")),
    "accept if equal with independent noise, block": (accept_if_equal, lawful("block")),
    "accept if equal with independent noise, coupled": (drafts_on_their_own_noise, shared_noise_agrees),
    "stop at the first refusal, block": (stop_at_the_first_failure, lawful("block")),
    "residual of p, block": (unscaled_residual, lawful("block")),
    "penalties not per row": (one_context_for_all_rows, edits_see_their_row),
    "q in bf16, token": (nothing, lawful_in_bf16("token")),
    "q in bf16, block": (nothing, lawful_in_bf16("block")),
    "drop x_i by its own value, token": (nothing, lawful("token", 2, cut=by_own_value)),
    "drop x_i by its own value, block": (nothing, lawful("block", 2, cut=by_own_value)),
    "no observe at depth 0": (nothing_told_at_depth_0, speculators_hear_everything),
    "publish a block holding drafts": (publish_what_is_not_computed, warm_blocks_are_right),
    "per-tensor activation scale": (one_scale_for_all_rows, rows_alone_are_rows_together),
}


@pytest.mark.parametrize("name", MUTATIONS)
def test_mutation_turns_its_check_red(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    patch, check = MUTATIONS[name]
    patch(monkeypatch)
    assert not check()


GREEN = {check.__name__: check for patch, check in MUTATIONS.values() if check.__name__ != "<lambda>"}


@pytest.mark.parametrize("name", GREEN)
def test_check_is_green_by_itself(name: str) -> None:
    assert GREEN[name]()


@pytest.mark.parametrize("rule", ["token", "block"])
def test_law_is_kept_by_itself(rule: str) -> None:
    assert lawful(rule)()


def test_token_needs_no_window(monkeypatch: pytest.MonkeyPatch) -> None:
    """It looks at nothing behind its first refusal."""
    no_window(monkeypatch)
    assert lawful("token")()


def test_earlier_values_may_choose() -> None:
    """The selection rule forbids a draft's own value only."""
    cut: Cut = lambda drafts, chances: torch.where(drafts[:, 0] == 2, 1, 2)  # noqa: E731
    assert lawful("block", 2, 200_000, cut=cut)()
