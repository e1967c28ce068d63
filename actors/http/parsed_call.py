"""A checked call, whatever its dialect, and the bounds it was checked against. Plain values."""

import msgspec

from ..messages import Generate
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

    def in_words(self, param: str) -> "ParsedCall":
        """The same, where errors of its wish name the field ``param``."""
        if self.wish is None:
            return self
        return msgspec.structs.replace(self, wish=msgspec.structs.replace(self.wish, param=param))

    def with_grammar(self, grammar: str) -> "ParsedCall":
        """The same with its wish compiled."""
        sampling = msgspec.structs.replace(self.generate.sampling, grammar=grammar)
        return msgspec.structs.replace(self, generate=msgspec.structs.replace(self.generate, sampling=sampling))

    @property
    def num_choices(self) -> int:
        """Prompts x n."""
        prompts = self.generate.prompts
        return (1 if prompts is None else len(prompts)) * self.generate.n
