"""/tokenize, /detokenize and /tokenizer_info."""

from typing import Any

import pytest
from fake_engine import LOGITS_WIDTH, FakeEngine
from http_app import in_process

pytestmark = pytest.mark.anyio


@pytest.fixture
def anyio_backend() -> str:
    return "asyncio"


async def test_text_to_ids() -> None:
    engine = FakeEngine()
    async with in_process(engine) as client:
        answer = await client.post("/tokenize", json={"prompt": "a b c"})
        assert answer.json() == {"count": 3, "max_model_len": 256, "tokens": [1, 2, 3], "token_strs": None}
        answer = await client.post("/tokenize", json={"prompt": "", "return_token_strs": True})
        assert answer.json() == {"count": 0, "max_model_len": 256, "tokens": [], "token_strs": []}
        await client.post("/tokenize", json={"prompt": "a", "add_special_tokens": False, "model": "tiny"})
    assert [t.add_special_tokens for t in engine.tokenized] == [True, True, False]
    assert not engine.calls


async def test_a_conversation_to_ids_as_a_chat_call_renders_it() -> None:
    engine = FakeEngine()
    tools = [{"type": "function", "function": {"name": "f"}}]
    async with in_process(engine) as client:
        body: dict[str, Any] = {
            "messages": [{"role": "user", "content": "a b"}], "tools": tools, "add_generation_prompt": False,
            "chat_template_kwargs": {"x": 1}, "return_token_strs": True,
        }  # fmt: skip
        answer = (await client.post("/tokenize", json=body)).json()
    assert (answer["count"], answer["token_strs"]) == (4, ["<s>", "a", "b", "</s>"])
    [asked] = engine.tokenized
    assert asked.chat is not None and not asked.add_special_tokens and not asked.chat.add_generation_prompt
    assert (asked.chat.tools, asked.chat.template_kwargs) == (tools, {"x": 1})


async def test_ids_to_text() -> None:
    async with in_process() as client:
        assert (await client.post("/detokenize", json={"tokens": [5, 6]})).json() == {"prompt": "<5><6>"}
        assert (await client.post("/detokenize", json={"tokens": []})).json() == {"prompt": ""}


async def test_what_harnesses_ask_first() -> None:
    async with in_process() as client:
        info = (await client.get("/tokenizer_info")).json()
        assert {"tokenizer_class", "eos_token", "bos_token", "pad_token", "chat_template"} <= set(info)
        assert info["model_max_length"] == 256


@pytest.mark.parametrize(
    ("path", "body", "param"),
    [
        ("/tokenize", {}, "prompt"),
        ("/tokenize", {"prompt": "a", "messages": [{"role": "user", "content": "b"}]}, "prompt"),
        ("/tokenize", {"messages": []}, "messages"),
        ("/tokenize", {"messages": [{"role": "wizard", "content": "b"}]}, "messages.0.role"),
        ("/tokenize", {"prompt": 7}, "prompt"),
        ("/detokenize", {}, "tokens"),
        ("/detokenize", {"tokens": [LOGITS_WIDTH]}, "tokens.0"),
        ("/detokenize", {"tokens": [0, -1]}, "tokens.1"),
        ("/detokenize", {"tokens": "x"}, "tokens"),
    ],
)
async def test_refusals_name_the_parameter(path: str, body: dict[str, Any], param: str) -> None:
    async with in_process() as client:
        answer = await client.post(path, json=body)
        assert answer.status_code == 400 and answer.json()["error"]["param"] == param, answer.text
        assert (await client.post(path, json=body | {"model": "other"})).status_code in (400, 404)
        assert (await client.post(path, content=b"{}")).json()["error"]["code"] == "unsupported_media_type"
