"""Actors' reports as Prometheus text: names, labels, restarts, unknown keys."""

from typing import Any

from prometheus_client.parser import text_string_to_metric_families

from paceline.actors.messages import ActorState, EngineState, Stats
from paceline.actors.stats import METRICS, MetricsRegistry


def samples(registry: MetricsRegistry) -> dict[str, float]:
    """``name{label=value,...}`` without the labels that all have."""
    found: dict[str, float] = {}
    for family in text_string_to_metric_families(registry.render().decode()):
        for sample in family.samples:
            labels = {k: v for k, v in sample.labels.items() if k not in ("model_name", "engine")}
            assert sample.labels["model_name"] == "m" and sample.labels["engine"] == "0"
            inside = ",".join(f"{k}={v}" for k, v in sorted(labels.items()))
            found[f"{sample.name}{{{inside}}}" if inside else sample.name] = sample.value
    return found


def report(epoch: int = 0, **values: Any) -> Stats:
    return Stats("scheduler", epoch, {k.replace("__", "/"): float(v) for k, v in values.items()})


def test_every_metric_is_there_from_the_start_under_its_name() -> None:
    found = samples(MetricsRegistry("m"))
    for name in ("vllm:num_requests_running", "vllm:kv_cache_usage_perc", "vllm:prompt_tokens_total",
                 "vllm:generation_tokens_total", "vllm:prefix_cache_hits_total", "vllm:num_preemptions_total",
                 "vllm:time_to_first_token_seconds_count", "vllm:iteration_tokens_total_count"):  # fmt: skip
        assert found[name] == 0.0
    assert found["vllm:time_to_first_token_seconds_bucket{le=2560.0}"] == 0.0
    assert found["vllm:inter_token_latency_seconds_bucket{le=0.001}"] == 0.0
    assert found["vllm:e2e_request_latency_seconds_bucket{le=0.3}"] == 0.0


def test_counters_go_on_where_a_dead_actors_ended() -> None:
    registry = MetricsRegistry("m")
    registry.take(report(prompt_tokens=5, request_success__stop=1, num_requests_running=3))
    registry.take(report(prompt_tokens=9, request_success__stop=1, num_requests_running=2))
    registry.take(report(1, prompt_tokens=4, request_success__stop=2))
    registry.take(report(0, prompt_tokens=100))  # late, of the dead one
    found = samples(registry)
    assert found["vllm:prompt_tokens_total"] == 13
    assert found["vllm:request_success_total{finished_reason=stop}"] == 3
    assert found["vllm:num_requests_running"] == 2


def test_histograms_count_up_to_each_bound() -> None:
    registry = MetricsRegistry("m")
    for value in (0.001, 0.0011, 0.3, 99999.0):
        registry.observe("time_to_first_token", value)
    registry.take(Stats("scheduler", 0, {}, {"step_time": [0.01, 0.02]}))
    found = samples(registry)
    name = "vllm:time_to_first_token_seconds"
    assert found[f"{name}_bucket{{le=0.001}}"] == 1
    assert found[f"{name}_bucket{{le=0.005}}"] == 2
    assert found[f"{name}_bucket{{le=2560.0}}"] == 3
    assert found[f"{name}_bucket{{le=+Inf}}"] == found[f"{name}_count"] == 4
    assert found["paceline_step_time_seconds_count"] == 2
    assert abs(found["paceline_step_time_seconds_sum"] - 0.03) < 1e-9


def test_the_gateways_own_counters_have_their_labels() -> None:
    registry = MetricsRegistry("m")
    registry.inc("http_requests", 1, "/v1/models", "GET", "2xx")
    registry.inc("http_requests", 2, "/v1/models", "GET", "2xx")
    registry.observe("http_request_duration", 0.2, "/v1/models")
    found = samples(registry)
    assert found["http_requests_total{handler=/v1/models,method=GET,status=2xx}"] == 3
    assert found["http_request_duration_seconds_count{handler=/v1/models}"] == 1


def test_what_is_not_known_is_counted_and_changes_nothing() -> None:
    registry = MetricsRegistry("m")
    before = samples(registry)
    registry.take(report(no_such=1, prompt_tokens__x=1, request_success=1))
    registry.take(Stats("scheduler", 0, {}, {"nothing": [1.0], "http_request_duration": [1.0]}))
    assert registry.num_unknown == 5
    assert samples(registry) == before


def test_restarts_and_lives_come_from_the_supervisor() -> None:
    registry = MetricsRegistry("m")
    registry.take_state(
        EngineState(
            "recovering",
            [ActorState("target", "lost", 0, 2, 0.0, "x"), ActorState("gateway", "ok", 1, 0, 0.0, None)],
        )
    )
    found = samples(registry)
    assert found["paceline_actor_up{actor=target}"] == 0.0 and found["paceline_actor_up{actor=gateway}"] == 1.0
    assert found["paceline_actor_restarts_total{actor=target}"] == 2.0


def test_names_are_unique_and_buckets_rise() -> None:
    assert len({m.name for m in METRICS.values()}) == len(METRICS)
    for metric in METRICS.values():
        assert list(metric.buckets) == sorted(set(metric.buckets))
        assert bool(metric.buckets) == (metric.kind == "histogram")
