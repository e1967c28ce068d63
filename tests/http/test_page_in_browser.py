"""The chat page in headless Chromium, where that and the package ``playwright`` are installed."""

import shutil
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import anyio
import pytest
from fake_engine import FakeEngine
from http_app import on_socket

from paceline.engine.errors import ActorError
from paceline.engine.types import SpeculationStats

CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
pytestmark = [
    pytest.mark.anyio,
    pytest.mark.filterwarnings("ignore::ResourceWarning"),
    pytest.mark.skipif(
        CHROMIUM is None, reason="no Chromium: apt-get install chromium; playwright needs no browsers of its own"
    ),
]
FLAGS = [
    "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run", "--disable-background-networking",
    "--disable-component-update", "--disable-sync",
]  # fmt: skip
PHONE = {"width": 390, "height": 780}
DESK = {"width": 1100, "height": 760}


@pytest.fixture
def anyio_backend() -> str:
    return "asyncio"


@asynccontextmanager
async def open_page(engine: FakeEngine, *, key: str = "", size: Any = None) -> AsyncIterator[Any]:
    """The page of a server around ``engine``; it must raise no fault and ask nobody but that server."""
    playwright = pytest.importorskip("playwright.async_api", reason="pip install playwright")
    faults: list[str] = []
    keys = {"api_keys": [key]} if key else {}
    async with on_socket(engine, **keys) as (url, _), playwright.async_playwright() as p:
        browser = await p.chromium.launch(executable_path=CHROMIUM, args=FLAGS)
        page = await browser.new_page(viewport=size or DESK, color_scheme="light", reduced_motion="reduce")
        page.on("pageerror", lambda error: faults.append(str(error)))
        page.on("request", lambda r: None if r.url.startswith((url, "data:")) else faults.append(r.url))
        await page.goto(url)
        try:
            yield page
            assert not faults
        finally:
            await browser.close()


async def until(page: Any, expression: str) -> None:
    """Wait until it is true; the page's own policy forbids to wait inside of it."""
    with anyio.fail_after(20):
        while not await page.evaluate(expression):
            await anyio.sleep(0.05)


async def ask(page: Any, text: str) -> None:
    """Send a message with the keyboard, from wherever the focus is after the page's own doing."""
    await page.keyboard.type(text)
    await page.keyboard.press("Enter")


async def answered(page: Any, index: int = 0) -> str:
    """The figures under the answer ``index``, once it has ended."""
    await until(page, f"document.querySelectorAll('.figures').length > {index}")
    await until(page, "!document.querySelector('.busy')")
    await until(page, f"document.querySelectorAll('.figures')[{index}].textContent.includes('token')")
    return await page.evaluate(f"document.querySelectorAll('.figures')[{index}].textContent")


def talker(text: str = "word{i} ", delay_s: float = 0.0) -> FakeEngine:
    engine = FakeEngine()
    engine.text, engine.delay_s = text, delay_s
    return engine


async def test_a_message_streams_with_its_figures() -> None:
    engine = talker(delay_s=0.03)
    engine.speculation = SpeculationStats(4, [2, 1, 1, 3, 2], 30, {"suffix": 30}, {"suffix": 20})
    async with open_page(engine) as page:
        await until(page, "document.querySelectorAll('#model option').length === 1")
        assert "256 tokens of context" in await page.inner_text("header")
        await ask(page, "first")
        await until(page, "document.querySelector('.figures')?.textContent.includes('tok/s')")
        assert await page.inner_text("#send") == "Stop"
        half = await page.inner_text("#log")
        assert "word1" in half and "word15" not in half
        shown = await answered(page)
        assert "first token" in shown and "16 tokens" in shown and "67 % of drafts accepted" in shown
        assert "word15" in await page.inner_text("#log")
        await ask(page, "second")
        await answered(page, 1)
    chat = engine.calls[-1].chat
    assert chat is not None and [m["role"] for m in chat.messages] == ["user", "assistant", "user"]


async def test_stop_stops_by_key_and_by_button_and_new_begins_anew() -> None:
    engine = talker(delay_s=0.05)
    async with open_page(engine) as page:
        for index, stop in enumerate((lambda: page.keyboard.press("Escape"), lambda: page.click("#send"))):
            await ask(page, "go on")
            await until(page, f"document.querySelectorAll('.figures')[{index}]?.textContent.includes('token')")
            await stop()
            assert "stopped" in await answered(page, index)
            with anyio.fail_after(5):
                while len(engine.aborted) <= index:
                    await anyio.sleep(0.02)
        await ask(page, "and on")
        await until(page, "document.querySelectorAll('.figures')[2]?.textContent.includes('token')")
        await page.keyboard.press("Alt+n")
        await until(page, "document.querySelector('#send').textContent === 'Send'")
        assert not await page.query_selector(".message")
        await ask(page, "anew")
        await answered(page)
    chat = engine.calls[-1].chat
    assert chat is not None and [m["content"] for m in chat.messages] == ["anew"], "nothing of what was left behind"


async def test_an_error_shows_and_can_be_tried_again() -> None:
    engine = talker()
    async with open_page(engine) as page:
        await ask(page, "one")
        await answered(page)
        engine.fail_with, engine.fail_after = ActorError("the target process died; send it again"), 2
        await ask(page, "two")
        await page.wait_for_selector(".error")
        assert "target process died" in await page.inner_text(".error")
        assert await page.get_attribute(".error", "role") == "alert"
        engine.fail_with = None
        await page.click(".error button")
        await answered(page, 1)
        assert not await page.query_selector(".error")
        assert await page.evaluate("document.querySelectorAll('.user').length") == 2
    chat = engine.calls[-1].chat
    assert chat is not None and [m["content"] for m in chat.messages][::2] == ["one", "two"] and len(chat.messages) == 3


async def test_keyboard_alone_sets_key_and_sampling() -> None:
    engine = talker()
    async with open_page(engine, key="k") as page:
        await page.wait_for_selector(".error")  # no key yet
        await page.keyboard.press("Alt+s")
        for text in ("0.5", "", "", "20", "7", "", "You are terse."):  # one field after the other
            await page.keyboard.type(text)
            await page.keyboard.press("Tab")
        await page.keyboard.type("k")
        await page.keyboard.press("Enter")
        await until(page, "document.querySelectorAll('#model option').length === 1")
        await until(page, "!document.querySelector('.error')")
        await ask(page, "line one")
        assert "20 tokens" in await answered(page)
        reached: set[str] = set()
        for _ in range(9):  # all round the page
            await page.keyboard.press("Tab")
            reached.add(await page.evaluate("document.activeElement.id || document.activeElement.textContent"))
        assert {"model", "fresh", "open-settings", "ask", "send", "Copy"} <= reached
    sampling, chat = engine.calls[-1].sampling, engine.calls[-1].chat
    assert (sampling.temperature, sampling.max_tokens, sampling.seed) == (0.5, 20, 7)
    assert chat is not None and [m["role"] for m in chat.messages] == ["system", "user"]


async def test_a_phone_shows_all_of_it_in_both_schemes() -> None:
    text = "# Title\nA `code` and **bold** <b>not</b>.\n```python\n" + "x = 1  # " + "long " * 40 + "\n```\nend "
    engine = talker(text)
    async with open_page(engine, size=PHONE) as page:
        await ask(page, "w" * 120)
        await answered(page)
        assert await page.evaluate("document.documentElement.scrollWidth <= window.innerWidth"), "wider than the phone"
        assert await page.evaluate("document.querySelector('pre').scrollWidth > 390"), "code scrolls in its own box"
        tags = await page.evaluate("[...document.querySelectorAll('.message *')].slice(0, 4).map((e) => e.tagName)")
        assert tags == ["H3", "CODE", "STRONG", "PRE"], "and no tag of the model's own"
        assert "<b>not</b>" in await page.inner_text(".message:not(.user)")
        box = await page.evaluate("JSON.parse(JSON.stringify(document.querySelector('#send').getBoundingClientRect()))")
        assert box["right"] <= 390 and box["bottom"] <= 780 and box["height"] >= 40
        for scheme, is_dark in (("light", False), ("dark", True)):
            await page.emulate_media(color_scheme=scheme, reduced_motion="reduce")
            back = await page.evaluate("getComputedStyle(document.body).backgroundColor")
            assert (sum(channels(back)) < 3 * 64) == is_dark
            assert await contrast(page) >= 4.5, scheme
        await page.keyboard.press("Alt+s")
        assert await page.evaluate("document.documentElement.scrollWidth <= window.innerWidth")


def channels(colour: str) -> list[int]:
    """``rgb(1, 2, 3)`` as numbers."""
    return [int(x) for x in colour.removeprefix("rgb(").rstrip(")").split(",")]


async def contrast(page: Any) -> float:
    """The least contrast of soft and of plain text with what is behind it, as WCAG counts it."""

    def luminance(colour: str) -> float:
        parts = [c / 255 for c in channels(colour)]
        linear = [c / 12.92 if c <= 0.04045 else ((c + 0.055) / 1.055) ** 2.4 for c in parts]
        return 0.2126 * linear[0] + 0.7152 * linear[1] + 0.0722 * linear[2]

    back = luminance(await page.evaluate("getComputedStyle(document.body).backgroundColor"))
    texts = [await page.evaluate(f"getComputedStyle(document.querySelector('{s}')).color") for s in (".under", "body")]
    return min((max(back, t) + 0.05) / (min(back, t) + 0.05) for t in map(luminance, texts))
