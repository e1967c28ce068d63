"""Malformed and hostile requests beside ordinary streams: refused at once, and nobody else notices."""

import asyncio
import contextlib
import json
import time

from fault_kinds.judge import Outcome
from fault_kinds.rig import Rig
from hostile import shapes
from load import Call
from malformed import is_refusal, requests

_ANSWER_BYTES = 10_000
_ANSWER_S = 30.0


async def answer(rig: Rig, request: bytes) -> tuple[int, int, float]:
    """Status (0: none came), bytes of the answer and seconds until it came."""
    begun_s, told = time.monotonic(), b""
    reader, writer = await asyncio.open_connection(rig.target.host, rig.target.port)
    try:
        writer.write(request)
        with contextlib.suppress(OSError, TimeoutError):
            async with asyncio.timeout(_ANSWER_S):
                while data := await reader.read(65536):
                    told += data
                    if _is_whole(told):
                        break
    finally:
        writer.close()
    words = told.split(maxsplit=2)
    return int(words[1]) if len(words) > 1 and words[1].isdigit() else 0, len(told), time.monotonic() - begun_s


def _is_whole(told: bytes) -> bool:
    """Whether the answer is complete although the connection is open, as after a body that was not read."""
    head, blank, body = told.partition(b"\r\n\r\n")
    for line in head.lower().split(b"\r\n"):
        if line.startswith(b"content-length:"):
            return bool(blank) and len(body) >= int(line.partition(b":")[2])
    return False


async def bodies(rig: Rig) -> list[Outcome]:
    """Each malformed request must have a 4xx; each hostile shape a 4xx or an answer, and never a 5xx."""
    before = await rig.state()
    model = await rig.target.find_model()
    crowd = rig.crowd()
    await crowd.reached(0.02)
    outcome, wrong, slowest_s, slowest = Outcome("malformed bodies", crowd.in_flight), [], 0.0, ""
    bad = requests(rig.target, model)
    for name, request in bad.items():
        status, num_bytes, took_s = await answer(rig, request)
        if not is_refusal(status) or num_bytes > _ANSWER_BYTES:
            wrong.append(f"{name}: status {status}, {num_bytes} bytes")
        if took_s > slowest_s:
            slowest_s, slowest = took_s, name
    replies = await crowd.ended()
    outcome.note = f"{len(bad) - len(wrong)} of {len(bad)} are 4xx; slowest {1e3 * slowest_s:.0f} ms ({slowest})"
    outcome.faults += wrong
    await rig.judge(outcome, replies, before)
    outcome.want(not outcome.failed, f"calls failed: {next((r.error for r in replies if r.error), '')}")
    return [outcome, await _shapes(rig, model)]


async def _shapes(rig: Rig, model: str) -> Outcome:
    lawful = {"response_format": {"type": "json_object"}, "max_tokens": 4}
    await rig.target.stream(Call("Answer.", lawful))  # the first shape of all starts the process that judges shapes
    before = await rig.state()
    crowd = rig.crowd()
    await crowd.reached(0.02)
    outcome = Outcome("hostile schemas", crowd.in_flight)
    statuses: list[int] = []
    for number, (name, make) in enumerate(shapes().items()):
        call = Call("Answer.", {"model": model, "max_tokens": 8} | make(number))
        body = {"messages": [{"role": "user", "content": call.prompt}]} | call.fields
        status, _, took_s = await answer(rig, rig.target.post("/v1/chat/completions", json.dumps(body).encode()))
        statuses.append(status)
        outcome.want(status == 200 or is_refusal(status), f"{name}: status {status} after {took_s:.1f} s")
    replies = await crowd.ended()
    outcome.note = f"{sum(map(is_refusal, statuses))} are 4xx, {statuses.count(200)} are lawful and answered"
    await rig.judge(outcome, replies, before)
    outcome.want(not outcome.failed, f"calls failed: {next((r.error for r in replies if r.error), '')}")
    return outcome
