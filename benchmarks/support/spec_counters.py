"""What speculation did between two moments: from /metrics, and from what each answer tells of its steps."""

from collections.abc import Iterable, Mapping, Sequence
from typing import Any, NamedTuple

from prometheus_client.parser import text_string_to_metric_families

_EVERYWHERE = ("model_name", "engine")
_VLLM = "vllm:spec_decode_num"

Counters = Mapping[str, float]
"""Sample name, with ``/value`` behind it for each label that tells samples of one name apart."""


def parse(text: str) -> Counters:
    """All samples of a Prometheus text but histogram buckets."""
    found: dict[str, float] = {}
    for family in text_string_to_metric_families(text):
        for sample in family.samples:
            if "le" not in sample.labels:
                values = [value for name, value in sample.labels.items() if name not in _EVERYWHERE]
                found["/".join([sample.name, *values])] = sample.value
    return found


class Steps(NamedTuple):
    """Steps of the target, and what lay between them, in seconds."""

    num: int
    mean_s: float
    mean_pause_s: float
    """Before a step with drafts: from the result before it to its start, the wait for drafts included."""
    propose_s: dict[str, float]
    """By method: one round of proposals as the scheduler sees it, without waiting for another process."""


class Acceptance(NamedTuple):
    """Drafts and what came of them."""

    length_all: float
    """Committed tokens of a request's step, over all steps; its first token included."""
    length_speculating: float
    """The same over steps in which drafts were verified: 1 + accepted / such steps. 0 where there were none."""
    share_speculating: float
    """Of all steps."""
    unconditional: list[float]
    """By position: accepted up to there / steps with drafts."""
    conditional: list[float]
    """By position: accepted / ``reached``."""
    reached: list[int]
    """By position: steps that had a draft there with all before it accepted."""
    drafted: int
    accepted: int
    drafted_by: dict[str, int]
    accepted_by: dict[str, int]
    stale: dict[str, int]
    """Drafts dropped before any step, by reason."""
    ahead_hits: int
    ahead_misses: int

    @property
    def wasted(self) -> int:
        """Verified and refused."""
        return self.drafted - self.accepted


def difference(before: Counters, after: Counters) -> Counters:
    """What was counted in between."""
    return {name: value - before.get(name, 0.0) for name, value in after.items()}


def steps(counts: Counters) -> Steps:
    """See ``Steps``; counts are differences."""
    name = "paceline_spec_propose_seconds"
    methods = _by_label(counts, f"{name}_count")
    return Steps(
        int(counts.get("paceline_step_time_seconds_count", 0)),
        _mean(counts, "paceline_step_time_seconds"),
        _mean(counts, "paceline_spec_step_overhead_seconds"),
        {method: _mean(counts, name, f"/{method}") for method, num in methods.items() if num},
    )


def acceptance(counts: Counters, told: Iterable[Mapping[str, Any]]) -> Acceptance:
    """From counts between two moments, and each answer's ``metrics.speculative_decoding`` with its steps in detail."""
    num_tokens = counts.get("vllm:generation_tokens_total", 0)
    num_steps = int(counts.get(f"{_VLLM}_drafts_total", 0))
    drafted = int(counts.get(f"{_VLLM}_draft_tokens_total", 0))
    accepted = int(counts.get(f"{_VLLM}_accepted_tokens_total", 0))
    by_position = _by_label(counts, f"{_VLLM}_accepted_tokens_per_pos_total")
    positions = [by_position[key] for key in sorted(by_position, key=int)]
    chances, reached = conditional(told)
    rows = num_tokens - accepted  # each step of a request commits one token of the target's own
    return Acceptance(
        num_tokens / rows if rows else 0.0,
        1 + accepted / num_steps if num_steps else 0.0,
        num_steps / rows if rows else 0.0,
        _trimmed([num / num_steps for num in positions]) if num_steps else [],
        chances,
        reached,
        drafted,
        accepted,
        _by_label(counts, "paceline_spec_draft_tokens_total"),
        _by_label(counts, "paceline_spec_accepted_tokens_total"),
        _by_label(counts, "paceline_spec_stale_drafts_total"),
        int(counts.get("paceline_spec_ahead_hits_total", 0)),
        int(counts.get("paceline_spec_ahead_misses_total", 0)),
    )


def conditional(told: Iterable[Mapping[str, Any]]) -> tuple[list[float], list[int]]:
    """By position: the chance of a draft there when all before it were accepted, and how often that was tried.

    Steps may differ in depth, which the counters of /metrics do not tell.
    """
    reached: list[int] = []
    kept: list[int] = []
    for answer in told:
        for num_accepted, num_drafted in zip(answer["per_step_accepted"], answer["per_step_drafted"], strict=True):
            while len(reached) < num_drafted:
                reached.append(0)
                kept.append(0)
            for position in range(min(num_accepted + 1, num_drafted)):
                reached[position] += 1
                kept[position] += position < num_accepted
    reached = [num for num in reached if num]
    return [k / r for k, r in zip(kept, reached, strict=False)], reached


def _mean(counts: Counters, name: str, label: str = "") -> float:
    num = counts.get(f"{name}_count{label}", 0)
    return counts[f"{name}_sum{label}"] / num if num else 0.0


def _by_label(counts: Counters, name: str) -> dict[str, int]:
    start = f"{name}/"
    return {key.removeprefix(start): int(value) for key, value in counts.items() if key.startswith(start)}


def _trimmed(values: Sequence[float]) -> list[float]:
    """Without the zeros at the end: positions that no step had."""
    end = max((place for place, value in enumerate(values, 1) if value), default=0)
    return list(values[:end])
