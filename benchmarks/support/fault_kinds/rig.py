"""A server, streams on it, and what a fault needs to know of both while they run."""

import asyncio
import contextlib
import json
import sys
import tempfile
import time
from collections import Counter
from collections.abc import AsyncIterator, Callable, Iterator, Sequence
from contextlib import asynccontextmanager, contextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import psutil
from fault_kinds.judge import BackOff, Outcome, State, Told, different, leftovers, told
from load import Call, Reply, Target, read_prompts
from server import Server, free_port, paceline_command

HUNG_S = 180.0
"""A stream that has not ended after this time counts as failed."""
_NUM_AFTER = 8
_SETTLE_S = 20.0
_EVERY_S = 0.02


@dataclass
class Settings:
    """What the command line says."""

    model: str
    clients: int
    max_tokens: int
    rounds: int
    draft: str = ""
    draft_clients: int = 8
    draft_max_tokens: int = 200
    data: Path | None = None
    soak: int = 0
    slow_readers: int = 32
    idle: int = 2000
    prefill_s: float = 0.0
    departures: int = 200
    overrides: list[str] = field(default_factory=list)

    def of_draft(self) -> "Settings":
        """Those of the death of a draft actor, where they differ."""
        return replace(self, clients=self.draft_clients, max_tokens=self.draft_max_tokens)


class Crowd:
    """Streams under way, which may be looked at."""

    def __init__(self, target: Target, calls: Sequence[Call]) -> None:
        self.replies = [Reply(0.0) for _ in calls]
        self._wanted = sum(call.fields["max_tokens"] for call in calls)
        self._tasks = [
            asyncio.create_task(_bounded(target, call, reply)) for call, reply in zip(calls, self.replies, strict=True)
        ]

    @property
    def share(self) -> float:
        """How much of all tokens has come."""
        return sum(num for reply in self.replies for _, num in reply.arrivals) / self._wanted

    @property
    def in_flight(self) -> int:
        """Streams that have begun and not ended."""
        return sum(bool(reply.started) and not reply.ended for reply in self.replies)

    async def reached(self, share: float) -> None:
        """Wait until so much has come.

        Raises:
            RuntimeError: all streams have ended before: a fault now would meet nobody.
        """
        while self.share < share:
            if all(task.done() for task in self._tasks):
                errors = {reply.error for reply in self.replies}
                raise RuntimeError(f"all streams have ended at {self.share:.0%} of their tokens: {errors}")
            await asyncio.sleep(_EVERY_S)

    async def ended(self) -> list[Reply]:
        """All of them, when the last has ended."""
        await asyncio.gather(*self._tasks)
        return self.replies


async def _bounded(target: Target, call: Call, reply: Reply) -> None:
    try:
        async with asyncio.timeout(HUNG_S):
            await target.stream(call, reply)
    except TimeoutError:
        reply.ended, reply.error = time.monotonic(), f"hung: no end after {HUNG_S:g} s"


class Rig:
    """One server under test."""

    def __init__(self, server: Server, settings: Settings, start_s: float) -> None:
        self.server, self.settings, self.start_s = server, settings, start_s
        self.target = Target(server.url)
        self.back_off = BackOff(time.monotonic())
        self.right: dict[str, Told] = {}
        """What the calls should bring."""
        self.first_fds: dict[str, int] = {}
        """Before any fault: what a fault leaves behind adds up until it is seen."""

    def calls(self) -> list[Call]:
        """One a client, in turn greedy and seeded; the same ones each time, and no two alike."""
        prompts = read_prompts(self.settings.data)
        found: list[Call] = []
        for i in range(self.settings.clients):
            how = {"temperature": 0} if i % 2 == 0 else {"temperature": 0.9, "seed": i}
            fields: dict[str, Any] = {"ignore_eos": True, "return_token_ids": True} | how
            fields["max_tokens"] = self.settings.max_tokens - i % 7
            found.append(Call(f"{i}. {prompts[i % len(prompts)]}", fields, name=str(i)))
        return found

    def crowd(self, calls: Sequence[Call] | None = None) -> Crowd:
        """The calls, all at once, under way when this returns."""
        return Crowd(self.target, self.calls() if calls is None else calls)

    async def ids(self, token_ids: Sequence[int], max_tokens: int) -> str:
        """A completion of a prompt of ids, not streamed; what went wrong, empty = nothing."""
        target = self.target
        body = json.dumps({"model": await target.find_model(), "prompt": list(token_ids), "max_tokens": max_tokens})
        try:
            reader, writer = await asyncio.open_connection(target.host, target.port)
            try:
                head = f"POST /v1/completions HTTP/1.1\r\n{target.headers}Content-Length: {len(body)}\r\n\r\n"
                writer.write(head.encode() + body.encode())
                answer = await reader.read()
            finally:
                writer.close()
        except OSError as e:
            return f"{type(e).__name__}: {e}"
        return "" if answer.startswith(b"HTTP/1.1 200") else answer[:300].decode(errors="replace")

    async def undisturbed(self) -> dict[str, Told]:
        """What comes of the calls while nobody does anything to the server."""
        return told(await self.crowd().ended())

    async def ready(self, timeout_s: float = 1.0) -> tuple[int, dict[str, Any]]:
        """Status and body of /ready; 0 and nothing if nobody answers in time."""
        with contextlib.suppress(OSError, EOFError, ValueError, IndexError, TimeoutError):
            async with asyncio.timeout(timeout_s):
                status, body = await self.target.get("/ready")
                return status, json.loads(body)
        return 0, {}

    async def metric(self, name: str) -> float:
        """A sample of /metrics, summed over labels."""
        _, body = await self.target.get("/metrics")
        lines = [line for line in body.decode().splitlines() if line.startswith((name + " ", name + "{"))]
        return sum(float(line.rpartition(" ")[2]) for line in lines)

    async def state(self, *, memory: bool = False) -> State:
        """What the server holds now."""
        status, body = await self.ready(5.0)
        pids = {name: actor["pid"] for name, actor in body.get("actors", {}).items() if actor["pid"]}
        pids["supervisor"] = self.server.process.pid
        fds: dict[str, int] = {}
        for name, pid in pids.items():
            with contextlib.suppress(psutil.Error):
                fds[name] = psutil.Process(pid).num_fds()
        return State(
            running=body.get("running", -1),
            waiting=body.get("waiting", -1),
            free_blocks=body.get("free_blocks", -1),
            total_blocks=body.get("total_blocks", 0),
            is_ok=status == 200 and body["status"] == "ok",
            pids=pids,
            fds=fds,
            num_processes=len(self.server.processes()),
            memory=self._memory(pids) if memory else {},
        )

    def _memory(self, pids: dict[str, int]) -> dict[str, int]:
        names, found = {pid: name for name, pid in pids.items()}, Counter[str]()
        for process in self.server.processes():
            found[names.get(process.pid, "helpers")] += process.memory_full_info().pss
        return dict(found)

    async def eventually(self, condition: Callable[[State], bool], within_s: float = _SETTLE_S) -> float | None:
        """Seconds until the state is so; None if it never was. The server counts blocks and requests once a second."""
        begun_s = time.monotonic()
        while time.monotonic() - begun_s < within_s:
            if condition(await self.state()):
                return time.monotonic() - begun_s
            await asyncio.sleep(_EVERY_S)
        return None

    async def judge(self, outcome: Outcome, replies: Sequence[Reply], before: State, *died: str) -> Outcome:
        """The streams that a fault met, the server behind it, and the same calls once more."""
        outcome.failed = sum(reply.error is not None for reply in replies)
        outcome.different = len(different(replies, self.right))
        before = replace(before, fds=self.first_fds)
        left = leftovers(before, await self.state(), died)
        deadline_s = time.monotonic() + _SETTLE_S
        while left and time.monotonic() < deadline_s:
            await asyncio.sleep(0.2)
            left = leftovers(before, await self.state(), died)
        outcome.faults += left
        again = await self.crowd(self.calls()[:_NUM_AFTER]).ended()
        errors = {reply.error for reply in again if reply.error}
        outcome.want(not errors, f"calls fail afterwards: {errors}")
        outcome.want(not different(again, self.right), "texts differ afterwards")
        outcome.want(not outcome.different, "texts differ")
        return outcome


@contextmanager
def running(settings: Settings, options: Sequence[str]) -> Iterator[tuple[Server, float]]:
    """A server that is ready, and the seconds that took; the end of its log is shown if anything goes wrong."""
    port = free_port()
    told_to = [word for option in (*options, *settings.overrides) for word in ("-s", option)]
    with tempfile.TemporaryDirectory() as folder:
        log = Path(folder) / "server.log"
        with Server(paceline_command(settings.model, port, told_to), port, log=log) as server:
            try:
                yield server, server.wait()
            except BaseException:
                print("".join(log.read_text(errors="replace").splitlines(True)[-20:]), file=sys.stderr)
                raise


@asynccontextmanager
async def serving(settings: Settings, *options: str, right: dict[str, Told] | None = None) -> AsyncIterator[Rig]:
    """A server that has answered a few calls; ``right`` is what all of them should bring."""
    with running(settings, options) as (server, start_s):
        rig = Rig(server, settings, start_s)
        await rig.crowd(rig.calls()[:4]).ended()
        rig.right = await rig.undisturbed() if right is None else right
        rig.first_fds = (await rig.state()).fds
        yield rig
