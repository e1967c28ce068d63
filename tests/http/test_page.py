"""The chat page: who gets it, that it stands alone, and that no policy of its own breaks it."""

import re
from base64 import b64encode
from hashlib import sha256

import pytest
from http_app import in_process

pytestmark = pytest.mark.anyio

BROWSER = {"accept": "text/html,application/xhtml+xml,*/*;q=0.8"}


@pytest.fixture
def anyio_backend() -> str:
    return "asyncio"


async def test_a_browser_gets_the_page_and_others_a_line() -> None:
    async with in_process() as client:
        answer = await client.get("/", headers=BROWSER)
        assert answer.headers["content-type"] == "text/html; charset=utf-8"
        assert answer.text.startswith("<!doctype html>")
        assert (await client.get("/")).headers["content-type"].startswith("text/plain")


async def test_the_page_itself_needs_no_key_but_what_it_calls_does() -> None:
    async with in_process(api_keys=["k"]) as client:
        assert (await client.get("/", headers=BROWSER)).status_code == 200
        assert (await client.get("/")).status_code == 401
        assert (await client.post("/", headers=BROWSER)).status_code == 401
        assert (await client.get("/v1/models", headers=BROWSER)).status_code == 401


async def test_the_page_is_one_file_and_its_policy_allows_just_that() -> None:
    async with in_process() as client:
        answer = await client.get("/", headers=BROWSER)
    html, policy = answer.text, answer.headers["content-security-policy"]
    assert not re.findall(r"""(?:src|href)=["'](?!data:)""", html) and "://" not in html and "@import" not in html
    [script] = re.findall(r"<script>(.*?)</script>", html, re.S)
    assert f"'sha256-{b64encode(sha256(script.encode()).digest()).decode()}'" in policy
    assert "default-src 'none'" in policy and "connect-src 'self'" in policy and "unsafe-eval" not in policy
    assert not re.findall(r"\son\w+=", html.split("<script>")[0]), "a policy without unsafe-inline stops such handlers"
    assert len(html) < 25_000
