"""The chat page in headless Chromium, where that and the package ``playwright`` are installed."""

import shutil
from typing import Any

import anyio
import pytest
from fake_engine import FakeEngine
from http_app import on_socket

from paceline.engine.errors import ActorError
from paceline.engine.types import SpeculationStats

pytestmark = [pytest.mark.anyio, pytest.mark.filterwarnings("ignore::ResourceWarning")]

CHROMIUM = shutil.which("chromium") or shutil.which("google-chrome")


@pytest.fixture
def anyio_backend() -> str:
    return "asyncio"


async def until(page: Any, expression: str) -> None:
    """Wait until it is true; the page's own policy forbids to wait inside of it."""
    with anyio.fail_after(20):
        while not await page.evaluate(expression):
            await anyio.sleep(0.05)


async def ask(page: Any, text: str) -> None:
    await page.fill("#ask", text)
    await page.keyboard.press("Enter")


@pytest.mark.skipif(CHROMIUM is None, reason="no Chromium is installed")
async def test_a_message_streams_stop_stops_and_an_error_shows() -> None:
    playwright = pytest.importorskip("playwright.async_api")
    engine = FakeEngine()
    engine.delay_s, engine.text = 0.03, "word{i} "
    engine.speculation = SpeculationStats(4, [2, 1, 1, 3, 2], 30, {"suffix": 30}, {"suffix": 20})
    async with on_socket(engine, api_keys=["k"]) as (url, _), playwright.async_playwright() as p:
        browser = await p.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox", "--disable-gpu"])
        page = await browser.new_page(viewport={"width": 390, "height": 780}, color_scheme="dark")
        faults: list[str] = []
        outside: list[str] = []
        page.on("pageerror", lambda error: faults.append(str(error)))
        page.on("request", lambda r: None if r.url.startswith((url, "data:")) else outside.append(r.url))
        await page.goto(url)
        await page.wait_for_selector(".error")  # no key yet
        await page.keyboard.press("Alt+s")
        await page.fill("#key", "k")
        await page.fill("#temperature", "0.5")
        await page.fill("#max_tokens", "20")
        await page.keyboard.press("Enter")
        await until(page, "document.querySelectorAll('#model option').length === 1")
        await until(page, "!document.querySelector('.error')")

        await ask(page, "first")
        await until(page, "document.querySelector('.figures')?.textContent.includes('tok/s')")
        assert await page.inner_text("#send") == "Stop"
        await page.wait_for_selector(".busy", state="detached")
        shown = await page.inner_text(".figures")
        assert "first token" in shown and "20 tokens" in shown and "67 % of drafts accepted" in shown
        assert "word19" in await page.inner_text("#log")

        await ask(page, "second")
        await until(page, "document.querySelectorAll('.figures')[1]?.textContent.includes('token')")
        await page.keyboard.press("Escape")
        with anyio.fail_after(5):
            await engine.aborted_event.wait()
        await until(page, "document.querySelectorAll('.figures')[1].textContent.includes('stopped')")

        engine.fail_with, engine.fail_after = ActorError("the target process died; send it again"), 2
        await ask(page, "third")
        await page.wait_for_selector(".error")
        assert "target process died" in await page.inner_text(".error")
        chat = engine.calls[-1].chat
        assert chat is not None and [m["role"] for m in chat.messages] == ["user", "assistant"] * 2 + ["user"]
        assert engine.calls[-1].sampling.temperature == 0.5 and not faults and not outside
        is_wide = await page.evaluate("document.documentElement.scrollWidth > window.innerWidth")
        assert not is_wide, "the page must fit a phone"
        await browser.close()
