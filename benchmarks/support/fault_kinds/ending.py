"""The whole server is told to end, or its supervisor dies, under streams. Each has a server of its own."""

import asyncio
import os
import signal
import socket
import time

from fault_kinds.deaths import gone
from fault_kinds.judge import Outcome, different
from fault_kinds.rig import Rig, serving
from load import Call

_GONE_S = 5.0
_EXIT_S = 10.0
_REFUSED_S = 0.1


async def drain(rig: Rig) -> list[Outcome]:
    """SIGTERM: what runs is finished, what is new is refused, nothing is left."""
    async with serving(rig.settings, "server.shutdown_timeout_s=120", right=rig.right) as own:
        pids = [p.pid for p in own.server.processes()]
        crowd = own.crowd()
        await crowd.reached(0.2)
        outcome = Outcome("SIGTERM, drain", crowd.in_flight)
        own.server.process.send_signal(signal.SIGTERM)
        await asyncio.sleep(0.3)
        refused = await own.target.stream(Call("Hello", {"max_tokens": 1}))
        replies = await crowd.ended()
        ended_s = time.monotonic()
        status = await asyncio.to_thread(own.server.process.wait, 30)
        outcome.back_s = time.monotonic() - ended_s
        outcome.failed = sum(reply.error is not None for reply in replies)
        outcome.different = len(different(replies, rig.right))
        refusal_s = refused.ended - refused.started
        answer = (refused.error or "taken").split(":")[0]
        outcome.note = f"back = exit after the last stream; a new call: {answer} after {refusal_s:.2f} s"
        outcome.want(refused.error is not None, "a new call was taken")
        outcome.want(refusal_s < _REFUSED_S, f"a new call was refused after more than {_REFUSED_S:g} s")
        outcome.want(not outcome.failed, f"calls failed: {next((r.error for r in replies if r.error), '')}")
        outcome.want(not outcome.different, "texts differ")
        outcome.want(status == 0, f"exit status {status}")
        outcome.want(outcome.back_s < _EXIT_S, f"it ended more than {_EXIT_S:g} s after its last stream")
        outcome.want(all(map(gone, pids)), "processes are left")
        return [outcome]


async def supervisor(rig: Rig) -> list[Outcome]:
    """SIGKILL to the supervisor: everybody ends, and the port is free."""
    async with serving(rig.settings, right=rig.right) as own:
        pids = [p.pid for p in own.server.processes()]
        crowd = own.crowd()
        await crowd.reached(0.2)
        outcome = Outcome("supervisor SIGKILL", crowd.in_flight)
        os.kill(own.server.process.pid, signal.SIGKILL)
        begun_s = time.monotonic()
        await asyncio.to_thread(own.server.process.wait)
        while not all(map(gone, pids)) and time.monotonic() - begun_s < 4 * _GONE_S:
            await asyncio.sleep(0.02)
        gone_s = time.monotonic() - begun_s
        outcome.failed = sum(reply.error is not None for reply in await crowd.ended())
        outcome.note = f"the end of all; no process left after {gone_s:.1f} s"
        outcome.want(gone_s < _GONE_S, f"processes are left after {_GONE_S:g} s")
        outcome.want(_is_free(own.target.port), "the port is still taken")
        return [outcome]


def _is_free(port: int) -> bool:
    with socket.socket() as s:
        s.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)  # closed connections may linger
        try:
            s.bind(("127.0.0.1", port))
        except OSError:
            return False
    return True
