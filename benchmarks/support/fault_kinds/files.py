"""The model's file goes away, or loses its second half, under a server that has it open. It is a copy made for this."""

import asyncio
import os
import shutil
import signal
import tempfile
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import replace
from pathlib import Path

from fault_kinds.judge import Outcome, different
from fault_kinds.rig import Rig, serving
from load import Call

from paceline.engine.store import resolve

_REFUSED_S = 0.1
_FAILED_S = 120.0
_MOST_STARTS = 10


@asynccontextmanager
async def _own_file(rig: Rig) -> AsyncIterator[tuple[Rig, Path]]:
    """A server on a copy of the model's only file."""
    located = resolve.locate(rig.settings.model)
    if len(located.files) != 1:
        raise RuntimeError("the model has several files; pass --model FILE.gguf")
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / Path(located.files[0]).name
        shutil.copyfile(located.files[0], path)
        # What it should bring is asked anew: a name of the library has sampling settings that a bare file has not.
        async with serving(replace(rig.settings, model=str(path)), "cache.num_blocks=2048") as own:
            yield own, path


async def gone(rig: Rig) -> list[Outcome]:
    """The target dies while its file is away: tried again ever more slowly, then failed, until the file is back."""
    async with _own_file(rig) as (own, path):
        before = await own.state()
        outcome = Outcome("target dies, its file is gone")
        away = path.with_suffix(".away")
        path.rename(away)
        pid, begun_s = before.pids["target"], time.monotonic()
        os.kill(pid, signal.SIGKILL)
        body: dict[str, object] = {}
        while time.monotonic() - begun_s < _FAILED_S:
            _, body = await own.ready()
            if body.get("status") == "failed":
                break
            await asyncio.sleep(0.05)
        outcome.seen_s = time.monotonic() - begun_s
        outcome.want(body.get("status") == "failed", f"the state is {body.get('status')!r}, not failed")
        refused = await own.target.stream(Call("Hello", {"max_tokens": 1}))
        refusal_s = refused.ended - refused.started
        starts = int(body.get("actors", {}).get("target", {}).get("restarts", 0))  # type: ignore[attr-defined]
        is_told = "cannot be read" in (refused.error or "")  # by which path only the log says
        outcome.want(is_told, f"the refusal does not name the cause: {refused.error}")
        outcome.want(refusal_s < _REFUSED_S, f"refused after more than {_REFUSED_S:g} s")
        outcome.want(starts <= _MOST_STARTS, f"started more than {_MOST_STARTS} times")
        away.rename(path)
        restored_s = time.monotonic()
        while (await own.ready())[0] != 200 and time.monotonic() - restored_s < _FAILED_S:
            await asyncio.sleep(0.05)
        outcome.back_s = time.monotonic() - restored_s
        outcome.note = f"seen = failed, {starts} starts; 503 in {refusal_s * 1e3:.0f} ms; back = after the file is back"
        await own.judge(outcome, [], before, "target")
        return [outcome]


async def cut(rig: Rig) -> list[Outcome]:
    """The file is cut in half under streams, and made whole again when they are over."""
    async with _own_file(rig) as (own, path):
        before = await own.state()
        whole = path.read_bytes()
        crowd = own.crowd()
        await crowd.reached(0.2)
        outcome = Outcome("file cut under streams", crowd.in_flight)
        os.truncate(path, len(whole) // 2)
        replies = await crowd.ended()
        _, body = await own.ready()
        restarts = sum(actor["restarts"] for actor in body.get("actors", {}).values())
        path.write_bytes(whole)
        begun_s = time.monotonic()
        while (await own.ready())[0] != 200 and time.monotonic() - begun_s < _FAILED_S:
            await asyncio.sleep(0.05)
        outcome.back_s = time.monotonic() - begun_s
        outcome.failed, outcome.different = sum(bool(r.error) for r in replies), len(different(replies, own.right))
        outcome.note = f"{restarts} restarts"
        outcome.want(not any("hung" in (r.error or "") for r in replies), "streams hang")
        outcome.want(not outcome.different, "texts differ")
        same = (await own.state()).pids
        outcome.want(same["gateway"] == before.pids["gateway"], "the gateway died")
        died = [name for name, pid in before.pids.items() if same.get(name) != pid]
        await own.judge(outcome, replies, before, *died)
        return [outcome]
