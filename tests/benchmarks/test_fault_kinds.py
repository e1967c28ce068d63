"""The pure parts of the benchmark of faults: what counts as different, as left behind, and as too many deaths."""

from dataclasses import replace
from typing import Any

import pytest
from fault_kinds.judge import HEAD, BackOff, Outcome, State, different, leftovers, told
from load import Reply, Target
from malformed import is_refusal, requests

from paceline.actors.posts import LOOP_DEATHS, LOOP_S, Post

STATE = State(0, 0, 90, 90, True, {"target": 7, "gateway": 8}, {"target": 20, "gateway": 30}, 5)


def reply(name: str, text: str = "yes", **fields: Any) -> Reply:
    return Reply(0.0, name=name, text=text, prompt_tokens=3, output_tokens=2, **fields)


def test_text_and_usage_are_compared_and_failed_calls_are_counted_elsewhere() -> None:
    right = told([reply("a"), reply("b"), reply("c"), reply("d")])
    more = reply("c")
    more.output_tokens += 1
    assert different([reply("a"), reply("b", "no"), more, reply("d", "ye", error="cut")], right) == ["b", "c"]


def test_a_failure_is_no_measure() -> None:
    with pytest.raises(ValueError, match="call a failed although nothing was done"):
        told([reply("a", error="HTTP 503")])


def test_nothing_is_left_behind() -> None:
    assert leftovers(STATE, STATE) == []
    other = replace(STATE, pids={"target": 9, "gateway": 8}, fds={"target": 21, "gateway": 30})
    assert leftovers(STATE, other, ["target"]) == []


@pytest.mark.parametrize(
    ("fields", "words"),
    [
        ({"is_ok": False}, "the server is not well"),
        ({"running": 1, "waiting": 2}, "1 requests run and 2 wait"),
        ({"free_blocks": 88}, "2 blocks are not free"),
        ({"total_blocks": 80, "free_blocks": 80}, "80 blocks, not 90"),
        ({"num_processes": 6}, "6 processes, not 5"),
        ({"pids": {"target": 9, "gateway": 8}}, "target is another process"),
        ({"pids": {"gateway": 8}}, "target is another process"),
        ({"fds": {"target": 40, "gateway": 30}}, "target holds 20 descriptors more"),
    ],
)
def test_what_is_left_behind_is_named(fields: dict[str, Any], words: str) -> None:
    assert leftovers(STATE, replace(STATE, **fields)) == [words]


def test_who_should_have_been_replaced_and_was_not() -> None:
    assert leftovers(STATE, STATE, ["target"]) == ["target is the same process"]


def test_rows_tell_the_verdict() -> None:
    outcome = Outcome("target SIGKILL", in_flight=3, seen_s=0.041)
    outcome.want(True, "no")
    assert dict(zip(HEAD, outcome.row(), strict=True))["verdict"] == "ok"
    outcome.want(False, "texts differ")
    row = dict(zip(HEAD, outcome.row(), strict=True))
    assert (row["seen s"], row["back s"], row["verdict"]) == ("0.04", "-", "texts differ")


def test_waits_are_those_of_the_supervisor() -> None:
    """Deaths three in a row, then a rest: the supervisor's own waits, and never what it calls a crash loop."""
    ours, post, now_s = BackOff(0.0), Post("target"), 0.0
    post.begin(now_s)
    post.state = "ok"
    for _ in range(3 * LOOP_DEATHS):
        now_s += ours.rest_s("target", now_s) + 1.0
        delay_s = ours.died("target", now_s)
        assert delay_s == post.died("killed", now_s) <= 2.0
        now_s += delay_s
        post.begin(now_s)
        post.state = "ok"
        ours.started("target", now_s)
        assert not post.loops
    assert now_s > LOOP_S


def test_malformed_requests_are_whole_ones() -> None:
    bad = requests(Target("http://127.0.0.1:9"), "m")
    assert len(bad) > 25 and len(set(bad.values())) == len(bad)
    for request in bad.values():
        assert request.startswith(b"POST /v1/") and b"\r\n\r\n" in request
    assert [s for s in (0, 200, 400, 404, 413, 499, 500) if is_refusal(s)] == [400, 404, 413, 499]
