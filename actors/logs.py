"""Log lines of every process: one format, on standard error, one line each, bounded; none of them can fail a call.

A line may carry fields (``log.info("...", extra=fields(request="r1"))``): in text they follow the message as
``name=value``, in JSON they are members beside ``time`` (RFC 3339, UTC), ``level``, ``actor`` and ``message``.
"""

import json
import logging
import sys
import time
from typing import Any, Literal

MAX_CHARS = 8192
"""Of a line; what is longer is cut and ends in an ellipsis. A traceback is part of its line."""
_FIELDS = "paceline_fields"
_ESCAPED = {i: f"\\x{i:02x}" for i in (*range(32), 127)} | {0x2028: "\\u2028", 0x2029: "\\u2029", 0x85: "\\x85"}


def fields(**values: Any) -> dict[str, Any]:
    """``extra`` for a logging call; fields that are None are left out."""
    return {_FIELDS: {name: value for name, value in values.items() if value is not None}}


def set_up(actor: str, level: str, form: Literal["text", "json"]) -> "Lines":
    """Have all loggers of this process write such lines, from ``level`` on. Returns the handler, which counts."""
    lines = Lines(sys.stderr)
    lines.setFormatter(JsonFormat(actor) if form == "json" else TextFormat(actor))
    root = logging.getLogger()
    for other in root.handlers[:]:
        root.removeHandler(other)
    root.addHandler(lines)
    root.setLevel(level.upper())
    return lines


class Lines(logging.StreamHandler[Any]):
    """Writes lines, and counts those that nobody takes: a closed pipe, a full disk."""

    num_lost = 0

    def handleError(self, record: logging.LogRecord) -> None:
        """The line is gone; whoever logged it goes on."""
        self.num_lost += 1


class TextFormat(logging.Formatter):
    """For people: ``INFO gateway: message name=value``. Control characters of a message are escaped."""

    def __init__(self, actor: str) -> None:
        super().__init__()
        self._actor = actor

    def format(self, record: logging.LogRecord) -> str:
        """The line."""
        told = "".join(f" {name}={_plain(value)}" for name, value in _fields_of(record).items())
        line = f"{record.levelname} {self._actor}: {record.getMessage().translate(_ESCAPED)}{told}"
        if record.exc_info:
            line += "\n" + self.formatException(record.exc_info)
        return _cut(line)


class JsonFormat(logging.Formatter):
    """For machines: an object a line, a traceback in its member ``error``."""

    def __init__(self, actor: str) -> None:
        super().__init__()
        self._actor = actor

    def format(self, record: logging.LogRecord) -> str:
        """The line. Only long texts in it are cut, so that it stays JSON."""
        at = time.strftime("%Y-%m-%dT%H:%M:%S", time.gmtime(record.created))
        told: dict[str, Any] = {
            "time": f"{at}.{int(record.msecs):03d}Z",
            "level": record.levelname.lower(),
            "actor": self._actor,
            "message": _cut(record.getMessage(), MAX_CHARS // 4),
        }
        for name, value in _fields_of(record).items():
            told[name] = _cut(value, MAX_CHARS // 4) if isinstance(value, str) else value
        if record.exc_info:
            told["error"] = _cut(self.formatException(record.exc_info), MAX_CHARS // 4)
        line = json.dumps(told, default=str)
        return line if len(line) <= MAX_CHARS else json.dumps({name: told[name] for name in list(told)[:3]})


def _fields_of(record: logging.LogRecord) -> dict[str, Any]:
    return getattr(record, _FIELDS, {})


def _plain(value: Any) -> str:
    text = f"{value:g}" if isinstance(value, float) else str(value).translate(_ESCAPED)
    return json.dumps(text) if not text or " " in text or '"' in text else text


def _cut(text: str, most: int = MAX_CHARS) -> str:
    return text if len(text) <= most else text[: most - 1] + "…"
