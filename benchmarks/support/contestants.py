"""Servers that are measured in turn: all are alive for the whole run, and only the one that is asked works.

So a round of one and the next round of another lie seconds apart, and a slow minute of the machine hits both. An idle
server must not take the cores from the busy one: how much it took is measured with each round and told.
"""

import asyncio
import os
import time
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import psutil
from load import Call, Reply, Target, closed_loop
from server import Server, free_port, paceline_command, sigterm_waits
from spec_counters import Counters, difference, parse

_SETTLE_S = 5.0
"""Actors report their counts now and then: within this time all of a round's are there."""


@dataclass
class Contestant:
    """A configuration and its server. ``methods`` [] = without speculation."""

    name: str
    methods: list[str]
    arguments: list[str]
    """Of ``paceline serve``, behind the model's name."""
    fields: dict[str, Any] = field(default_factory=dict)
    """Further fields of each body."""
    server: Server | None = None
    target: Target = field(init=False)

    def start(self, model: str, log: Path) -> float:
        """Seconds until all its processes work.

        Raises:
            RuntimeError: the server ended; its log says why.
        """
        port = free_port()
        with sigterm_waits():
            self.server = Server(paceline_command(model, port, self.arguments), port, log=log)
        self.target = Target(self.server.url)
        try:
            took_s = self.server.wait(timeout=300)
            return took_s + self._wait_for_all()
        except RuntimeError as e:
            end = "\n".join(log.read_text(errors="replace").splitlines()[-8:])
            raise RuntimeError(f"{self.name}: {e}\n{end}") from e

    def _wait_for_all(self) -> float:
        """A server is ready before its draft model is; drafts are to be measured."""
        assert self.server is not None
        begun = time.monotonic()
        while time.monotonic() - begun < 300:
            counters = asyncio.run(self.counters())
            up = [value for name, value in counters.items() if name.startswith("paceline_actor_up/")]
            if up and all(up):
                return time.monotonic() - begun
            if self.server.process.poll() is not None:
                raise RuntimeError("the server ended")
            time.sleep(0.1)
        raise RuntimeError("an actor did not come up in 300 s")

    async def counters(self) -> Counters:
        """Of now."""
        return parse((await self.target.get("/metrics"))[1].decode())

    def cpu_s(self) -> float:
        """Processor seconds used since the start by all its processes."""
        if self.server is None:
            return 0.0
        total = 0.0
        for process in self.server.processes():
            with suppress(psutil.Error):
                times = process.cpu_times()
                total += times.user + times.system
        return total

    def stop(self) -> None:
        """Its processes are gone afterwards."""
        if self.server is not None:
            self.server.__exit__(None, None, None)
            self.server = None


@dataclass
class Round:
    """What one contestant did with one list of calls."""

    replies: list[Reply]
    counts: Counters
    """Of its server, between start and end."""
    busy: dict[str, float]
    """Share of all cores: ``server``, ``client``, ``idle_servers``, and ``others`` = who else ran on this machine."""


async def play(contestants: Sequence[Contestant], mine: Contestant, calls: Sequence[Call], concurrency: int) -> Round:
    """One closed-loop round of ``mine``, the others idle; counts are read once all reports are in."""
    before = await mine.counters()
    clocks, own, all_busy, begun = _clocks(contestants), _own_cpu_s(), _machine_cpu_s(), time.monotonic()
    replies = await closed_loop(mine.target, calls, concurrency)
    core_s = (time.monotonic() - begun) * (os.cpu_count() or 1)
    used = {name: now - clocks[name] for name, now in _clocks(contestants).items()}
    client, machine = _own_cpu_s() - own, _machine_cpu_s() - all_busy
    counts = await _settled(mine, before, sum(reply.output_tokens for reply in replies))
    busy = {
        "server": used[mine.name] / core_s,
        "client": client / core_s,
        "idle_servers": sum(s for name, s in used.items() if name != mine.name) / core_s,
        "others": max(0.0, machine - sum(used.values()) - client) / core_s,
    }
    return Round(replies, counts, busy)


async def _settled(mine: Contestant, before: Counters, num_tokens: int) -> Counters:
    deadline = time.monotonic() + _SETTLE_S
    while True:
        counts = difference(before, await mine.counters())
        if counts.get("vllm:generation_tokens_total", 0) >= num_tokens or time.monotonic() > deadline:
            return counts
        await asyncio.sleep(0.1)


def _clocks(contestants: Sequence[Contestant]) -> Mapping[str, float]:
    return {contestant.name: contestant.cpu_s() for contestant in contestants}


def _own_cpu_s() -> float:
    times = psutil.Process().cpu_times()
    return times.user + times.system


def _machine_cpu_s() -> float:
    times = psutil.cpu_times()
    return times.user + times.system + getattr(times, "nice", 0.0)
