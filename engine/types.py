"""Plain values shared by every part: ids, sampling parameters, model sizes, error records.

Knows nothing of torch, sockets or files. Everything here is a frozen msgspec Struct or an alias and can cross a wire.
"""

from typing import Literal, TypeAlias

import msgspec

RequestId: TypeAlias = str
"""One token stream in the engine: ``<call id>-<choice index>``."""

TokenIds: TypeAlias = list[int]

FinishReason: TypeAlias = Literal["stop", "length", "abort", "error"]


PoolingKind: TypeAlias = Literal["last", "mean"]
"""Which hidden states of a prompt make its vector: that of its last token, or the mean of all."""


class Pooling(msgspec.Struct, frozen=True, array_like=True, omit_defaults=True):
    """A request for its prompt's vector, and for no output: ``max_tokens`` is 0."""

    kind: PoolingKind = "last"
    dimensions: int = 0
    """Keep the first this many numbers, before the vector is brought to length 1; 0 = all."""


class SamplingParams(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """How one request's tokens are chosen. Ids only: text (stop strings, bad words) was tokenised before.

    Ranges are those of the HTTP interface; ``engine.core`` checks them again. ``temperature == 0`` is greedy, and then
    top_p, top_k and min_p have no effect. The seed is always set (the gateway draws one when the client gives none).
    """

    max_tokens: int
    min_tokens: int = 0
    temperature: float = 1.0
    top_p: float = 1.0
    top_k: int = 0
    """0 = off."""
    min_p: float = 0.0
    presence_penalty: float = 0.0
    frequency_penalty: float = 0.0
    repetition_penalty: float = 1.0
    logit_bias: dict[int, float] | None = None
    allowed_token_ids: list[int] | None = None
    bad_words: list[list[int]] | None = None
    """Sequences that must not be completed."""
    seed: int = 0
    end_ids: list[int] = []
    """The model's own end-of-sequence ids."""
    ignore_eos: bool = False
    stop_token_ids: list[int] = []
    logprobs: int | None = None
    """Number of top alternatives for each output token; 0 = the sampled token only; -1 = whole vocabulary."""
    logprob_token_ids: list[int] | None = None
    """Report these ids instead of the top ``logprobs``."""
    prompt_logprobs: int | None = None
    grammar: str = ""
    """What the output must be a sentence of, as llguidance takes it: its JSON form or Lark. Empty = anything."""
    pooling: Pooling | None = None
    """A vector is wanted instead of output."""


class SpeculationControl(msgspec.Struct, frozen=True, array_like=True, omit_defaults=True):
    """What one request allows the speculators. It never changes the text, only how fast it comes."""

    enabled: bool = True
    methods: list[str] | None = None
    """Tried in this order; None = the server's."""
    max_draft_tokens: int | None = None
    """None = the server's; 0 = off."""
    detail: bool = False
    """Report every step."""
    always_report: bool = False
    """Report with every output: the receiver may end the request itself, at a stop string."""


class SpeculationStats(msgspec.Struct, frozen=True, array_like=True, omit_defaults=True):
    """What speculation did for one request. A step counts when at least one draft was verified in it.

    ``acceptance_histogram`` has ``num_spec_tokens + 1`` entries and sums to the steps; entry j counts those in which j
    drafts were accepted.
    """

    num_spec_tokens: int
    """The request's ``max_draft_tokens``."""
    acceptance_histogram: list[int]
    num_draft_tokens: int
    drafted: dict[str, int]
    """Verified drafts by method."""
    accepted: dict[str, int]
    stale_drafts: int = 0
    ahead_hits: int = 0
    """Proposals made before an unanswered step was known, of which something was still to verify after it."""
    ahead_misses: int = 0
    per_step_accepted: list[int] | None = None
    per_step_drafted: list[int] | None = None
    off_reason: str | None = None
    """Why nothing more was drafted at the end: ``policy`` = it did not pay, ``fault`` = a method failed."""

    @property
    def num_steps(self) -> int:
        """Steps that verified a draft."""
        return sum(self.acceptance_histogram)

    @property
    def num_accepted(self) -> int:
        """Accepted drafts."""
        return sum(j * count for j, count in enumerate(self.acceptance_histogram))


class RopeScaling(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """Rotary scaling. ``llama3`` uses all fields; ``linear`` uses ``factor`` only."""

    kind: Literal["linear", "llama3"]
    factor: float
    low_freq_factor: float = 1.0
    high_freq_factor: float = 4.0
    original_max_position: int = 8192


class ModelConfig(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """Sizes of a decoder-only transformer, in the names of Hugging Face's ``config.json``."""

    architecture: str
    """Plug-in key, such as ``LlamaForCausalLM``."""
    vocab_size: int
    """Rows of the embedding and width of the logits; may exceed the tokenizer's length."""
    hidden_size: int
    num_layers: int
    num_heads: int
    num_kv_heads: int
    head_dim: int
    intermediate_size: int
    max_position: int
    rms_norm_eps: float = 1e-5
    rope_theta: float = 10000.0
    rope_scaling: RopeScaling | None = None
    tie_embeddings: bool = False
    attention_bias: bool = False
    """Bias on q, k, v (Qwen2)."""
    sliding_window: int | None = None

    def kv_bytes_per_token(self, dtype_bytes: int) -> int:
        """Bytes of K and V of one token over all layers."""
        return 2 * self.num_layers * self.num_kv_heads * self.head_dim * dtype_bytes


class ErrorInfo(msgspec.Struct, frozen=True, omit_defaults=True):
    """An error as it travels between actors; ``actors/http/errors.py`` maps ``kind`` to a status."""

    kind: Literal["invalid", "not_found", "unavailable", "deadline", "internal"]
    message: str
    code: str | None = None
    param: str | None = None
    retry_after_s: float | None = None
