"""Ollama's own Python client: models, chat, generate, formats and errors."""

import json
from typing import Any

import ollama
from ollama import AsyncClient, Client
from told import KEY, MODEL, URL, check, raises, same, tell

AUTH = {"Authorization": f"Bearer {KEY}"}
client = Client(host=URL, headers=AUTH)
ASK: Any = [{"role": "user", "content": "Name three colours."}]
GREEDY: Any = {"num_predict": 24, "temperature": 0}
CAT: Any = {
    "type": "object",
    "required": ["colour", "age"],
    "properties": {"colour": {"enum": ["black", "white"]}, "age": {"type": "integer", "minimum": 0, "maximum": 30}},
}


@check("list, show, ps")
def _() -> None:
    assert MODEL in [m.model for m in client.list().models]
    shown = client.show(MODEL)
    assert shown.details and shown.details.parameter_size and shown.modelinfo
    same([m.model for m in client.ps().models], [MODEL])


@check("chat: whole = streamed, counts and times")
def _() -> None:
    whole = client.chat(model=MODEL, messages=ASK, options=GREEDY)
    parts = list(client.chat(model=MODEL, messages=ASK, options=GREEDY, stream=True))
    same("".join(p.message.content or "" for p in parts), whole.message.content)
    last = parts[-1]
    same((last.done, last.done_reason, last.eval_count), (True, whole.done_reason, whole.eval_count))
    assert last.total_duration and last.prompt_eval_count and last.eval_duration


@check("generate: raw, system, stop")
def _() -> None:
    raw = client.generate(model=MODEL, prompt="The capital of France is", raw=True, options=GREEDY)
    assert raw.response and raw.eval_count
    told = client.generate(model=MODEL, prompt="Name three colours.", system="Answer briefly.", options=GREEDY)
    word = (told.response or "").split()[1]
    stopped = client.generate(
        model=MODEL, prompt="Name three colours.", system="Answer briefly.", options={**GREEDY, "stop": [word]}
    )
    same(stopped.done_reason, "stop")
    assert word not in (stopped.response or "")


@check("chat: format is a schema")
def _() -> None:
    options = {**GREEDY, "num_predict": 200}
    ask: Any = [{"role": "user", "content": "Describe a cat as JSON."}]
    cat = json.loads(client.chat(model=MODEL, messages=ask, format=CAT, options=options).message.content or "")
    assert cat["colour"] in ("black", "white") and 0 <= cat["age"] <= 30


@check("chat: async, streamed")
async def _() -> None:
    many = AsyncClient(host=URL, headers=AUTH)
    text = ""
    async for part in await many.chat(model=MODEL, messages=ASK, options=GREEDY, stream=True):
        text += part.message.content or ""
    same(text, client.chat(model=MODEL, messages=ASK, options=GREEDY).message.content)


@check("errors: status and text")
def _() -> None:
    lost = raises(ollama.ResponseError, lambda: client.chat(model="none-such", messages=ASK))
    same(lost.status_code, 404)
    assert "none-such" in lost.error
    same(raises(ollama.ResponseError, lambda: Client(host=URL).list()).status_code, 401)
    late = raises(ollama.ResponseError, lambda: list(client.chat(model="none-such", messages=ASK, stream=True)))
    same(late.status_code, 404)


@check("embed", needs="embeddings")
def _() -> None:
    answer = client.embed(model=MODEL, input=["a cat", "a dog"])
    same(len(answer.embeddings), 2)
    assert abs(sum(x * x for x in answer.embeddings[0]) - 1) < 1e-3


tell("ollama")
