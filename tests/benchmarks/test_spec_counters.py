"""Figures from counters: hand-made texts whose answers are known."""

import pytest
from spec_counters import acceptance, conditional, difference, parse, steps

LABELS = 'engine="0",model_name="m"'


def text(*, drafts: int, drafted: int, accepted: list[int], tokens: int) -> str:
    """/metrics as a server would write it; ``accepted`` by position."""
    lines: list[str] = []
    for name, value in (
        ("vllm:spec_decode_num_drafts", drafts),
        ("vllm:spec_decode_num_draft_tokens", drafted),
        ("vllm:spec_decode_num_accepted_tokens", sum(accepted)),
        ("vllm:generation_tokens", tokens),
    ):
        lines += [f"# TYPE {name} counter", f"{name}_total{{{LABELS}}} {value}"]
    lines += ["# TYPE vllm:spec_decode_num_accepted_tokens_per_pos counter"]
    per_pos = "vllm:spec_decode_num_accepted_tokens_per_pos_total"
    lines += [f'{per_pos}{{{LABELS},position="{place}"}} {value}' for place, value in enumerate(accepted)]
    lines += ["# TYPE paceline_step_time_seconds histogram"]
    lines += [
        f'paceline_step_time_seconds_bucket{{{LABELS},le="+Inf"}} 4',
        f"paceline_step_time_seconds_sum{{{LABELS}}} 2",
    ]
    lines += [f"paceline_step_time_seconds_count{{{LABELS}}} 4"]
    return "\n".join(lines) + "\n"


def test_lengths_and_chances_from_two_moments() -> None:
    before = parse(text(drafts=100, drafted=400, accepted=[90, 80, 70, 60], tokens=1000))
    after = parse(text(drafts=110, drafted=430, accepted=[98, 84, 71, 60], tokens=1033))
    got = acceptance(difference(before, after), [])
    # 33 tokens, 13 of them drafts: 20 steps, 10 with drafts
    assert got.length_all == pytest.approx(33 / 20)
    assert got.length_speculating == pytest.approx(1 + 13 / 10)
    assert got.share_speculating == pytest.approx(0.5)
    assert got.unconditional == pytest.approx([0.8, 0.4, 0.1])
    assert (got.drafted, got.accepted, got.wasted) == (30, 13, 17)


def test_conditional_chances_count_only_steps_that_came_so_far() -> None:
    told = [
        {"per_step_accepted": [2, 0, 1], "per_step_drafted": [2, 1, 4]},
        {"per_step_accepted": [4], "per_step_drafted": [4]},
    ]
    chances, reached = conditional(told)
    assert reached == [4, 3, 1, 1]
    assert chances == pytest.approx([3 / 4, 2 / 3, 1.0, 1.0])


def test_without_speculation_nothing_is_claimed() -> None:
    off = acceptance(parse(text(drafts=0, drafted=0, accepted=[], tokens=40)), [])
    assert (off.length_all, off.length_speculating, off.drafted) == (1.0, 0.0, 0)
    assert off.unconditional == off.conditional == []


def test_step_times_are_means_and_buckets_are_left_out() -> None:
    counts = parse(text(drafts=0, drafted=0, accepted=[], tokens=4))
    assert steps(counts).num == 4 and steps(counts).mean_s == pytest.approx(0.5)
    assert not [name for name in counts if "bucket" in name]
