"""Calls of strict tools as a grammar: bound where the model opens one, and nothing else is."""

import json
from typing import Any

import llguidance
import numpy as np
import pytest
import tiny_tokenizers
from llguidance.numpy import fill_next_token_bitmask
from tokenizers import AddedToken, Tokenizer

from paceline.actors.text.response import formats, writing

VOCAB, END = 448, 2
TEXTS = ["<think>", "</think>", "<tool_call>", "</tool_call>", "<other>", "[TOOL_CALLS]", "[ARGS]"]
SCHEMA = {"type": "object", "properties": {"city": {"enum": ["Oslo", "Rome"]}}, "required": ["city"]}
STRICT = {"type": "function", "function": {"name": "get_weather", "strict": True, "parameters": SCHEMA}}
LOOSE = {"type": "function", "function": {"name": "get_time", "parameters": SCHEMA}}
TOOLS: list[dict[str, Any]] = [STRICT, LOOSE]


def _tokenizer() -> Tokenizer:
    tokenizer = Tokenizer.from_str(tiny_tokenizers.byte_level().to_str())
    tokenizer.add_tokens([AddedToken(text, normalized=False, special=text[0] == "[") for text in TEXTS])
    return tokenizer


TOKENIZER = _tokenizer()
MARKERS = {text: TOKENIZER.encode(text).ids[0] for text in TEXTS}
IDS = llguidance.LLTokenizer(TOKENIZER.to_str(), n_vocab=VOCAB, eos_token=[END])


def written(name: str, *, in_thought: bool = False, markers: dict[str, int] = MARKERS) -> str:
    family = next(f for f in formats.families() if f.names[0] == name)
    assert family.writing is not None
    return writing.strict_calls(TOOLS, family.writing, family.thought, in_thought=in_thought, markers=markers)


def refused_at(grammar: str, text: str) -> str:
    """The text from the first token on that ``grammar`` refuses; everything before a call must be free."""
    matcher = llguidance.LLMatcher(IDS, grammar, log_level=0)
    ids = TOKENIZER.encode(text).ids
    assert not matcher.is_error(), matcher.get_error()
    fed = matcher.try_consume_tokens(ids)
    return TOKENIZER.decode(ids[fed:], skip_special_tokens=False)


def num_allowed(grammar: str, text: str) -> int:
    matcher = llguidance.LLMatcher(IDS, grammar, log_level=0)
    ids = TOKENIZER.encode(text).ids
    assert matcher.try_consume_tokens(ids) == len(ids)
    bits = np.zeros((1, VOCAB // 32), np.int32)
    fill_next_token_bitmask(matcher, bits, 0)
    return int(np.unpackbits(bits.view(np.uint8)).sum())


@pytest.mark.parametrize("name", ["hermes", "mistral", "mistral_v3"])
@pytest.mark.parametrize("text", ["", "Hi", "a<other>b\n{", "<|im_start|>", "fox</tool_call>"])
def test_text_without_a_call_is_free(name: str, text: str) -> None:
    markers = MARKERS | {"[THINK]": 440, "[/THINK]": 441}
    assert num_allowed(written(name, markers=markers), text) == VOCAB


def test_a_call_is_bound_wherever_it_is_opened_and_text_is_free_behind_it() -> None:
    grammar = written("hermes")
    good = '<tool_call>\n{"name": "get_weather", "arguments": {"city": "Oslo"}}\n</tool_call>'
    loose = '<tool_call>\n{"name": "get_time", "arguments": {"zone": [1]}}\n</tool_call>'
    for text in (good, f"Let me see.\n{good}", f"{good}\n{loose}", f"<think>{good[:11]} no</think>{good}"):
        assert not refused_at(grammar, text) and num_allowed(grammar, text) == VOCAB
    assert refused_at(grammar, good.replace("Oslo", "Bonn")).startswith("B")
    assert refused_at(grammar, "So: " + good.replace("weather", "whether"))
    assert refused_at(grammar, f"{loose}{good.replace('city', 'town')}").startswith("t")


def test_reasoning_may_hold_what_opens_a_call() -> None:
    inside = "so <tool_call> and <think> are words"
    assert num_allowed(written("hermes"), f"<think>{inside}") == VOCAB
    begun = written("hermes", in_thought=True)
    assert num_allowed(begun, inside) == num_allowed(begun, f"{inside}</think>Hi") == VOCAB
    assert num_allowed(begun, f"{inside}</think><tool_call>") < VOCAB


def test_calls_in_a_list_are_bound() -> None:
    grammar = written("mistral_v3")
    one = json.dumps({"name": "get_weather", "arguments": {"city": "Rome"}})
    assert not refused_at(grammar, f"Hm[TOOL_CALLS] [{one}, {one}]") and refused_at(grammar, "[TOOL_CALLS] {")


@pytest.mark.parametrize(
    ("name", "markers"),
    [
        ("llama3_json", MARKERS),  # a brace opens its calls
        ("hermes", {}),  # spelled by letters, as any text is
        ("hermes", {"<tool_call>": MARKERS["<tool_call>"]}),  # nothing tells where reasoning ends
    ],
)
def test_what_no_token_opens_is_not_bound(name: str, markers: dict[str, int]) -> None:
    assert written(name, markers=markers) == ""
