"""Anthropic's own Python client: messages, streams, token counts and errors."""

from typing import Any

import anthropic
from anthropic import Anthropic, AsyncAnthropic
from told import KEY, MODEL, URL, check, raises, same, tell

client = Anthropic(base_url=URL, api_key=KEY)
ASK: Any = [{"role": "user", "content": "Name three colours."}]
GREEDY: Any = {"model": MODEL, "messages": ASK, "max_tokens": 24, "extra_body": {"temperature": 0}}


def num_input(usage: Any) -> int:
    """All of the prompt: Anthropic counts what came from the cache apart."""
    return usage.input_tokens + (usage.cache_read_input_tokens or 0)


def text_of(message: Any) -> str:
    return "".join(block.text for block in message.content if block.type == "text")


@check("messages: whole = streamed, usage")
def _() -> None:
    whole = client.messages.create(**GREEDY, system="Answer briefly.")
    with client.messages.stream(**GREEDY, system="Answer briefly.") as stream:
        text = "".join(stream.text_stream)
        final = stream.get_final_message()
    same(text, text_of(whole))
    same(text_of(final), text)
    same((num_input(final.usage), final.usage.output_tokens, final.stop_reason),
         (num_input(whole.usage), whole.usage.output_tokens, whole.stop_reason))  # fmt: skip


@check("messages: raw events in their order")
def _() -> None:
    kinds = [event.type for event in client.messages.create(**GREEDY, stream=True)]
    same((kinds[0], kinds[1]), ("message_start", "content_block_start"))
    same(kinds[-3:], ["content_block_stop", "message_delta", "message_stop"])
    same(set(kinds[2:-3]) - {"ping"}, {"content_block_delta"})


@check("messages: several turns, parts, stop sequence")
def _() -> None:
    turns: Any = [
        {"role": "user", "content": [{"type": "text", "text": "Say one, two, three."}]},
        {"role": "assistant", "content": "One, two, three."},
        {"role": "user", "content": "Once more."},
    ]
    asked = {**GREEDY, "messages": turns}
    word = text_of(client.messages.create(**asked)).split()[1]
    stopped = client.messages.create(**asked, stop_sequences=[word])
    same((stopped.stop_reason, stopped.stop_sequence), ("stop_sequence", word))


@check("messages: async, eight at once")
async def _() -> None:
    import asyncio

    async with AsyncAnthropic(base_url=URL, api_key=KEY) as many:
        answers = await asyncio.gather(*(many.messages.create(**GREEDY) for _ in range(8)))
    same(len({text_of(a) for a in answers}), 1)


@check("count_tokens = usage")
def _() -> None:
    counted = client.messages.count_tokens(model=MODEL, messages=ASK).input_tokens
    same(counted, num_input(client.messages.create(**GREEDY).usage))


@check("models: list, retrieve")
def _() -> None:
    same([m.id for m in client.models.list()], [MODEL])
    same(client.models.retrieve(MODEL).id, MODEL)


@check("errors: their classes and type")
def _() -> None:
    hot: Any = {**GREEDY, "extra_body": {"temperature": 3}}
    wrong = raises(anthropic.BadRequestError, lambda: client.messages.create(**hot))
    assert "temperature" in str(wrong)
    same(wrong.type, "invalid_request_error")
    raises(anthropic.NotFoundError, lambda: client.messages.create(**{**GREEDY, "model": "none-such"}))
    stranger = Anthropic(base_url=URL, api_key="wrong")
    same(raises(anthropic.AuthenticationError, lambda: stranger.messages.create(**GREEDY)).type, "authentication_error")


tell("anthropic")
