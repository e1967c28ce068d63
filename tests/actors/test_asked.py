"""What the client sends when its question has to be asked again."""

import contextlib

import anyio
import pytest

from paceline.actors.asked import Asked
from paceline.actors.call import Call
from paceline.actors.client import EngineClient
from paceline.actors.memory_mailbox import MemoryNetwork
from paceline.actors.messages import (
    ActorLost,
    Admitted,
    Again,
    Generate,
    Hello,
    PromptInfo,
    Sampling,
    TextDelta,
    Tokenize,
)
from paceline.actors.neighbour import MAX_REPLAYS
from paceline.engine.errors import UnavailableError


def test_a_call_is_sent_again_with_what_is_left_of_its_time_and_choices() -> None:
    call = Call(3)
    asked = Asked(Generate("c", Sampling(max_tokens=5, seed=3), prompts=["x"], n=3, timeout_s=20.0), "t", call, 100.0)
    first = asked.to_send(101.0)
    assert isinstance(first, Generate) and (first.again, first.timeout_s, first.sampling.seed) == (None, 19.0, 3)
    call.put(Admitted("c", [PromptInfo(1)]))
    call.put(TextDelta("c", 1, 0, "ab", 2, finish_reason="length"))
    call.put(TextDelta("c", 2, 0, "abc", 3))
    second = asked.to_send(112.0)
    assert isinstance(second, Generate) and second.sampling.seed == 3
    assert (second.again, second.timeout_s) == (Again(1, True, [1]), 8.0)
    call.put(Admitted("c", [PromptInfo(1)]))  # once is enough
    call.put(TextDelta("c", 2, 0, "abcd", 4, finish_reason="length"))
    call.put(TextDelta("c", 0, 0, "x", 1, finish_reason="stop"))
    assert call.is_over
    assert [type(item) for item in call._buffer] == [Admitted, TextDelta, TextDelta, TextDelta, TextDelta]
    assert [item.text for item in call._buffer if isinstance(item, TextDelta)] == ["ab", "abc", "d", "x"]


def test_a_call_that_waited_unsent_is_sent_for_the_first_time() -> None:
    asked = Asked(Generate("c", Sampling(), prompts=["x"], timeout_s=20.0), "t", Call(1), 100.0)
    assert not asked.is_sent
    sent = asked.to_send(130.0)
    assert isinstance(sent, Generate) and (sent.again, sent.timeout_s) == (None, 0.0) and asked.is_sent


@pytest.mark.parametrize("message", [Generate("c", Sampling(), prompts=["x"]), Tokenize("c", "x")])
def test_nothing_is_asked_for_ever(message: Generate | Tokenize) -> None:
    asked = Asked(message, "t", Call(1), 0.0)
    for _ in range(1 + MAX_REPLAYS):
        asked.to_send(1.0)
    with pytest.raises(UnavailableError, match="died 4 times") as caught:
        asked.to_send(1.0)
    assert caught.value.retry_after_s > 0


@pytest.mark.parametrize("told_first", [True, False])
def test_what_found_no_room_at_the_dead_tokenizer_is_sent_once(told_first: bool) -> None:
    """Word of the death may come before the Hello of another, or behind it."""

    async def main() -> None:
        network = MemoryNetwork(high_water_mark=1)
        network.mailbox("tokenizer")
        client = EngineClient(network.mailbox("gateway"))
        supervisor, lost = network.mailbox("supervisor"), ActorLost("tokenizer", 0)

        async def ask(call_id: str) -> None:
            call = Generate(call_id, Sampling(), prompts=["x"])
            async with contextlib.aclosing(client.generate(call)) as items:
                async for _ in items:
                    pass

        async with anyio.create_task_group() as tasks:
            tasks.start_soon(client.run)
            tasks.start_soon(ask, "one")
            await anyio.sleep(0.02)
            tasks.start_soon(ask, "two")
            await anyio.sleep(0.02)
            assert not client._outbox.is_empty
            tokenizer = network.mailbox("tokenizer", 1)
            network.high_water_mark = 100
            if told_first:
                supervisor.send("gateway", lost)
                await anyio.sleep(0.02)
                assert not network.inbox(tokenizer.address)
            tokenizer.send("gateway", Hello("tokenizer", 1, 1))
            asked = [(await tokenizer.receive())[1].call_id for _ in range(2)]
            if not told_first:
                supervisor.send("gateway", lost)
            await anyio.sleep(0.02)
            assert sorted(asked) == ["one", "two"] and not network.inbox(tokenizer.address)
            tasks.cancel_scope.cancel()
        client.close()

    anyio.run(main)
