"""Log lines: one each, bounded, escaped, with fields in both forms; a stream that nobody takes fails nobody."""

import io
import json
import logging
from collections.abc import Iterator
from typing import Any

import pytest

from paceline.actors import logs
from paceline.actors.logs import fields


@pytest.fixture
def root() -> Iterator[logging.Logger]:
    logger = logging.getLogger()
    before, level = logger.handlers[:], logger.level
    yield logger
    logger.handlers[:] = before
    logger.setLevel(level)


def written(monkeypatch: pytest.MonkeyPatch, form: Any, *args: Any, level: int = logging.INFO, **kwargs: Any) -> str:
    out = io.StringIO()
    monkeypatch.setattr("sys.stderr", out)
    logs.set_up("gateway", "info", form)
    logging.getLogger("x").log(level, *args, **kwargs)
    return out.getvalue()


def test_text_has_level_actor_message_and_fields(root: logging.Logger, monkeypatch: pytest.MonkeyPatch) -> None:
    told = fields(request_id="r1", none=None, why="a b", x=0.5)
    line = written(monkeypatch, "text", "%s took %d ms", "it", 3, extra=told)
    assert line == 'INFO gateway: it took 3 ms request_id=r1 why="a b" x=0.5\n'


def test_json_is_an_object_a_line(root: logging.Logger, monkeypatch: pytest.MonkeyPatch) -> None:
    line = written(monkeypatch, "json", "a\nb", extra=fields(request_id="r1", tokens=3))
    assert line.count("\n") == 1
    told = json.loads(line)
    assert told.pop("time")[-5:-4] == "."
    assert told == {"level": "info", "actor": "gateway", "message": "a\nb", "request_id": "r1", "tokens": 3}


@pytest.mark.parametrize("form", ["text", "json"])
def test_a_message_cannot_forge_a_line(root: logging.Logger, monkeypatch: pytest.MonkeyPatch, form: str) -> None:
    line = written(monkeypatch, form, "a\r\nINFO gateway: forged\x1b[2J\u2028", extra=fields(id="x\nERROR y"))
    assert len(line.splitlines()) == 1
    assert "\x1b" not in line


@pytest.mark.parametrize("form", ["text", "json"])
def test_a_line_is_bounded(root: logging.Logger, monkeypatch: pytest.MonkeyPatch, form: str) -> None:
    many = {f"field{i}": "\u00e9" * 9000 for i in range(9)}
    for extra in ({}, fields(**many)):
        line = written(monkeypatch, form, "\u00e9" * 100_000, extra=extra)
        assert len(line) <= logs.MAX_CHARS + 1
        if form == "json":
            assert json.loads(line)["actor"] == "gateway"


def test_an_error_brings_its_traceback(root: logging.Logger, monkeypatch: pytest.MonkeyPatch) -> None:
    for form in ("text", "json"):
        try:
            raise ValueError("why")
        except ValueError as e:
            line = written(monkeypatch, form, "it failed", level=logging.ERROR, exc_info=e)
        text = json.loads(line)["error"] if form == "json" else line
        assert text.rstrip().endswith("ValueError: why")


def test_lines_that_nobody_takes_are_counted(root: logging.Logger, monkeypatch: pytest.MonkeyPatch) -> None:
    class Full(io.StringIO):
        def write(self, text: str) -> int:
            raise OSError(28, "No space left on device")

    monkeypatch.setattr("sys.stderr", Full())
    lines = logs.set_up("target", "info", "json")
    for _ in range(3):
        logging.getLogger("x").warning("nobody reads this")
    assert lines.num_lost == 3


def test_levels_below_are_not_written(root: logging.Logger, monkeypatch: pytest.MonkeyPatch) -> None:
    assert written(monkeypatch, "text", "quiet", level=logging.DEBUG) == ""
