"""What the scheduler actor tells of itself, under the names of ``actors.stats``: its counts, and the core's gauges."""

from ..engine.core.scheduler import Scheduler
from .stats import MAX_OBSERVATIONS


class Counts:
    """Counters, cumulative, and samples since they were last taken."""

    def __init__(self) -> None:
        self.values: dict[str, float] = {}
        self._samples: dict[str, list[float]] = {}

    def add(self, key: str, amount: float = 1) -> None:
        """Add to a counter."""
        self.values[key] = self.values.get(key, 0) + amount

    def sample(self, key: str, value: float) -> None:
        """One sample of a histogram; those beyond ``MAX_OBSERVATIONS`` are dropped."""
        samples = self._samples.setdefault(key, [])
        if len(samples) < MAX_OBSERVATIONS:
            samples.append(value)

    def take_samples(self) -> dict[str, list[float]]:
        """The samples, which are then forgotten."""
        samples, self._samples = self._samples, {}
        return samples


def gauges(scheduler: Scheduler) -> dict[str, float]:
    """The core's state now, and what it counts."""
    core, total = scheduler.stats(), scheduler.config.num_blocks
    slots = core.num_allocated_slots
    return {
        "num_requests_running": core.num_running,
        "num_requests_waiting": core.num_waiting,
        "kv_cache_usage_perc": core.num_used_blocks / total,
        "kv_blocks_total": total,
        "kv_blocks_free": total - core.num_used_blocks,
        "kv_waste_ratio": 1 - core.num_filled_slots / slots if slots else 0.0,
        "prefix_cache_queries": core.prefix_query_tokens,
        "prefix_cache_hits": core.prefix_hit_tokens,
        "num_preemptions": core.num_preemptions,
    }
