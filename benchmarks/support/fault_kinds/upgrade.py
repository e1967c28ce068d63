"""A newer server takes the port over under streams, and the one before takes it back the same way."""

import asyncio
import http.client
import json
import sys
import tempfile
import threading
import time
from collections.abc import Callable
from contextlib import ExitStack
from pathlib import Path

from fault_kinds.deaths import gone
from fault_kinds.judge import Outcome, different
from fault_kinds.rig import Rig, serving
from server import Server

_PATIENCE_S = 120.0
_CALLERS = 4
_PAUSE_S = 0.02


class Callers:
    """Short calls one after the other, each caller's on a connection that it keeps as long as the server lets it."""

    def __init__(self, port: int) -> None:
        self.num_calls = 0
        self.errors: list[str] = []
        self._port = port
        self._is_over = threading.Event()
        self._threads = [threading.Thread(target=self._call, daemon=True) for _ in range(_CALLERS)]
        for thread in self._threads:
            thread.start()

    def end(self) -> None:
        """No more calls; returns when the last is answered."""
        self._is_over.set()
        for thread in self._threads:
            thread.join()

    def _call(self) -> None:
        connection = http.client.HTTPConnection("127.0.0.1", self._port, timeout=60)
        body = json.dumps({"prompt": "Hello", "max_tokens": 2})
        while not self._is_over.is_set():
            try:
                connection.request("POST", "/v1/completions", body, {"content-type": "application/json"})
                answer = connection.getresponse()  # an answer that says "close" has the next call open a new one
                answer.read()
                if answer.status != 200:
                    self.errors.append(f"{answer.status} {answer.reason}")
            except (OSError, http.client.HTTPException) as e:
                self.errors.append(f"{type(e).__name__}: {e}")
                connection.close()
            self.num_calls += 1
            time.sleep(_PAUSE_S)
        connection.close()


async def _replaced(rig: Rig, newer: Server, old_pid: int) -> float:
    """Seconds until new connections are answered by another gateway.

    Raises:
        RuntimeError: they are not.
    """
    while time.monotonic() - newer.started < _PATIENCE_S and newer.process.poll() is None:
        _, body = await rig.ready()
        if body.get("actors", {}).get("gateway", {}).get("pid", old_pid) not in (old_pid, None):
            return time.monotonic() - newer.started
        await asyncio.sleep(0.02)
    raise RuntimeError(f"no other gateway answers {_PATIENCE_S:g} s after paceline upgrade; read its log")


async def _take_over(rig: Rig, start: Callable[[], Server], name: str) -> tuple[Outcome, Rig]:
    """What became of streams and calls while a newer server took the port over; and the rig of the newer one."""
    before = await rig.state()
    crowd = rig.crowd()
    callers = Callers(rig.target.port)
    await crowd.reached(0.2)
    outcome = Outcome(name, crowd.in_flight)
    newer = start()
    outcome.back_s = await _replaced(rig, newer, before.pids["gateway"])
    replies = await crowd.ended()
    ended_s = time.monotonic()
    status = await asyncio.to_thread(rig.server.process.wait, 60)
    exit_s = time.monotonic() - ended_s
    await asyncio.to_thread(callers.end)
    errors = [reply.error for reply in replies if reply.error] + callers.errors
    outcome.failed, outcome.different = len(errors), len(different(replies, rig.right))
    outcome.note = f"back = the newer answers; {callers.num_calls} short calls, too; exit {exit_s:.1f} s after streams"
    outcome.want(not errors, f"calls failed: {errors[:1]}")
    outcome.want(not outcome.different, "texts differ")
    outcome.want(status == 0, f"the older one's exit status is {status}")
    outcome.want(all(map(gone, before.pids.values())), "processes of the older one are left")
    after = Rig(newer, rig.settings, rig.start_s)
    after.right = rig.right
    return outcome, after


async def upgrade(rig: Rig) -> list[Outcome]:
    """The same command line again, which takes over; and once more, which is how one goes back."""
    outcomes: list[Outcome] = []
    options = ("server.shutdown_timeout_s=120", "cache.num_blocks=2048")
    async with serving(rig.settings, *options, right=rig.right) as own:
        with ExitStack() as stack:
            folder = Path(stack.enter_context(tempfile.TemporaryDirectory()))
            port = own.target.port
            command = [str(Path(sys.executable).parent / "paceline"), "upgrade", "--port", str(port)]
            now = own
            for name in ("upgrade", "roll-back"):

                def start(log: Path = folder / f"{name}.log") -> Server:
                    return stack.enter_context(Server(command, port, log=log))

                outcome, now = await _take_over(now, start, name)
                outcomes.append(outcome)
    return outcomes
