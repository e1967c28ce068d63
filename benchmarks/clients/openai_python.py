"""OpenAI's own Python client: chat, completions, responses, models and errors, as its users write them."""

from typing import Any

import openai
from openai import AsyncOpenAI, OpenAI
from pydantic import BaseModel
from told import KEY, MODEL, URL, check, raises, same, tell

client = OpenAI(base_url=f"{URL}/v1", api_key=KEY)
ASK: Any = [{"role": "user", "content": "Name three colours."}]
GREEDY: Any = {"model": MODEL, "messages": ASK, "max_completion_tokens": 24, "temperature": 0}


class Cat(BaseModel):
    """A shape to be filled."""

    colour: str
    age: int


@check("models: list, retrieve")
def _() -> None:
    same([m.id for m in client.models.list()], [MODEL])
    same(client.models.retrieve(MODEL).id, MODEL)


@check("chat: whole = streamed, usage")
def _() -> None:
    whole = client.chat.completions.create(**GREEDY)
    assert whole.choices[0].message.content and whole.usage
    text, used = "", None
    for chunk in client.chat.completions.create(**GREEDY, stream=True, stream_options={"include_usage": True}):
        text += (chunk.choices[0].delta.content or "") if chunk.choices else ""
        used = chunk.usage or used
    same(text, whole.choices[0].message.content)
    assert used
    same((used.prompt_tokens, used.completion_tokens), (whole.usage.prompt_tokens, whole.usage.completion_tokens))


@check("chat: stream helper with its events")
def _() -> None:
    asked = {**GREEDY, "max_completion_tokens": 200, "stop": ["."]}  # an answer that is cut is an error to the helper
    with client.chat.completions.stream(**asked) as stream:
        kinds = {event.type for event in stream}
        final = stream.get_final_completion()
    assert {"chunk", "content.delta", "content.done"} <= kinds
    same(final.choices[0].message.content, client.chat.completions.create(**asked).choices[0].message.content)


@check("chat: async, eight at once")
async def _() -> None:
    import asyncio

    async with AsyncOpenAI(base_url=f"{URL}/v1", api_key=KEY) as many:
        answers = await asyncio.gather(*(many.chat.completions.create(**GREEDY) for _ in range(8)))
    same(len({a.choices[0].message.content for a in answers}), 1)


@check("chat: n, seed, stop, logprobs")
def _() -> None:
    asked = {**GREEDY, "temperature": 1.0, "seed": 7, "n": 3, "logprobs": True, "top_logprobs": 2}
    one, two = client.chat.completions.create(**asked), client.chat.completions.create(**asked)
    texts = [c.message.content for c in one.choices]
    same(texts, [c.message.content for c in two.choices])
    same([c.index for c in one.choices], [0, 1, 2])
    logprobs = one.choices[0].logprobs
    assert logprobs and logprobs.content and "".join(t.token for t in logprobs.content).startswith(texts[0] or "?")
    assert all(len(t.top_logprobs) >= 2 and t.logprob <= 0 for t in logprobs.content)
    word = (client.chat.completions.create(**GREEDY).choices[0].message.content or "").split()[2]
    stopped = client.chat.completions.create(**GREEDY, stop=[word])
    same(stopped.choices[0].finish_reason, "stop")
    assert word not in (stopped.choices[0].message.content or "")


@check("chat: parse into a pydantic model")
def _() -> None:
    asked = {**GREEDY, "messages": [{"role": "user", "content": "Describe a cat as JSON."}]}
    asked["max_completion_tokens"] = 200
    parsed = client.chat.completions.parse(**asked, response_format=Cat)
    assert isinstance(parsed.choices[0].message.parsed, Cat)


@check("completions: prompts, echo, logprobs")
def _() -> None:
    asked: Any = {"model": MODEL, "max_tokens": 6, "temperature": 0}
    answer = client.completions.create(**asked, prompt=["One, two,", "Red, green,"], logprobs=2, echo=True)
    assert answer.choices[1].text.startswith("Red, green,")
    logprobs = answer.choices[0].logprobs
    assert logprobs and logprobs.tokens and logprobs.text_offset and logprobs.token_logprobs
    same("".join(logprobs.tokens), answer.choices[0].text)
    assert logprobs.token_logprobs[0] is None and all(v <= 0 for v in logprobs.token_logprobs[1:])
    text = "".join(c.choices[0].text for c in client.completions.create(**asked, prompt="One, two,", stream=True))
    same("One, two," + text, answer.choices[0].text)


@check("responses: create, stream, follow up, retrieve, delete")
def _() -> None:
    asked: Any = {"model": MODEL, "max_output_tokens": 200, "temperature": 0, "extra_body": {"stop": ["."]}}
    first = client.responses.create(**asked, input="My name is Ada.")
    assert first.output_text and first.usage
    with client.responses.stream(**asked, input="My name is Ada.") as stream:
        text = "".join(e.delta for e in stream if e.type == "response.output_text.delta")
        final = stream.get_final_response()
    same(text, first.output_text)
    same(final.output_text, first.output_text)
    second = client.responses.create(**asked, input="What is my name?", previous_response_id=first.id)
    assert second.usage and second.usage.input_tokens > first.usage.input_tokens
    same(client.responses.retrieve(first.id).output_text, first.output_text)
    client.responses.delete(first.id)
    raises(openai.NotFoundError, lambda: client.responses.retrieve(first.id))


@check("responses: parse into a pydantic model")
def _() -> None:
    asked: Any = {"model": MODEL, "max_output_tokens": 200, "temperature": 0}
    parsed = client.responses.parse(**asked, input="Describe a cat as JSON.", text_format=Cat)
    assert isinstance(parsed.output_parsed, Cat)


@check("errors: their classes, param and code")
def _() -> None:
    wrong = raises(openai.BadRequestError, lambda: client.chat.completions.create(**{**GREEDY, "temperature": 3}))
    same(wrong.param, "temperature")
    lost = raises(openai.NotFoundError, lambda: client.chat.completions.create(**{**GREEDY, "model": "none-such"}))
    same(lost.code, "model_not_found")
    stranger = OpenAI(base_url=f"{URL}/v1", api_key="wrong")
    raises(openai.AuthenticationError, lambda: stranger.models.list())
    too_long: Any = {**GREEDY, "messages": [{"role": "user", "content": "word " * 9000}]}
    same(raises(openai.BadRequestError, lambda: client.chat.completions.create(**too_long)).code,
         "context_length_exceeded")  # fmt: skip


@check("stream closed half way, next call answered")
def _() -> None:
    with client.chat.completions.create(**{**GREEDY, "max_completion_tokens": 400}, stream=True) as stream:
        for i, _chunk in enumerate(stream):
            if i == 3:
                break
    assert client.chat.completions.create(**GREEDY).choices[0].message.content


@check("embeddings", needs="embeddings")
def _() -> None:
    answer = client.embeddings.create(model=MODEL, input=["a cat", "a dog"])
    same([e.index for e in answer.data], [0, 1])
    assert abs(sum(x * x for x in answer.data[0].embedding) - 1) < 1e-3
    plain = client.embeddings.create(model=MODEL, input="a cat", encoding_format="float")
    assert max(abs(a - b) for a, b in zip(plain.data[0].embedding, answer.data[0].embedding, strict=True)) < 1e-3


tell("openai")
