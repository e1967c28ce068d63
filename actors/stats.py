"""Actors' plain counters -> Prometheus text. One registry, in the gateway; names, labels and buckets are vLLM's.

An actor counts into ints and sends a ``Stats`` now and then; keys are those of ``METRICS``, with ``/value`` behind them
for each label of the metric. Counters of a restarted actor go on where the dead one's ended.
"""

from bisect import bisect_left
from collections.abc import Iterable, Iterator
from typing import Literal, NamedTuple

from prometheus_client import CollectorRegistry, generate_latest
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, HistogramMetricFamily, Metric

from .messages import EngineState, Stats

CONTENT_TYPE = "text/plain; version=0.0.4; charset=utf-8"
MAX_OBSERVATIONS = 4096
"""Histogram samples of one name in one ``Stats``; more are dropped by the sender."""

_FIRST_TOKEN_S = (
    0.001, 0.005, 0.01, 0.02, 0.04, 0.06, 0.08, 0.1, 0.25, 0.5, 0.75, 1.0, 2.5, 5.0, 7.5, 10.0, 20.0, 40.0, 80.0,
    160.0, 640.0, 2560.0,
)  # fmt: skip
_TOKEN_S = (
    0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.075, 0.1, 0.15, 0.2, 0.3, 0.4, 0.5, 0.75, 1.0, 2.5, 5.0, 7.5, 10.0,
    20.0, 40.0, 80.0,
)  # fmt: skip
_REQUEST_S = (
    0.3, 0.5, 0.8, 1.0, 1.5, 2.0, 2.5, 5.0, 10.0, 15.0, 20.0, 30.0, 40.0, 50.0, 60.0, 120.0, 240.0, 480.0, 960.0,
    1920.0, 7680.0,
)  # fmt: skip
_TOKENS = (
    1, 2, 5, 10, 20, 50, 100, 200, 500, 1000, 2000, 5000, 10000, 20000, 50000, 100000, 200000,
)  # fmt: skip
_SPEC_S = (0.00001, 0.00002, 0.00005, 0.0001, 0.0002, 0.0005, 0.001, 0.002, 0.005, 0.01, 0.02)
_HTTP_S = (0.01, 0.025, 0.05, 0.075, 0.1, 0.25, 0.5, 0.75, 1.0, 2.5, 5.0, 10.0, 30.0, 60.0, 120.0, 600.0)


class MetricKind(NamedTuple):
    """What one key means on the wire and to Prometheus."""

    kind: Literal["gauge", "counter", "histogram"]
    name: str
    """Full name; Prometheus appends ``_total`` to counters."""
    text: str
    labels: tuple[str, ...] = ()
    buckets: tuple[float, ...] = ()
    is_optional: bool = False
    """Shown once it was reported, not at 0 before."""


def _histogram(name: str, text: str, buckets: tuple[float, ...], labels: tuple[str, ...] = ()) -> MetricKind:
    return MetricKind("histogram", name, text, labels, buckets)


def _spec(name: str, text: str, *labels: str, kind: Literal["gauge", "counter"] = "counter") -> MetricKind:
    """Of speculation: absent where it is not configured."""
    return MetricKind(kind, name, text, labels, is_optional=True)


def _spec_histogram(name: str, text: str, buckets: tuple[float, ...], *labels: str) -> MetricKind:
    return MetricKind("histogram", name, text, labels, buckets, is_optional=True)


METRICS: dict[str, MetricKind] = {
    "num_requests_running": MetricKind("gauge", "vllm:num_requests_running", "Requests in the running batch."),
    "num_requests_waiting": MetricKind("gauge", "vllm:num_requests_waiting", "Requests waiting to be planned."),
    "kv_cache_usage_perc": MetricKind("gauge", "vllm:kv_cache_usage_perc", "Share of KV blocks in use, 0 to 1."),
    "kv_blocks_total": MetricKind("gauge", "paceline_kv_blocks_total", "KV blocks of the pool."),
    "kv_blocks_free": MetricKind("gauge", "paceline_kv_blocks_free", "KV blocks free or only cached."),
    "kv_waste_ratio": MetricKind("gauge", "paceline_kv_waste_ratio", "Unfilled share of the allocated KV slots."),
    "prompt_tokens": MetricKind("counter", "vllm:prompt_tokens", "Prompt tokens of admitted requests."),
    "prompt_tokens_cached": MetricKind("counter", "vllm:prompt_tokens_cached", "Prompt tokens found in the cache."),
    "generation_tokens": MetricKind("counter", "vllm:generation_tokens", "Tokens generated."),
    "prefix_cache_queries": MetricKind("counter", "vllm:prefix_cache_queries", "Tokens looked up in the prefix cache."),
    "prefix_cache_hits": MetricKind("counter", "vllm:prefix_cache_hits", "Tokens found in the prefix cache."),
    "num_preemptions": MetricKind("counter", "vllm:num_preemptions", "Requests sent back to be recomputed."),
    "request_success": MetricKind("counter", "vllm:request_success", "Requests ended.", ("finished_reason",)),
    "admission_rejections": MetricKind("counter", "vllm:admission_rejections", "Requests refused.", ("reason",)),
    "iteration_tokens_total": _histogram("vllm:iteration_tokens_total", "Tokens of a step.", (
        1, 8, 16, 32, 64, 128, 256, 512, 1024, 2048, 4096, 8192, 16384)),
    "step_time": _histogram("paceline_step_time_seconds", "Time of a step on the device process.", _TOKEN_S),
    "time_to_first_token": _histogram("vllm:time_to_first_token_seconds", "Call to first token.", _FIRST_TOKEN_S),
    "inter_token_latency": _histogram("vllm:inter_token_latency_seconds", "Time between tokens.", _TOKEN_S),
    "request_time_per_output_token": _histogram(
        "vllm:request_time_per_output_token_seconds", "A request's mean time for each token.", _TOKEN_S),
    "e2e_request_latency": _histogram("vllm:e2e_request_latency_seconds", "Call to last token.", _REQUEST_S),
    "request_queue_time": _histogram("vllm:request_queue_time_seconds", "Arrival to first plan.", _REQUEST_S),
    "request_inference_time": _histogram("vllm:request_inference_time_seconds", "First plan to end.", _REQUEST_S),
    "request_prompt_tokens": _histogram("vllm:request_prompt_tokens", "Prompt tokens of a request.", _TOKENS),
    "request_generation_tokens": _histogram("vllm:request_generation_tokens", "Tokens a request got.", _TOKENS),
    "request_params_max_tokens": _histogram("vllm:request_params_max_tokens", "max_tokens asked for.", _TOKENS),
    "request_params_n": _histogram("vllm:request_params_n", "n asked for.", (1, 2, 5, 10, 20)),
    "http_requests": MetricKind("counter", "http_requests", "HTTP answers.", ("handler", "method", "status")),
    "http_request_duration": _histogram("http_request_duration_seconds", "HTTP times.", _HTTP_S, ("handler",)),
    "actor_up": MetricKind("gauge", "paceline_actor_up", "1 while the actor works.", ("actor",)),
    "actor_restarts": MetricKind("counter", "paceline_actor_restarts", "Starts after the first.", ("actor",)),
    "requests_replayed": MetricKind("counter", "paceline_requests_replayed", "Requests that went on after a death."),
    "log_lines_lost": MetricKind("counter", "paceline_log_lines_lost", "Log lines that nobody took.", ("actor",)),
    "wire_decode_errors": MetricKind("counter", "paceline_wire_decode_errors", "Bad frames received.", ("actor",)),
    "detokenize_repairs": MetricKind("counter", "paceline_detokenize_repairs", "Decoder states built anew."),
    "spec_decode_num_drafts": _spec("vllm:spec_decode_num_drafts", "Rows in which drafts were verified."),
    "spec_decode_num_draft_tokens": _spec("vllm:spec_decode_num_draft_tokens", "Drafts verified."),
    "spec_decode_num_accepted_tokens": _spec("vllm:spec_decode_num_accepted_tokens", "Drafts accepted."),
    "spec_decode_num_accepted_tokens_per_pos": _spec(
        "vllm:spec_decode_num_accepted_tokens_per_pos", "Drafts accepted, by position.", "position"),
    "spec_drafts": _spec("paceline_spec_drafts", "Rows in which drafts were verified.", "method"),
    "spec_draft_tokens": _spec("paceline_spec_draft_tokens", "Drafts verified.", "method"),
    "spec_accepted_tokens": _spec("paceline_spec_accepted_tokens", "Drafts accepted.", "method"),
    "spec_accepted_per_pos": _spec(
        "paceline_spec_accepted_per_pos", "Drafts accepted, by position.", "method", "position"),
    "spec_stale_drafts": _spec("paceline_spec_stale_drafts", "Drafts dropped unverified.", "reason"),
    "spec_ahead_hits": _spec("paceline_spec_ahead_hits", "Drafts made ahead of a result that it confirmed."),
    "spec_ahead_misses": _spec("paceline_spec_ahead_misses", "Drafts made ahead of a result that it refuted."),
    "spec_jit": _spec("paceline_spec_jit", "Steps that waited for drafts of a method that works ahead."),
    "spec_method": _spec(
        "paceline_spec_method", "What a method counts of itself.", "method", "count", kind="gauge"),
    "spec_faults": _spec("paceline_spec_faults", "Proposals against the rules, and failures.", "method"),
    "spec_disabled_state": _spec(
        "paceline_spec_disabled_state", "Not 0 while speculation rests.", "reason", kind="gauge"),
    "spec_rule": _spec(
        "paceline_spec_rule", "1 for the acceptance rule in use; a lossy one changes texts.", "rule", "lossless",
        kind="gauge"),
    "spec_k_chosen": _spec_histogram(
        "paceline_spec_k_chosen", "Drafts of a step for each decoding request.", (0.25, 0.5, 1, 2, 3, 4, 6, 8, 12, 16)),
    "spec_step_overhead": _spec_histogram(
        "paceline_spec_step_overhead_seconds", "Pause of the device before a step with drafts.", _SPEC_S),
    "spec_propose": _spec_histogram(
        "paceline_spec_propose_seconds", "Time of one round of proposals.", _SPEC_S, "method"),
}  # fmt: skip

_Labels = tuple[str, ...]


class Histogram:
    """Counts by upper bound."""

    __slots__ = ("bounds", "counts", "total")

    def __init__(self, bounds: tuple[float, ...]) -> None:
        self.bounds = bounds
        self.counts = [0] * (len(bounds) + 1)
        self.total = 0.0

    def observe(self, value: float) -> None:
        """Count one sample."""
        self.counts[bisect_left(self.bounds, value)] += 1
        self.total += value

    def cumulative(self) -> list[tuple[str, float]]:
        """(upper bound, samples up to it), as Prometheus wants them."""
        running = 0
        rows: list[tuple[str, float]] = []
        for bound, count in zip((*map(float, self.bounds), float("inf")), self.counts, strict=True):
            running += count
            rows.append(("+Inf" if bound == float("inf") else str(bound), running))
        return rows


class MetricsRegistry:
    """All metrics of one engine. Not thread-safe: it belongs to the gateway's event loop."""

    def __init__(self, model_name: str, engine: str = "0") -> None:
        self._common = {"model_name": model_name, "engine": engine}
        self._values: dict[str, dict[_Labels, float]] = {}
        self._histograms: dict[str, dict[_Labels, Histogram]] = {}
        self._last: dict[str, Stats] = {}
        self.num_unknown = 0
        """Keys of ``Stats`` that are not in ``METRICS``: a sender newer than we are."""
        self._registry = CollectorRegistry(auto_describe=False)
        self._registry.register(self)

    def inc(self, key: str, amount: float = 1, *labels: str) -> None:
        """Add to a counter of the gateway's own."""
        series = self._values.setdefault(key, {})
        series[labels] = series.get(labels, 0.0) + amount

    def set(self, key: str, value: float, *labels: str) -> None:
        """Set a gauge."""
        self._values.setdefault(key, {})[labels] = value

    def observe(self, key: str, value: float, *labels: str) -> None:
        """Count one sample of a histogram."""
        series = self._histograms.setdefault(key, {})
        if labels not in series:
            series[labels] = Histogram(METRICS[key].buckets)
        series[labels].observe(value)

    def take(self, stats: Stats) -> None:
        """Book an actor's report; an older epoch's is dropped."""
        last = self._last.get(stats.actor)
        if last is not None and stats.epoch < last.epoch:
            return
        before = last.values if last is not None and last.epoch == stats.epoch else {}
        self._last[stats.actor] = stats
        for name, value in stats.values.items():
            key, *labels = name.split("/")
            metric = METRICS.get(key)
            if metric is None or len(labels) != len(metric.labels) or metric.kind == "histogram":
                self.num_unknown += 1
            elif metric.kind == "gauge":
                self.set(key, value, *labels)
            else:
                self.inc(key, max(0.0, value - before.get(name, 0.0)), *labels)
        for name, samples in stats.observations.items():
            key, *labels = name.split("/")
            metric = METRICS.get(key)
            if metric is None or len(labels) != len(metric.labels) or metric.kind != "histogram":
                self.num_unknown += 1
                continue
            for sample in samples[:MAX_OBSERVATIONS]:
                self.observe(key, sample, *labels)

    def take_state(self, state: EngineState) -> None:
        """Book which actors are up, and their restarts."""
        for actor in state.actors:
            self.set("actor_up", float(actor.state == "ok"), actor.name)
            self.set("actor_restarts", actor.restarts, actor.name)

    def render(self) -> bytes:
        """The text of ``GET /metrics``; its type is ``CONTENT_TYPE``."""
        return generate_latest(self._registry)

    def collect(self) -> Iterable[Metric]:
        """Called by prometheus_client."""
        for key, metric in METRICS.items():
            yield from self._family(key, metric)

    def _family(self, key: str, metric: MetricKind) -> Iterator[Metric]:
        common = list(self._common.values())
        names = [*self._common, *metric.labels]
        if metric.kind == "histogram":
            family = HistogramMetricFamily(metric.name, metric.text, labels=names)
            empty = {} if metric.labels or metric.is_optional else {(): Histogram(metric.buckets)}
            for labels, histogram in (self._histograms.get(key) or empty).items():
                family.add_metric([*common, *labels], histogram.cumulative(), histogram.total)
            if family.samples:
                yield family
            return
        kind = GaugeMetricFamily if metric.kind == "gauge" else CounterMetricFamily
        family = kind(metric.name, metric.text, labels=names)
        series = self._values.get(key) or ({} if metric.labels or metric.is_optional else {(): 0.0})
        for labels, value in series.items():
            family.add_metric([*common, *labels], value)
        if family.samples:
            yield family
