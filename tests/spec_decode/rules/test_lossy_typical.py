"""Typical acceptance: what stands, and that it is lossy, says so, and is reached by name alone."""

import logging
from pathlib import Path

import msgspec
import pytest
import torch
from spec_windows import p_value

from paceline.actors import speculation
from paceline.engine import config as configs
from paceline.engine import plugins
from paceline.engine.config import Config, Speculation
from paceline.engine.core.limits import CoreConfig
from paceline.engine.execution.acceptance import Accepted, VerifyBatch
from paceline.kernels import ops
from paceline.spec_decode.rules import lossy_typical

SIZE = 16
rule = lossy_typical.build()


def batch(
    laws: list[list[float]], drafts: list[int], temperature: float = 1.0, parents: list[int] | None = None
) -> VerifyBatch:
    """One row over the laws behind the root and behind each draft."""
    n = len(laws)
    logits = torch.tensor(laws).log()
    where = torch.arange(n) + 5
    keys = torch.full((n,), temperature), torch.full((n,), 3), where
    return VerifyBatch(logits, *keys, [0, n], [drafts], [parents])


def drawn(given: VerifyBatch, place: int) -> int:
    return ops.sample(given.logits, given.temperatures, given.seeds, given.positions).tolist()[place]


def test_where_the_target_is_sure_only_the_likely_stands() -> None:
    """Entropy of (0.95, 0.05) is 0.199: the bound is min(0.09, 0.246)."""
    sure = [0.95, 0.05]
    for draft, num in ((0, 1), (1, 0)):
        given = batch([sure, sure], [draft])
        next_token = drawn(given, num)
        assert rule.accept(given) == [Accepted([draft, next_token][1 - num :], num)]


def test_where_the_target_is_unsure_less_is_asked() -> None:
    """Sixteen equal chances of 0.0625 have entropy log 16: the bound is 0.3 / 16."""
    even = [1 / SIZE] * SIZE
    given = batch([even] * 4, [3, 9, 0])
    assert rule.accept(given) == [Accepted([3, 9, 0, drawn(given, 3)], 3)]


def test_a_run_ends_at_its_first_untypical_draft() -> None:
    even, sure = [0.5, 0.5], [1.0, 0.0]
    given = batch([even, sure, even], [0, 1])
    assert rule.accept(given) == [Accepted([0, drawn(given, 1)], 1)]


@pytest.mark.parametrize("right", range(4))
def test_greedy_text_is_the_greedy_text(right: int) -> None:
    laws = torch.rand(4, SIZE, generator=torch.Generator().manual_seed(1)).softmax(-1).tolist()
    modes = [law.index(max(law)) for law in laws]
    chain = [*modes[:right], *((m + 1) % SIZE for m in modes[right:3])]
    assert rule.accept(batch(laws, chain, 0.0)) == [Accepted(modes[: right + 1], right)]


def test_of_a_tree_the_deepest_typical_path_stands() -> None:
    """Children 0, 1, 2 of the root, 3 and 4 below 0 and 2, 5 below 4; 1 is impossible, 3 too."""
    first, even = [0.4, 0.0, 0.6], [1 / 3] * 3
    sure = [1.0, 0.0, 0.0]
    laws = [first, sure, even, even, even, even, even]
    given = batch(laws, [0, 1, 2, 1, 2, 0], parents=[-1, -1, -1, 0, 2, 4])
    assert rule.accept(given) == [Accepted([2, 2, 0, drawn(given, 6)], 3, [2, 4, 5])]
    only = batch(laws[:3], [1, 1], parents=[-1, 0])
    assert rule.accept(only) == [Accepted([drawn(only, 0)], 0, [])]


def test_without_drafts_it_is_plain_decoding() -> None:
    given = batch([[0.2, 0.8]], [])
    assert rule.accept(given) == [Accepted([drawn(given, 0)], 0)]


def test_it_is_lossy_and_says_so() -> None:
    """The check that every lossless rule passes must fail here: an obliging drafter shifts the law."""
    n, law = 20_000, torch.tensor([0.4, 0.3, 0.2, 0.1])
    logits = law.log().expand(2 * n, 4).contiguous()
    seeds, where = torch.arange(n).repeat_interleave(2), torch.tensor([5, 6]).repeat(n)
    given = VerifyBatch(logits, torch.ones(2 * n), seeds, where, list(range(0, 2 * n + 1, 2)), [[2]] * n)
    first = torch.tensor([answer.token_ids[0] for answer in rule.accept(given)])
    assert p_value(torch.bincount(first, minlength=4), law.double()) == pytest.approx(0.0, abs=1e-12)
    assert not lossy_typical.LOSSLESS


# --- reached by name alone, and seen ----------------------------------------------------------------------------------

SIZES = CoreConfig(
    num_blocks=8, block_size=4, max_model_len=32, vocab_size=50, max_num_seqs=4, max_num_batched_tokens=8,
    max_in_flight=1,
)  # fmt: skip


def test_no_default_and_no_shipped_config_is_lossy() -> None:
    assert plugins.load("spec_decode.rules", Speculation().rule).LOSSLESS
    shipped = Path(configs.__file__).resolve().parents[1] / "configs"
    for path in shipped.glob("*.toml"):
        assert plugins.load("spec_decode.rules", configs.load(path, environ={}).speculation.rule).LOSSLESS


@pytest.mark.parametrize(("name", "is_lossless"), [("coupled", True), ("token", True), ("lossy_typical", False)])
def test_metrics_and_log_name_the_rule(name: str, is_lossless: bool, caplog: pytest.LogCaptureFixture) -> None:
    section = Speculation(methods=["ngram"], rule=name)
    with caplog.at_level(logging.WARNING):
        proposer = speculation.build(msgspec.structs.replace(Config(), speculation=section), SIZES, [(1, 0.01)])
    assert proposer is not None
    assert proposer.tally.values[f"spec_rule/{name}/{'yes' if is_lossless else 'no'}"] == 1
    assert ("lossy_typical" in caplog.text) is not is_lossless
