"""Spawned actors: start, death, restart, failures at start, what is left behind. The roles are fakes."""

import contextlib
import logging
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import anyio
import psutil
import pytest
from fake_actors import CARD, ENTRIES, LOCATED, SUPPORT, config, expected
from simulation import eventually

from paceline.actors import posts, supervisor
from paceline.actors.client import EngineClient
from paceline.actors.messages import Generate, Sampling, TextDelta
from paceline.engine.errors import ActorError

pytestmark = pytest.mark.e2e


@pytest.fixture(autouse=True)
def quiet_and_findable(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[None]:
    """Children find the fakes, sockets go below ``tmp_path``, and no process is left at the end."""
    monkeypatch.setenv("PYTHONPATH", SUPPORT)
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    logging.disable(logging.WARNING)
    yield
    logging.disable(logging.NOTSET)
    assert not psutil.Process().children(recursive=True)
    assert not list(tmp_path.glob("paceline-*"))


async def ask(client: EngineClient, call_id: str, prompt: list[int], num: int) -> list[int]:
    ids: list[int] = []
    call = Generate(call_id, Sampling(max_tokens=num), prompts=[prompt], return_token_ids=True)
    async with contextlib.aclosing(client.generate(call)) as items:
        async for item in items:
            if isinstance(item, TextDelta):
                ids += item.token_ids
    return ids


def pid_of(client: EngineClient, name: str) -> int:
    assert client.state is not None
    return next(a.pid for a in client.state.actors if a.name == name)


def launch(**scheduler: Any) -> Any:
    return EngineClient.launch(config(**scheduler), LOCATED, CARD, entries=ENTRIES)


def test_an_engine_starts_serves_and_leaves_nothing(tmp_path: Path) -> None:
    async def main() -> None:
        async with launch() as client:
            assert await ask(client, "a", [1], 20) == expected([1], 20)
            children = psutil.Process().children()
            assert len(children) == 3
            assert not any("torch" in m.path for c in children for m in c.memory_maps())
            [folder] = tmp_path.glob("paceline-*")
            assert folder.stat().st_mode & 0o777 == 0o700
            assert client.state is not None and client.state.state == "ok"
            assert client.state.hello is not None and client.state.hello.logits_width > 0

    anyio.run(main)


@pytest.mark.parametrize("victim", ["target", "scheduler", "tokenizer"])
def test_a_killed_actor_costs_a_call_nothing(victim: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("FAKE_STEP_S", "0.01")
    monkeypatch.setenv("FAKE_SHRINKS", "1")  # less memory is free at each start, if it may choose

    async def main() -> None:
        async with launch() as client:
            results: dict[str, list[int]] = {}

            async def one(name: str, num: int) -> None:
                results[name] = await ask(client, name, [1], num)

            def is_well() -> bool:
                return client.state is not None and client.state.state == "ok"

            async with anyio.create_task_group() as tasks:
                tasks.start_soon(one, "a", 150)
                await anyio.sleep(0.3)
                os.kill(pid_of(client, victim), signal.SIGKILL)
                await eventually(lambda: not is_well())
                assert client.state is not None and client.state.state == "recovering"
                tasks.start_soon(one, "b", 20)  # it comes while the engine is not whole, and waits
            assert results == {"a": expected([1], 150), "b": expected([1], 20)}
            await eventually(is_well)
            assert client.state is not None
            assert [a.restarts for a in client.state.actors if a.name == victim] == [1]

    anyio.run(main)


@pytest.mark.parametrize("victim", ["scheduler", "tokenizer"])
def test_an_actor_that_stands_still_is_killed_and_its_calls_go_on(
    victim: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("FAKE_STEP_S", "0.01")
    monkeypatch.setattr(posts, "HANG_S", 2.5)

    async def main() -> None:
        async with launch() as client:
            result: list[int] = []

            async def one() -> None:
                result.extend(await ask(client, "a", [1], 150))

            async with anyio.create_task_group() as tasks:
                tasks.start_soon(one)
                await anyio.sleep(0.3)
                os.kill(pid_of(client, victim), signal.SIGSTOP)
            assert result == expected([1], 150)
            assert client.state is not None
            [actor] = [a for a in client.state.actors if a.name == victim]
            assert actor.restarts == 1 and actor.error is not None and "no progress" in actor.error

    anyio.run(main)


@pytest.mark.parametrize(
    ("fault", "message"),
    [("bad file", r"^model\.gguf: ends at byte 7 of 4096; pull the model again$"), ("crash", "RuntimeError: boom")],
)
def test_a_failed_start_gives_its_cause(fault: str, message: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("FAKE_TARGET_FAULT", fault)

    async def main() -> None:
        with pytest.raises(ActorError, match=message):
            async with launch():
                pytest.fail("started")

    anyio.run(main)


def test_a_process_that_dies_without_a_word_is_tried_again_but_not_for_ever(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("FAKE_TARGET_FAULT", "kill")
    monkeypatch.setattr(posts, "RESTART_DELAYS_S", (0.01, 0.02))
    starts: list[str] = []
    spawn = supervisor.spawn

    async def counted(setup: Any) -> Any:
        starts.append(setup.actor)
        return await spawn(setup)

    monkeypatch.setattr(supervisor, "spawn", counted)

    async def main() -> None:
        with pytest.raises(ActorError, match="target cannot start: the process was ended by SIGKILL"):
            async with launch():
                pytest.fail("started")

    anyio.run(main)
    assert starts.count("target") == posts.LOOP_DEATHS


def test_a_target_that_hangs_is_killed_and_its_requests_go_on(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    flag = tmp_path / "hang"
    monkeypatch.setenv("FAKE_HANG_FLAG", str(flag))
    monkeypatch.setattr(posts, "HANG_S", 2.5)

    async def main() -> None:
        async with launch() as client:
            flag.touch()
            assert await ask(client, "a", [1], 30) == expected([1], 30)
            assert client.state is not None
            [target] = [a for a in client.state.actors if a.name == "target"]
            assert target.restarts == 1 and target.error is not None and "no progress" in target.error

    anyio.run(main)


def test_an_actor_leaves_without_taking_the_interpreter_down(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """A thread inside a torch operation would come back to an interpreter that is gone, and abort the process."""
    flag = tmp_path / "taken-down"
    monkeypatch.setenv("FAKE_EXIT_FLAG", str(flag))

    async def main() -> None:
        async with launch() as client:
            assert await ask(client, "a", [1], 2) == expected([1], 2)

    anyio.run(main)
    assert not flag.exists()


def test_an_error_in_the_body_comes_out_as_it_is() -> None:
    async def main() -> None:
        async with launch():
            raise KeyError("mine")

    with pytest.raises(KeyError, match="mine"):
        anyio.run(main)


def test_an_engine_cancelled_while_it_starts_leaves_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("FAKE_TARGET_FAULT", "slow")

    async def main() -> None:
        with anyio.move_on_after(0.5):
            async with launch():
                pytest.fail("started")

    anyio.run(main)


def test_an_actor_that_ends_lets_its_threads_finish(tmp_path: Path) -> None:
    done = tmp_path / "done"
    code = (
        "import pathlib, threading, time\n"
        "from paceline.actors.actor_main import _leave\n"
        f"work = lambda: (time.sleep(0.3), pathlib.Path({str(done)!r}).touch())\n"
        "threading.Thread(target=work).start()\n"
        "threading.Thread(target=time.sleep, args=(60,), daemon=True).start()\n"
        "_leave(7)\n"
    )
    begun = time.monotonic()
    assert subprocess.run([sys.executable, "-P", "-c", code]).returncode == 7
    assert done.exists() and time.monotonic() - begun < 10
