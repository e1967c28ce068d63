"""Deltas -> events -> deltas, in every dialect: a client that reads the stream has the text, whatever is in it."""

import json
from typing import Any

from fuzzing.calls import PATHS, gateway
from fuzzing.target import Target

from paceline.actors.http.errors import Problem
from paceline.actors.messages import Admitted, Part, PromptInfo, TextDelta

_BODIES: dict[str, dict[str, Any]] = {
    "/v1/chat/completions": {"messages": [{"role": "user", "content": "hi"}], "stream": True,
                             "stream_options": {"include_usage": True, "continuous_usage_stats": True}},
    "/v1/completions": {"prompt": "x", "stream": True, "stream_options": {"include_usage": True}, "max_tokens": 9},
    "/v1/responses": {"input": "x", "stream": True},
    "/v1/messages": {"max_tokens": 9, "messages": [{"role": "user", "content": "hi"}], "stream": True},
    "/api/chat": {"messages": [{"role": "user", "content": "hi"}]},
    "/api/generate": {"prompt": "hi"},
}  # fmt: skip
_ROUTES = [PATHS.index(path) for path in _BODIES]


def run(data: bytes) -> None:
    """A byte for the route and whether it fails, then texts between zero bytes; the first byte of each is its kind."""
    route = _ROUTES[data[0] % len(_ROUTES)] if data else _ROUTES[0]
    fails = bool(data) and data[0] >= 200
    exchange = gateway().open(route, json.dumps(_BODIES[PATHS[route]]).encode())
    writer = exchange.writer(Admitted("c", [PromptInfo(1, [1], "x")]), {})
    out, sent = [writer.begin()], ""
    pieces = data[1:].split(b"\x00")[:64]
    for i, raw in enumerate(pieces):
        text = raw[1:].decode(errors="replace")
        reasons = PATHS[route] != "/v1/completions" and raw[:1] > b"\x80"
        parts = [Part("reasoning", text), Part("content", text)] if reasons else []
        is_last = i == len(pieces) - 1
        delta = TextDelta("c", 0, len(sent), text, i + 1, finish_reason="stop" if is_last else None, parts=parts)
        out.append(writer.add(delta))
        sent += text
    if fails:
        out.append(writer.failed(Problem(status=503, type="unavailable_error", message=sent[:200])))
    else:
        out.append(writer.last())
    raw = b"".join(out)
    found = _lines(raw) if PATHS[route].startswith("/api/") else _events(raw)
    assert "".join(_content(event) for event in found) == sent
    assert not (fails and b"[DONE]" in raw.splitlines()[-1:])


def _events(raw: bytes) -> list[Any]:
    """Server-sent events as the standard's parser reads them: lines end at CR, LF or both, and nowhere else."""
    found: list[Any] = []
    text = raw.decode()
    assert "\r" not in text
    for block in text.split("\n\n"):
        lines = [line for line in block.split("\n") if line]
        assert sum(line.startswith("data: ") for line in lines) <= 1, block
        for line in lines:
            assert line.startswith(("data: ", "event: ")), line
            if line.startswith("data: ") and line != "data: [DONE]":
                found.append(json.loads(line.removeprefix("data: ")))
    return found


def _lines(raw: bytes) -> list[Any]:
    return [json.loads(line) for line in raw.split(b"\n") if line]


def _content(event: dict[str, Any]) -> str:
    """Text of the answer in one event of any dialect."""
    if "choices" in event:
        return "".join(c.get("text") or c.get("delta", {}).get("content") or "" for c in event["choices"])
    match event.get("type"):
        case "response.output_text.delta":
            return event["delta"]
        case "content_block_delta":
            return event["delta"].get("text", "")
        case None:
            return event.get("response") or (event.get("message") or {}).get("content", "")
        case _:
            return ""


_TEXTS = ["data: x\n\n", "\r\n", "\u2028\u2029\x85", "[DONE]", "event: error", '"}]}', "\U0001f98a", "\ufffd", "\x1b"]
_seeds = [bytes([i]) + b"\x00".join(b"\x01" + t.encode() for t in _TEXTS) for i in range(len(_BODIES))]
TARGET = Target(run=run, seeds=[*_seeds, *(bytes([200 + i]) + s[1:] for i, s in enumerate(_seeds))], most_bytes=4096)
