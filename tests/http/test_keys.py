"""Named keys: digests in the config, names in the log, and how much each may ask for."""

import asyncio
import re
from hashlib import sha256

import anyio
import httpx
import pytest
from fake_engine import FakeEngine
from http_app import in_process, on_socket

from paceline.actors.http.errors import HttpError
from paceline.actors.http.quotas import Quota
from paceline.actors.logs import TextFormat
from paceline.engine import config as configs
from paceline.engine.config import Key
from paceline.engine.errors import ConfigError

pytestmark = pytest.mark.anyio

BODY = {"prompt": "x", "max_tokens": 2}


@pytest.fixture
def anyio_backend() -> str:
    return "asyncio"


def bearer(key: str) -> dict[str, str]:
    return {"authorization": f"Bearer {key}"}


async def test_a_key_may_be_kept_as_its_digest_and_the_log_has_its_name(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level("INFO")
    keys = {"alice": Key(sha256=sha256(b"secret-a").hexdigest()), "bob": Key(key="secret-b")}
    async with in_process(keys=keys, api_keys=["secret-c"]) as client:
        for key, status in (("secret-a", 200), ("secret-b", 200), ("secret-c", 200), ("secret-d", 401), ("", 401)):
            assert (await client.post("/v1/completions", json=BODY, headers=bearer(key))).status_code == status
        digest = bearer(sha256(b"secret-a").hexdigest())
        assert (await client.post("/v1/completions", json=BODY, headers=digest)).status_code == 401
    lines = [TextFormat("gateway").format(r) for r in caplog.records if r.name.startswith("paceline")]
    names = ["alice", "bob", "key1", "-", "-", "-"]
    assert [re.findall(r" key=(\S+)", line) for line in lines] == [[name] for name in names]
    assert not any("secret" in line for line in lines)


async def test_requests_a_minute_are_counted_for_each_key() -> None:
    async with in_process(api_keys=["a", "b"], requests_per_minute_per_key=2) as client:
        statuses = [(await client.post("/v1/completions", json=BODY, headers=bearer("a"))).status_code for _ in "123"]
        assert statuses == [200, 200, 429]
        refused = await client.post("/v1/messages", json={}, headers=bearer("a"))
        assert refused.status_code == 429 and 1 <= int(refused.headers["retry-after"]) <= 60
        assert (await client.get("/v1/models", headers=bearer("a"))).status_code == 200
        assert (await client.post("/v1/completions", json=BODY, headers=bearer("b"))).status_code == 200


async def test_requests_at_once_are_counted_and_given_back() -> None:
    engine = FakeEngine()
    engine.gate = asyncio.Event()
    keys = {"alice": Key(key="a", max_concurrent=1)}
    async with on_socket(engine, keys=keys) as (url, served), httpx.AsyncClient(base_url=url) as client:
        first = asyncio.create_task(client.post("/v1/completions", json=BODY, headers=bearer("a")))
        with anyio.fail_after(5):
            while served.calls.num_requests == 0:
                await asyncio.sleep(0.005)
        refused = await client.post("/v1/completions", json=BODY, headers=bearer("a"))
        assert refused.status_code == 429 and refused.json()["error"]["code"] == "rate_limited"
        assert refused.json()["error"]["type"] == "rate_limit_error" and refused.headers["retry-after"] == "1"
        engine.gate.set()
        assert (await first).status_code == 200
        assert (await client.post("/v1/completions", json=BODY, headers=bearer("a"))).status_code == 200


def test_the_window_slides() -> None:
    quota = Quota("x", 0, 2)
    for now_s in (0.0, 10.0):
        with quota.used(now_s):
            pass
    with pytest.raises(HttpError, match="try again in 40 s"), quota.used(20.0):
        pass
    with quota.used(60.0):
        pass
    with pytest.raises(HttpError), quota.used(69.9):
        pass


def test_a_failed_request_gives_its_place_back() -> None:
    quota = Quota("x", 1, 0)
    with pytest.raises(ZeroDivisionError), quota.used(0.0):
        raise ZeroDivisionError
    with quota.used(0.0), pytest.raises(HttpError), quota.used(0.0):
        pass


@pytest.mark.parametrize(
    "override",
    [
        "server.keys.a={}", "server.keys.a={key='x', sha256='y'}", "server.keys.a={sha256='xyz'}",
        "server.keys.a={key='x', max_concurrent=-1}", "server.keys={'a b'={key='x'}}", "server.keys.a={kye='x'}",
        "server.max_concurrent_per_key=-1",
    ],
)  # fmt: skip
def test_wrong_keys_are_refused_at_start(override: str) -> None:
    with pytest.raises(ConfigError, match="server"):
        configs.load(overrides=[override], environ={})


def test_keys_in_a_config() -> None:
    loaded = configs.load(overrides=["server.keys.alice={key='x', requests_per_minute=5}"], environ={})
    assert loaded.server.keys == {"alice": Key(key="x", requests_per_minute=5)}
