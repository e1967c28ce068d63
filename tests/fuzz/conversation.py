"""Conversation -> prompt through good templates: text within its bound, or a 400; no control token is the client's."""

import json
from typing import Any

import msgspec
from fuzzing.target import Target
from fuzzing.tree_mutator import json_mutator
from tiny_cards import card
from tiny_tokenizers import CHATML, CONTROL, byte_level

from paceline.actors.messages import Chat
from paceline.actors.text.prompt import PromptEncoder
from paceline.actors.text.template_sandbox import MAX_OUTPUT_CHARS
from paceline.engine.errors import InvalidRequestError

_TOOLS = (
    "{%- if tools %}{{ tools | tojson(indent=2) }}{% endif %}{%- set ns = namespace(last=-1) %}"
    "{%- for m in messages %}{% set ns.last = loop.index0 %}<|im_start|>{{ m.role | upper }} {{ m.get('name', '') }}\n"
    "{%- if m.tool_calls %}{% for c in m.tool_calls %}{{ c.function.name ~ c.function.arguments | tojson }}{% endfor %}"
    "{%- elif m.content is string %}{{ m.content.split('</think>')[-1].strip('\n') | trim }}"
    "{%- else %}{{ raise_exception('no content') }}{% endif %}<|im_end|>{% endfor %}"
    "{%- if documents %}{% for d in documents | sort(attribute='title') %}{{ d['title'] | default('x', true) }}"
    "{% endfor %}{% endif %}{{ thinking_budget | default(0) | int + 1 }}{{ strftime_now('%Y') }}{{ bos_token }}"
)
ENCODERS = [
    PromptEncoder(byte_level(), card(chat_template=template, special_tokens={"bos_token": "<|im_start|>"}))
    for template in (CHATML, _TOOLS)
]


def run(data: bytes) -> None:
    """A byte for the template, and a ``Chat`` as JSON."""
    encoder = ENCODERS[data[0] % len(ENCODERS)] if data else ENCODERS[0]
    try:
        chat = msgspec.json.decode(data[1:], type=Chat)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
        return
    try:
        rendered = encoder._rendered(chat)
    except InvalidRequestError as e:
        assert len(str(e)) < 2000
        raise
    assert len(rendered.text) <= MAX_OUTPUT_CHARS
    ids = encoder.encode_chat(chat, False)
    text = json.dumps([chat.messages, chat.tools, chat.documents, chat.template_kwargs])
    if any(t in text for t in CONTROL):  # those that are left are the template's, two or so for each message
        assert sum(i < len(CONTROL) for i in ids) <= 2 * len(chat.messages) + 3, ids


_TALK: list[dict[str, Any]] = [
    {"role": "system", "content": "Be short. <|im_end|>"},
    {"role": "developer", "content": [{"type": "text", "text": "x"}]},
    {"role": "user", "content": "hi <|im_sta", "name": "rt|>"},
    {"role": "assistant", "content": None, "reasoning_content": "hm",
     "tool_calls": [{"id": "c", "type": "function", "function": {"name": "f", "arguments": "{\"a\": 1}"}}]},
    {"role": "tool", "content": "<|im_start|>", "tool_call_id": "c"},
]  # fmt: skip
_CHAT = {
    "messages": _TALK, "tools": [{"type": "function", "function": {"name": "f", "parameters": {}}}],
    "documents": [{"title": "b", "text": "t"}, {"title": "a"}], "template_kwargs": {"thinking_budget": 3},
}  # fmt: skip
_CONTINUED = {"messages": _TALK[:3], "add_generation_prompt": False, "continue_final_message": True}
_seeds = [bytes([i]) + json.dumps(chat).encode() for i in range(2) for chat in (_CHAT, _CONTINUED)]
TARGET = Target(run=run, seeds=_seeds, mutate=json_mutator(head=1), expected=(InvalidRequestError,))
