"""Plain HTTP calls for end-to-end tests, with no client library between us and the bytes."""

import json
import time
import urllib.error
import urllib.request
from concurrent.futures import ThreadPoolExecutor
from typing import Any


def get(url: str, timeout: float = 30.0, key: str = "") -> tuple[int, bytes]:
    """Status and body of a GET."""
    request = urllib.request.Request(url, headers={"Authorization": f"Bearer {key}"} if key else {})
    try:
        with urllib.request.urlopen(request, timeout=timeout) as answer:
            return answer.status, answer.read()
    except urllib.error.HTTPError as e:
        return e.code, e.read()


def post(url: str, body: Any, timeout: float = 120.0, headers: dict[str, str] | None = None) -> tuple[int, Any]:
    """POST ``body`` (bytes as they are, else JSON); status and decoded answer."""
    data = body if isinstance(body, bytes) else json.dumps(body).encode()
    head = {"Content-Type": "application/json"} | (headers or {})
    request = urllib.request.Request(url, data, head)
    try:
        with urllib.request.urlopen(request, timeout=timeout) as answer:
            return answer.status, json.loads(answer.read())
    except urllib.error.HTTPError as e:
        return e.code, json.loads(e.read())


def completion(url: str, prompt_ids: list[int], **fields: Any) -> dict[str, Any]:
    """One completion of token ids; its first choice, with token ids, and the usage."""
    code, answer = post(f"{url}/v1/completions", {"prompt": prompt_ids, "return_token_ids": True} | fields)
    assert code == 200, answer
    return answer["choices"][0] | {"usage": answer["usage"]}


def together(calls: list[Any]) -> list[Any]:
    """Results of thunks run at the same time, in order."""
    with ThreadPoolExecutor(len(calls)) as pool:
        return [f.result() for f in [pool.submit(c) for c in calls]]


def metrics(url: str, only: str = "") -> dict[str, float]:
    """All samples of /metrics, or those of lines that hold ``only``, summed over labels."""
    found: dict[str, float] = {}
    for line in get(f"{url}/metrics")[1].decode().splitlines():
        if line and not line.startswith("#") and only in line:
            name, value = line.rsplit(" ", 1)
            key = name.split("{")[0]
            found[key] = found.get(key, 0.0) + float(value)
    return found


def ready(url: str, key: str = "") -> dict[str, Any]:
    """The body of /ready."""
    return json.loads(get(f"{url}/ready", key=key)[1])


def eventually(condition: Any, seconds: float = 5.0, every: float = 0.02) -> float:
    """Seconds until ``condition()`` is true; fails when it does not become so."""
    begun = time.monotonic()
    while not condition():
        assert time.monotonic() - begun < seconds, "did not happen in time"
        time.sleep(every)
    return time.monotonic() - begun
