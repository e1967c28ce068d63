"""The field ``speculation`` of a body, and the statistics in an answer; over the ASGI application and a fake engine."""

from typing import Any

import httpx
import msgspec
import pytest
from fake_engine import FakeEngine, card, config
from http_app import events

from paceline.actors.http.app import build_app
from paceline.actors.http.service import Service
from paceline.actors.stats import MetricsRegistry
from paceline.engine.config import Speculation
from paceline.engine.types import SpeculationControl, SpeculationStats

pytestmark = pytest.mark.anyio

COMPLETIONS, CHAT = "/v1/completions", "/v1/chat/completions"
STATS = SpeculationStats(3, [2, 1, 0, 4], 20, {"suffix": 18, "ngram": 2}, {"suffix": 13}, 5, 2, 1)
BODY: dict[str, Any] = {"prompt": "one two", "max_tokens": 2}


@pytest.fixture
def anyio_backend() -> str:
    return "asyncio"


async def post(path: str, body: dict[str, Any], engine: FakeEngine) -> httpx.Response:
    section = Speculation(methods=["suffix", "ngram"], max_draft_tokens=6)
    settings = msgspec.structs.replace(config(), speculation=section)
    app: Any = build_app(Service(settings, card(), engine, MetricsRegistry("tiny")))
    transport = httpx.ASGITransport(app=app, raise_app_exceptions=False)
    async with httpx.AsyncClient(transport=transport, base_url="http://localhost:8000") as client:
        return await client.post(path, json=body)


@pytest.mark.parametrize(
    ("value", "wanted"),
    [
        (None, None),
        (True, None),
        (False, SpeculationControl(enabled=False)),
        ({}, SpeculationControl()),
        ({"methods": ["ngram"], "max_draft_tokens": 4, "detail": True}, SpeculationControl(True, ["ngram"], 4, True)),
        ({"max_draft_tokens": 0}, SpeculationControl(max_draft_tokens=0)),
    ],
)
@pytest.mark.parametrize("path", [COMPLETIONS, CHAT])
async def test_the_wish_reaches_the_engine(path: str, value: Any, wanted: SpeculationControl | None) -> None:
    engine = FakeEngine()
    body = BODY if path == COMPLETIONS else {"messages": [{"role": "user", "content": "hello"}], "max_tokens": 2}
    answer = await post(path, body | {"speculation": value}, engine)
    assert answer.status_code == 200, answer.text
    assert engine.calls[0].speculation == wanted


@pytest.mark.parametrize(
    ("value", "param", "part"),
    [
        ({"method": []}, "speculation", 'has no key "method"; known: methods, max_draft_tokens, detail'),
        ({"methods": []}, "speculation.methods", "must be a list of names"),
        ({"methods": "suffix"}, "speculation.methods", "must be a list of names"),
        ({"methods": ["eagle"]}, "speculation.methods", 'has "eagle": name each of suffix, ngram once at most'),
        ({"methods": ["ngram", "ngram"]}, "speculation.methods", "once at most"),
        ({"max_draft_tokens": 7}, "speculation.max_draft_tokens", "is 7: must be 0 to 6"),
        ({"max_draft_tokens": True}, "speculation.max_draft_tokens", "must be 0 to 6"),
        ({"max_draft_tokens": -1}, "speculation.max_draft_tokens", "must be 0 to 6"),
        ({"detail": 2}, "speculation.detail", "must be true or false"),
        (1, "speculation", ""),
    ],
)
async def test_what_cannot_be_granted_is_refused_by_name(value: Any, param: str, part: str) -> None:
    answer = await post(COMPLETIONS, BODY | {"speculation": value}, FakeEngine())
    error = answer.json()["error"]
    assert answer.status_code == 400 and error["param"] == param and part in error["message"]


async def test_the_statistics_stand_at_the_root_and_agree_with_each_other() -> None:
    engine = FakeEngine()
    engine.speculation = STATS
    told = (await post(COMPLETIONS, BODY, engine)).json()["metrics"]
    assert told == {
        "speculative_decoding": {
            "mean_acceptance_length": 1 + 13 / 7,
            "draft_acceptance_rate": 13 / 20,
            "acceptance_histogram": [2, 1, 0, 4],
            "num_spec_steps": 7,
            "num_accepted_draft_tokens": 13,
            "num_draft_tokens": 20,
            "num_spec_tokens": 3,
        },
        "speculation": {
            "by_method": {"suffix": {"drafted": 18, "accepted": 13}, "ngram": {"drafted": 2, "accepted": 0}},
            "stale_drafts": 5,
            "ahead_hits": 2,
            "ahead_misses": 1,
            "off_reason": None,
        },
    }


@pytest.mark.parametrize("path", [COMPLETIONS, CHAT])
async def test_a_stream_tells_them_once_with_the_usage(path: str) -> None:
    engine = FakeEngine()
    steps = [3, 3, 3, 3, 1, 0, 0]
    engine.speculation = msgspec.structs.replace(STATS, per_step_accepted=steps, per_step_drafted=[3] * 7)
    body = BODY if path == COMPLETIONS else {"messages": [{"role": "user", "content": "hello"}], "max_tokens": 2}
    stream = body | {"stream": True, "stream_options": {"include_usage": True}}
    rows = [row for row in events((await post(path, stream, engine)).content) if isinstance(row, dict)]
    assert [i for i, row in enumerate(rows) if "metrics" in row] == [len(rows) - 1] and not rows[-1]["choices"]
    told = rows[-1]["metrics"]["speculative_decoding"]
    assert told["per_step_accepted"] == steps and rows[-1]["usage"]["completion_tokens"] == 2


@pytest.mark.parametrize("changes", [{"n": 2}, {"prompt": ["one", "two"]}])
async def test_several_choices_tell_none(changes: dict[str, Any]) -> None:
    engine = FakeEngine()
    engine.speculation = STATS
    assert "metrics" not in (await post(COMPLETIONS, BODY | changes, engine)).json()


async def test_no_step_no_object() -> None:
    assert "metrics" not in (await post(COMPLETIONS, BODY, FakeEngine())).json()


HELLO: dict[str, Any] = {"messages": [{"role": "user", "content": "hello"}], "max_tokens": 2}


@pytest.mark.parametrize(
    ("value", "text"),
    [
        (None, ""),
        ({"type": "content", "content": "a b"}, "a b"),
        ({"type": "content", "content": [{"type": "text", "text": "a "}, {"type": "text", "text": "b"}]}, "a b"),
    ],
)
async def test_what_the_client_predicts_reaches_the_engine(value: Any, text: str) -> None:
    engine = FakeEngine()
    answer = await post(CHAT, HELLO | {"prediction": value}, engine)
    assert answer.status_code == 200 and engine.calls[0].prediction == text


@pytest.mark.parametrize(
    "value",
    [{}, {"type": "content"}, {"type": "text", "content": "a"}, {"type": "content", "content": [1]}, "a"],
)
async def test_a_prediction_of_another_shape_is_refused(value: Any) -> None:
    answer = await post(CHAT, HELLO | {"prediction": value}, FakeEngine())
    assert answer.status_code == 400 and answer.json()["error"]["param"] == "prediction"
