"""Both mailboxes keep the same promises; what only sockets can do wrong is tested on sockets."""

import asyncio
import os
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import anyio
import pytest
import zmq

from paceline.actors import zmq_mailbox
from paceline.actors.mailbox import Mailbox, MailboxFull
from paceline.actors.memory_mailbox import Faults, MemoryNetwork
from paceline.actors.messages import Abort, Stop
from paceline.actors.supervisor import private_folder
from paceline.actors.zmq_mailbox import ZmqMailbox, endpoint
from paceline.engine.errors import ConfigError

Make = Callable[..., Any]


@pytest.fixture(params=["zmq", "memory"])
def run(request: pytest.FixtureRequest) -> Callable[[Callable[[Make], Any]], None]:
    """Runs ``main(make)`` with a maker of mailboxes of one network."""

    def runner(main: Callable[[Make], Any]) -> None:
        async def wrapped() -> None:
            made: list[Mailbox] = []
            network = MemoryNetwork()
            with private_folder() as folder:

                def make(name: str, epoch: int = 0, epochs: dict[str, int] | None = None) -> Mailbox:
                    box = (
                        ZmqMailbox(name, epoch, folder, epochs)
                        if request.param == "zmq"
                        else network.mailbox(name, epoch, epochs)
                    )
                    made.append(box)
                    return box

                with anyio.fail_after(20):
                    await main(make)
                for box in made:
                    box.close()
                assert not os.listdir(folder)

        anyio.run(wrapped)

    return runner


def test_order_is_kept_and_the_sender_is_named(run: Any) -> None:
    async def main(make: Make) -> None:
        scheduler, tokenizer = make("scheduler"), make("tokenizer")
        for i in range(50):
            tokenizer.send("scheduler", Abort(str(i)))
        tokenizer.send_all("scheduler", [Abort(str(i)) for i in range(50, 100)])
        tokenizer.send_all("scheduler", [])
        got = [await scheduler.receive() for _ in range(100)]
        assert got == [("tokenizer", Abort(str(i))) for i in range(100)]

    run(main)


def test_a_message_may_be_sent_before_its_receiver_is_there(run: Any) -> None:
    async def main(make: Make) -> None:
        tokenizer = make("tokenizer")
        tokenizer.send("scheduler", Stop())
        await anyio.sleep(0.05)
        assert await make("scheduler").receive() == ("tokenizer", Stop())

    run(main)


def test_an_unread_queue_is_full_at_last_and_loses_nothing(run: Any) -> None:
    async def main(make: Make) -> None:
        scheduler, tokenizer = make("scheduler"), make("tokenizer")
        sent = 0
        with pytest.raises(MailboxFull, match="scheduler"):
            for sent in range(100_000):
                tokenizer.send("scheduler", Abort(f"{sent:05}" + "x" * 1000))
        assert 1000 <= sent < 50_000
        with pytest.raises(MailboxFull):
            tokenizer.send_all("scheduler", [Abort("y")])
        for i in range(sent):
            _, message = await scheduler.receive()
            assert message.request_id[:5] == f"{i:05}"
        tokenizer.send("scheduler", Stop())
        assert await scheduler.receive() == ("tokenizer", Stop())

    run(main)


def test_a_replacement_gets_nothing_that_was_meant_for_the_dead(run: Any) -> None:
    async def main(make: Make) -> None:
        tokenizer = make("tokenizer")
        first = make("scheduler", 0)
        tokenizer.send("scheduler", Abort("seen"))
        assert (await first.receive())[1] == Abort("seen")
        first.close()
        tokenizer.send("scheduler", Abort("meant for the dead"))
        second = make("scheduler", 1)
        tokenizer.lost("scheduler", 0)
        tokenizer.send("scheduler", Abort("meant for the new"))
        assert (await second.receive())[1] == Abort("meant for the new")

    run(main)


def test_the_dead_are_not_heard_once_their_replacement_spoke(run: Any) -> None:
    async def main(make: Make) -> None:
        scheduler = make("scheduler")
        old, new = make("tokenizer", 0), make("tokenizer", 1)
        new.send("scheduler", Abort("new"))
        assert (await scheduler.receive())[1] == Abort("new")
        old.send("scheduler", Abort("old"))
        await anyio.sleep(0.05)
        new.send("scheduler", Abort("newer"))
        assert (await scheduler.receive())[1] == Abort("newer")
        scheduler.send("tokenizer", Stop())  # goes to the new one by itself
        assert await new.receive() == ("scheduler", Stop())

    run(main)


def test_receiving_lets_other_tasks_run_under_a_flood(run: Any) -> None:
    async def main(make: Make) -> None:
        scheduler, tokenizer = make("scheduler"), make("tokenizer")
        for i in range(500):
            tokenizer.send("scheduler", Abort(str(i)))
        await anyio.sleep(0.1)
        turns = 0

        async def other() -> None:
            nonlocal turns
            while True:
                turns += 1
                await asyncio.sleep(0)

        async with anyio.create_task_group() as tasks:
            tasks.start_soon(other)
            for _ in range(500):
                await scheduler.receive()
            tasks.cancel_scope.cancel()
        assert turns > 5

    run(main)


def test_a_peer_that_sends_rubbish_is_counted_and_kept() -> None:
    async def main() -> None:
        with private_folder() as folder:
            scheduler = ZmqMailbox("scheduler", 0, folder)
            context = zmq.Context()
            peer = context.socket(zmq.DEALER)
            peer.set(zmq.IDENTITY, b"tokenizer.0")
            peer.connect(endpoint(folder, "scheduler", 0))
            stranger = context.socket(zmq.DEALER)
            stranger.set(zmq.IDENTITY, b"somebody.else")
            stranger.connect(endpoint(folder, "scheduler", 0))
            stranger.send(bytes([1]) + b"\x91\xa4Stop")
            for rubbish in (b"", b"\x00", bytes([1]) + b"\x91" * 50_000):
                peer.send(rubbish)
            peer.send(bytes([1]) + b"\x91\xa4Stop")
            with anyio.fail_after(5):
                assert await scheduler.receive() == ("tokenizer", Stop())
            await anyio.sleep(0.05)
            with anyio.move_on_after(0.05):
                await scheduler.receive()
            assert scheduler.num_bad == 4
            context.destroy(linger=0)
            scheduler.close()

    anyio.run(main)


def test_a_message_that_waits_while_the_owner_is_busy_costs_no_cpu() -> None:
    async def main() -> None:
        with private_folder() as folder:
            target, scheduler = ZmqMailbox("target", 0, folder), ZmqMailbox("scheduler", 0, folder)
            scheduler.send("target", Stop())
            await anyio.sleep(0.05)
            for _ in range(20):
                scheduler.send("target", Stop())
            used_s = time.process_time()
            await anyio.sleep(0.5)  # nobody receives
            used_s = time.process_time() - used_s
            for _ in range(21):
                await target.receive()
            target.close()
            scheduler.close()
            assert used_s < 0.1

    anyio.run(main)


def test_socket_files_are_private() -> None:
    async def main() -> None:
        with private_folder() as folder:
            assert Path(folder).stat().st_mode & 0o777 == 0o700
            box = ZmqMailbox("target", 3, folder)
            assert os.listdir(folder) == ["target.3.sock"]
            box.close()
            box.close()
        assert not Path(folder).exists()

    anyio.run(main)


def test_a_path_too_long_for_a_socket_is_a_config_error() -> None:
    with pytest.raises(ConfigError, match="TMPDIR"):
        endpoint("/" + "x" * 120, "target", 0)


def test_closing_gives_the_supervisor_the_last_words(monkeypatch: pytest.MonkeyPatch) -> None:
    async def main() -> None:
        with private_folder() as folder:
            supervisor = ZmqMailbox("supervisor", 0, folder)
            target = ZmqMailbox("target", 0, folder)
            from paceline.actors.messages import Heartbeat

            target.send("supervisor", Heartbeat("target", 0, 1, False, 0.0))
            target.close()
            with anyio.fail_after(5):
                assert (await supervisor.receive())[0] == "target"
            supervisor.close()

    monkeypatch.setattr(zmq_mailbox, "LAST_WORDS_MS", 2000)
    anyio.run(main)


def test_faults_follow_from_the_seed() -> None:
    def draw(seed: int) -> list[list[float]]:
        faults = Faults(seed, max_delay_s=1.0, lose=0.2, double=0.2)
        return [faults.delays("tokenizer", "scheduler") for _ in range(200)]

    assert draw(1) == draw(1) != draw(2)
    assert {len(copies) for copies in draw(1)} == {0, 1, 2}
    kept = Faults(1, lose=1.0)
    assert kept.delays("tokenizer", "scheduler") == []
    assert len(kept.delays("supervisor", "scheduler")) == 1
