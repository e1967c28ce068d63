"""A checked call, whatever its dialect, and the bounds it was checked against. Plain values."""

import hashlib

import msgspec

from ..messages import Generate
from ..text.response.formats import SHORT_ID_CHARS, Format, resolve
from .grammar_values import GrammarWish


class Bounds(msgspec.Struct, frozen=True, kw_only=True):
    """What this server and model allow."""

    max_model_len: int
    vocab_size: int
    """Rows of the embedding: the bound of prompt ids."""
    logits_width: int
    """The bound of all other ids."""
    max_logprobs: int = 20
    has_priorities: bool = False
    timeout_s: float = 600.0
    chat_template: str = ""
    speculators: list[str] = []
    """Methods that are loaded."""
    max_draft_tokens: int = 0
    format: Format = msgspec.field(default_factory=lambda: resolve(""))
    """How the model writes reasoning and tool calls."""
    marker_ids: dict[str, int] = {}
    """Texts that are tokens of the model."""
    default_seed: int | None = None
    """The model's own; None = another one for each call."""


class ParsedCall(msgspec.Struct, frozen=True, kw_only=True):
    """One checked call: what the engine does, and how the answer is written."""

    generate: Generate
    request_id: str
    stream: bool = False
    include_usage: bool = False
    continuous_usage: bool = False
    stream_interval: int = 1
    wants_logprobs: bool = False
    wants_prompt_logprobs: bool = False
    tokens_as_ids: bool = False
    ignored: list[str] = []
    wish: GrammarWish | None = None
    """The shape of the output, which is compiled before the engine hears of the call."""
    wish_in_thought: GrammarWish | None = None
    """The same where the prompt ends within the model's reasoning."""
    is_named: bool = False
    """Whether a tool is called because the client named it: such an answer ends with ``stop``."""
    has_short_ids: bool = False
    """Whether ids of tool calls are of the one length that the chat template takes back."""

    def in_words(self, param: str) -> "ParsedCall":
        """The same, where errors of its wish for a shape of the answer name the field ``param``."""
        if self.wish is None or self.wish.param == "tools":
            return self
        inner = self.wish_in_thought
        return msgspec.structs.replace(
            self,
            wish=msgspec.structs.replace(self.wish, param=param),
            wish_in_thought=None if inner is None else msgspec.structs.replace(inner, param=param),
        )

    def with_grammar(self, grammar: str, in_thought: str = "") -> "ParsedCall":
        """The same with its wishes compiled."""
        generate = self.generate
        reading = generate.reading
        if reading is not None and in_thought:
            reading = msgspec.structs.replace(reading, grammar_in_thought=in_thought)
        sampling = msgspec.structs.replace(generate.sampling, grammar=grammar)
        return msgspec.structs.replace(
            self, generate=msgspec.structs.replace(generate, sampling=sampling, reading=reading)
        )

    def tool_call_id(self, choice: int, call: int) -> str:
        """The id of a tool call, the same whether it is streamed or not."""
        name = f"call_{self.request_id}-{choice}-{call}"
        return hashlib.sha256(name.encode()).hexdigest()[:SHORT_ID_CHARS] if self.has_short_ids else name

    @property
    def num_choices(self) -> int:
        """Prompts x n."""
        prompts = self.generate.prompts
        return (1 if prompts is None else len(prompts)) * self.generate.n
