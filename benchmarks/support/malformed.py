"""Requests that no client should send: each must be answered with a 4xx, at once and in a few words."""

import json
from typing import Any

from load import Target

_CHAT = "/v1/chat/completions"
_TEXT = "/v1/completions"


def requests(target: Target, model: str) -> dict[str, bytes]:
    """By name, the bytes of each, head and body."""
    hello = [{"role": "user", "content": "Hello"}]

    def chat(**fields: Any) -> bytes:
        return target.post(_CHAT, json.dumps({"model": model, "messages": hello, "max_tokens": 4} | fields).encode())

    def text(**fields: Any) -> bytes:
        return target.post(_TEXT, json.dumps({"model": model, "max_tokens": 4} | fields).encode())

    def head(*lines: str, length: int = 2) -> bytes:
        told = "".join(f"{line}\r\n" for line in lines)
        return f"POST {_CHAT} HTTP/1.1\r\nHost: {target.host}\r\n{told}Content-Length: {length}\r\n\r\n{{}}".encode()

    return {
        "no JSON": target.post(_CHAT, b"hello"),
        "nothing": target.post(_CHAT, b""),
        "cut JSON": target.post(_CHAT, b'{"model": "x", "messages": [{"role"'),
        "a list": target.post(_CHAT, b"[1, 2]"),
        "bytes that are no UTF-8": target.post(_CHAT, b'{"model": "\xff\xfe"}'),
        "half a surrogate pair": target.post(_TEXT, b'{"model": "x", "prompt": "\\ud800"}'),
        "NaN": target.post(_CHAT, b'{"temperature": NaN}'),
        "100,000 levels": target.post(_CHAT, b'{"messages": ' + b"[" * 100_000 + b"]" * 100_000 + b"}"),
        "an integer of 4,301 digits": target.post(_CHAT, b'{"max_tokens": ' + b"9" * 4301 + b"}"),
        "no messages": chat(messages=[]),
        "messages that are a number": chat(messages=7),
        "an unknown role": chat(messages=[{"role": "king", "content": "Hello"}]),
        "temperature 1e999": target.post(_CHAT, b'{"messages": [{"role":"user","content":"x"}], "temperature": 1e999}'),
        "temperature -1": chat(temperature=-1),
        "n = 10^12": chat(n=10**12),
        "max_tokens -5": chat(max_tokens=-5),
        "a bias beyond the vocabulary": chat(logit_bias={"99999999": 1}),
        "an empty prompt": text(prompt=[]),
        "id -1": text(prompt=[-1]),
        "an id beyond the vocabulary": text(prompt=[10**7]),
        "id 2^63": text(prompt=[2**63]),
        "an over-long prompt": text(prompt="word " * 100_000),
        "another model": target.post(_CHAT, json.dumps({"model": "no/such", "messages": hello}).encode()),
        "plain text": head("Content-Type: text/plain"),
        "a body of 100 GB": head("Content-Type: application/json", length=10**11),
        "a length of -1": head("Content-Type: application/json", length=-1),
        "3,000 headers": head(*(f"X-{i}: 1" for i in range(3000))),
        "a header of 200 KB": head("X-Long: " + "x" * 200_000),
        "no such route": target.post("/v1/none", b"{}"),
    }


def is_refusal(status: int) -> bool:
    """Whether this blames the client, and only it."""
    return 400 <= status < 500
