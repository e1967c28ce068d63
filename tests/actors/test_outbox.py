import asyncio
from collections.abc import Sequence
from typing import Any

import anyio
import pytest

from paceline.actors.mailbox import MailboxFull
from paceline.actors.messages import Abort
from paceline.actors.outbox import Outbox
from paceline.engine.errors import WireError


class Peer:
    """A mailbox with a switch for "full" and one message that is too large for the wire."""

    def __init__(self) -> None:
        self.name = "tokenizer"
        self.batches: list[list[Any]] = []
        self.is_full = False
        self.num_bad = 0

    def send(self, to: str, message: Any) -> None:
        self.send_all(to, [message])

    def send_all(self, to: str, messages: Sequence[Any]) -> None:
        if self.is_full:
            raise MailboxFull("full")
        if Abort("huge") in messages:
            raise WireError("over the cap")
        self.batches.append([m.request_id for m in messages])

    async def receive(self) -> tuple[str, Any]:
        raise NotImplementedError

    def lost(self, actor: str, epoch: int) -> None: ...

    def close(self) -> None: ...


def test_messages_of_one_moment_go_as_one_batch() -> None:
    async def main() -> None:
        peer = Peer()
        outbox = Outbox(peer, 10)
        for name in "abc":
            outbox.send("gateway", Abort(name))
        assert not peer.batches
        await asyncio.sleep(0)
        assert peer.batches == [["a", "b", "c"]]
        assert outbox.is_empty

    anyio.run(main)


def test_a_full_peer_is_tried_again_in_order_and_the_bound_refuses() -> None:
    async def main() -> None:
        peer = Peer()
        peer.is_full = True
        outbox = Outbox(peer, 2)
        outbox.send("gateway", Abort("a"))
        await asyncio.sleep(0.01)
        outbox.send("gateway", Abort("b"))
        with pytest.raises(MailboxFull, match="2 messages wait for gateway already"):
            outbox.send("gateway", Abort("refused"))
        outbox.send("scheduler", Abort("c"))
        outbox.send("gateway", Abort("forced"), force=True)
        peer.is_full = False
        with anyio.fail_after(5):
            while not outbox.is_empty:
                await asyncio.sleep(0.001)
        assert sorted(peer.batches) == [["a", "b", "forced"], ["c"]]

    anyio.run(main)


def test_a_message_over_the_frame_cap_is_lost_alone(caplog: pytest.LogCaptureFixture) -> None:
    async def main() -> None:
        peer = Peer()
        outbox = Outbox(peer, 10)
        for name in ("a", "huge", "b"):
            outbox.send("gateway", Abort(name))
        await asyncio.sleep(0)
        assert outbox.is_empty
        assert [name for batch in peer.batches for name in batch] == ["a", "b"]

    anyio.run(main)
    assert "over the cap" in caplog.text


def test_what_waits_for_a_dead_peer_is_forgotten() -> None:
    async def main() -> None:
        peer = Peer()
        peer.is_full = True
        outbox = Outbox(peer, 10)
        outbox.send("gateway", Abort("a"))
        await asyncio.sleep(0)
        outbox.forget("gateway")
        assert outbox.is_empty
        outbox.close()

    anyio.run(main)
