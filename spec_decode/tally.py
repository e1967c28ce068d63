"""What speculation did, in plain ints: for one request, and for all, under the names of ``actors.stats``. No torch."""

from ..engine.types import SpeculationStats

MAX_SAMPLES = 4096


class RequestTally:
    """One request. A step counts when at least one draft was verified in it."""

    __slots__ = ("accepted", "ahead_hits", "ahead_misses", "drafted", "histogram", "num_stale", "steps")

    def __init__(self, num_spec_tokens: int, *, detail: bool) -> None:
        self.histogram = [0] * (num_spec_tokens + 1)
        self.drafted: dict[str, int] = {}
        self.accepted: dict[str, int] = {}
        self.num_stale = 0
        self.ahead_hits = 0
        self.ahead_misses = 0
        self.steps: list[tuple[int, int]] | None = [] if detail else None

    def verified(self, method: str, num_drafts: int, num_accepted: int) -> None:
        """One step of this request."""
        self.histogram[num_accepted] += 1
        self.drafted[method] = self.drafted.get(method, 0) + num_drafts
        self.accepted[method] = self.accepted.get(method, 0) + num_accepted
        if self.steps is not None:
            self.steps.append((num_accepted, num_drafts))

    def report(self, off_reason: str | None = None) -> SpeculationStats | None:
        """None where no step counted."""
        if not self.drafted:
            return None
        return SpeculationStats(
            len(self.histogram) - 1,
            list(self.histogram),
            sum(self.drafted.values()),
            dict(self.drafted),
            dict(self.accepted),
            self.num_stale,
            self.ahead_hits,
            self.ahead_misses,
            None if self.steps is None else [accepted for accepted, _ in self.steps],
            None if self.steps is None else [drafted for _, drafted in self.steps],
            off_reason,
        )


class Tally:
    """All requests. ``values`` are cumulative, ``samples`` are those since they were last taken."""

    def __init__(self, methods: list[str], max_draft_tokens: int) -> None:
        names = ("spec_drafts", "spec_draft_tokens", "spec_accepted_tokens", "spec_faults")
        self.values: dict[str, float] = {f"{name}/{method}": 0 for name in names for method in methods}
        self.values |= {f"spec_accepted_per_pos/{m}/{j}": 0 for m in methods for j in range(max_draft_tokens)}
        self.values |= {"spec_ahead_hits": 0, "spec_ahead_misses": 0, "spec_jit": 0, "spec_disabled_state/policy": 0}
        self._samples: dict[str, list[float]] = {}

    def add(self, key: str, num: float = 1) -> None:
        """Count."""
        self.values[key] = self.values.get(key, 0) + num

    def sample(self, key: str, value: float) -> None:
        """One observation of a histogram; those beyond a report's bound are dropped."""
        samples = self._samples.setdefault(key, [])
        if len(samples) < MAX_SAMPLES:
            samples.append(value)

    def verified(self, method: str, num_drafts: int, num_accepted: int) -> None:
        """One step of one request."""
        self.add(f"spec_drafts/{method}")
        self.add(f"spec_draft_tokens/{method}", num_drafts)
        self.add(f"spec_accepted_tokens/{method}", num_accepted)
        for position in range(num_accepted):
            self.add(f"spec_accepted_per_pos/{method}/{position}")

    def take_samples(self) -> dict[str, list[float]]:
        """And forget them."""
        samples, self._samples = self._samples, {}
        return samples
