"""LangChain over OpenAI's dialect: chat models, completions, structured output, both APIs."""

from typing import Any

from langchain_core.messages import HumanMessage, SystemMessage  # pyright: ignore[reportMissingImports]
from langchain_openai import ChatOpenAI, OpenAI, OpenAIEmbeddings  # pyright: ignore[reportMissingImports]
from pydantic import BaseModel
from told import KEY, MODEL, URL, check, same, tell

SERVER: Any = {"base_url": f"{URL}/v1", "api_key": KEY, "model": MODEL}
GREEDY: Any = SERVER | {"max_tokens": 24, "temperature": 0}
ASK = [SystemMessage("Answer briefly."), HumanMessage("Name three colours.")]


class Cat(BaseModel):
    """A cat."""

    colour: str
    age: int


@check("ChatOpenAI: invoke = stream, usage")
def _() -> None:
    chat = ChatOpenAI(**GREEDY, stream_usage=True)
    whole = chat.invoke(ASK)
    parts = list(chat.stream(ASK))
    same("".join(p.text for p in parts), whole.text)
    total = parts[0]
    for part in parts[1:]:
        total += part
    same(total.usage_metadata["output_tokens"], whole.usage_metadata["output_tokens"])


@check("ChatOpenAI: batch, async")
async def _() -> None:
    chat = ChatOpenAI(**GREEDY)
    same(len({m.text for m in chat.batch([ASK] * 4)}), 1)
    same((await chat.ainvoke(ASK)).text, chat.invoke(ASK).text)


@check("ChatOpenAI: with_structured_output")
def _() -> None:
    chat = ChatOpenAI(**{**GREEDY, "max_tokens": 200})
    cat = chat.with_structured_output(Cat, method="json_schema").invoke("Describe a cat as JSON.")
    assert isinstance(cat, Cat)


@check("ChatOpenAI: logprobs")
def _() -> None:
    answer = ChatOpenAI(**GREEDY, logprobs=True, top_logprobs=2).invoke(ASK)
    assert len(answer.response_metadata["logprobs"]["content"]) == answer.usage_metadata["output_tokens"]


@check("ChatOpenAI over /v1/responses")
def _() -> None:
    chat = ChatOpenAI(**GREEDY, use_responses_api=True)
    whole = chat.invoke(ASK)
    same("".join(p.text for p in chat.stream(ASK)), whole.text)
    assert whole.text and whole.usage_metadata["output_tokens"]


@check("OpenAI: completions, batch")
def _() -> None:
    model = OpenAI(**GREEDY)
    one = model.invoke("One, two,")
    same("".join(model.stream("One, two,")), one)
    same(model.batch(["One, two,", "Red, green,"])[0], one)


@check("OpenAIEmbeddings", needs="embeddings")
def _() -> None:
    vectors = OpenAIEmbeddings(**SERVER, check_embedding_ctx_length=False).embed_documents(["a cat", "a dog"])
    same(len(vectors), 2)


tell("langchain-openai")
