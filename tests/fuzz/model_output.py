"""Model output -> reasoning, tool calls, content: whatever a client has the model write, and however it is cut."""

import json
from random import Random
from typing import Any

from fuzzing.byte_mutator import mutate_bytes
from fuzzing.target import Target

from paceline.actors.messages import Part
from paceline.actors.text.response import formats
from paceline.actors.text.response.parser import ResponseParser
from paceline.actors.text.response.template import load

_TEMPLATES = [load(f.template) for f in formats.families()]
_CALL = '{"name": "get", "arguments": {"city": "Oslo", "n": 1, "deep": {"a": [1, null]}}}'
_TOOLS: list[Any] = [
    {"type": "function", "function": {"name": "get", "parameters": {"type": "object", "properties": {
        "city": {"type": "string"}, "n": {"type": ["integer", "null"]}, "deep": {"type": "object"}}}}}
]  # fmt: skip
_OPENINGS = [f.open for t in _TEMPLATES for f in t.fields.values() if f.open is not None]
_MARKS = sorted({text for opening in _OPENINGS for text in opening.literals})
_PIECES = [*_MARKS, _CALL, "</think>", "</tool_call>", "<function=get>", "<parameter=city>", "</parameter>", "[ARGS]",
           "<arg_key>n</arg_key>", "<arg_value>1</arg_value>", "```json\n", "```", "get", '{"a": ', "}", "]", '"',
           "\\ud800", "9" * 5000, "1e999", "NaN", "\\u",
           "<|\"|>", "\n", " ", "[" * 200, '{"name": "get", "arguments": "{}"}',
           "</function>", "functions.get:0", "call:get{city:", "\ufffd"]  # fmt: skip


def run(data: bytes) -> None:
    """A byte for the format, a byte for the cuts and the prompt's end, the text."""
    if len(data) < 2:
        return
    template, text = _TEMPLATES[data[0] % len(_TEMPLATES)], data[2:].decode(errors="replace")
    prefix = _MARKS[data[1] % len(_MARKS)] if data[1] & 128 else ""
    whole = _read(ResponseParser(template, _TOOLS, prefix=prefix), [text])
    rng, pieces, at = Random(data[1]), list[str](), 0
    while at < len(text):
        size = rng.randint(1, 9)
        pieces.append(text[at : at + size])
        at += size
    assert _read(ResponseParser(template, _TOOLS, prefix=prefix), pieces) == whole, pieces
    for _, arguments in whole[2]:
        arguments.encode()


def _read(parser: ResponseParser, pieces: list[str]) -> tuple[str, str, list[tuple[str, str]]]:
    content, reasoning, calls = "", "", list[tuple[str, str]]()

    def add(parts: list[Part]) -> None:
        nonlocal content, reasoning
        for part in parts:
            match part.kind:
                case "content":
                    content += part.text
                case "reasoning":
                    reasoning += part.text
                case "call":
                    calls.append((part.text, ""))
                case _:
                    calls[-1] = (calls[-1][0], calls[-1][1] + part.text)

    for piece in pieces:
        add(parser.feed(piece))
    add(parser.finish())
    return content, reasoning, calls


def _mutate(data: bytes, rng: Random) -> bytes:
    if rng.random() < 0.4:
        return mutate_bytes(data, rng)
    text = data[2:].decode(errors="replace")
    for _ in range(rng.randint(1, 4)):
        at = rng.randrange(len(text) + 1)
        text = text[:at] + rng.choice(_PIECES) + text[at + rng.choice((0, 0, 5)) :]
    return data[:2] + text.encode(errors="replace")


def _seeds() -> list[bytes]:
    texts = ["<think>\nhm\n</think>\nSo.", f"<tool_call>\n{_CALL}\n</tool_call>", f"Hm. {_CALL}", json.dumps([_CALL]),
             "<tool_call>\n<function=get>\n<parameter=n>\n1\n</parameter>\n</function>\n</tool_call>",
             f"[TOOL_CALLS] [{_CALL}]", '[TOOL_CALLS]get[ARGS]{"n": 1}', *_MARKS]  # fmt: skip
    return [bytes([i, 7 * i % 128]) + text.encode() for i in range(len(_TEMPLATES)) for text in texts]


TARGET = Target(run=run, seeds=_seeds(), mutate=_mutate, most_bytes=1024, expected=())
