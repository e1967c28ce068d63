"""The core's bounds, and the check of every request against them. It trusts no sender, the gateway's checks included.

Limits that depend on load (a full queue) are in ``waiting.py``.
"""

from collections.abc import Iterable, Sequence
from math import isfinite
from typing import Literal

import msgspec

from ..errors import InvalidRequestError
from ..types import SamplingParams

MAX_STOP_IDS = 128
MAX_BIAS_ENTRIES = 1024
MAX_BAD_WORDS = 128
MAX_BAD_WORD_TOKENS = 1024
MAX_LOGPROB_IDS = 128
MAX_GRAMMAR_CHARS = 512 * 1024
"""Twice what a client may send: it arrives here quoted, in the form that the target compiles."""


class CoreConfig(msgspec.Struct, frozen=True, kw_only=True):
    """Sizes and policies, fixed for the life of a ``Scheduler``."""

    num_blocks: int
    block_size: int
    """Tokens of a block."""
    max_num_seqs: int
    """Most requests running at once."""
    max_num_batched_tokens: int
    """Tokens of a step, drafts included."""
    max_in_flight: int
    """Most unanswered plans."""
    max_model_len: int
    """Longest prompt + output."""
    vocab_size: int
    """Width of the logits: the bound of every token id."""
    prompt_stretch: float = 0.0
    """How many times as long as without prompts a step may take for them; 0 = as long as they need."""
    max_logprobs: int = -1
    """Most alternatives of a token that may be asked for; -1 = the whole vocabulary."""
    draft_trees: bool = True
    """Verify trees of drafts as trees; else the chain of first children."""
    policy: Literal["fcfs", "priority"] = "fcfs"
    enable_prefix_caching: bool = True
    max_queued_requests: int = 1024
    """Requests waiting beyond those for which a seat is free."""
    max_queued_tokens: int = 0
    """0 = eight times the KV pool."""

    def __post_init__(self) -> None:
        for name in ("num_blocks", "block_size", "max_num_seqs", "max_num_batched_tokens", "max_in_flight",
                     "max_model_len", "vocab_size", "max_queued_requests"):  # fmt: skip
            if getattr(self, name) < 1:
                raise ValueError(f"{name} = {getattr(self, name)}: must be at least 1")
        for name in ("max_queued_tokens", "prompt_stretch"):
            if getattr(self, name) < 0:
                raise ValueError(f"{name} = {getattr(self, name)}: must be at least 0")

    @property
    def queued_token_limit(self) -> int:
        """Bound of the tokens of all waiting requests."""
        return self.max_queued_tokens or 8 * self.num_blocks * self.block_size

    def blocks_for(self, num_tokens: int) -> int:
        """Blocks that hold ``num_tokens`` slots."""
        return -(-num_tokens // self.block_size)


def check_request(
    prompt_ids: Sequence[int], output_ids: Sequence[int], params: SamplingParams, priority: int, config: CoreConfig
) -> None:
    """Refuse what cannot be served.

    Raises:
        InvalidRequestError: naming the parameter as in the HTTP interface, the value and the bound.
    """
    _check_lengths(len(prompt_ids), len(output_ids), params, config)
    _check_ids("prompt", prompt_ids, config.vocab_size)
    _check_ids("output_ids", output_ids, config.vocab_size)
    _check_ranges(params, config)
    _check_lists(params, config.vocab_size)
    if priority and config.policy != "priority":
        raise InvalidRequestError(
            f'''priority is {priority}, but the server's policy is "fcfs"; leave it 0 or set policy to "priority"''',
            param="priority",
        )


def _check_lengths(num_prompt: int, num_output: int, params: SamplingParams, config: CoreConfig) -> None:
    most = params.max_tokens
    if num_prompt == 0:
        raise InvalidRequestError("prompt is empty: it must have at least 1 token", param="prompt")
    if most < 0:
        raise InvalidRequestError(f"max_tokens is {most}: must be at least 0", param="max_tokens")
    if not 0 <= params.min_tokens <= most:
        raise InvalidRequestError(
            f"min_tokens is {params.min_tokens}: must be 0 to max_tokens, which is {most}", param="min_tokens"
        )
    if params.pooling is not None:
        _check_pooling(params)
    if num_output > most:
        raise InvalidRequestError(f"{num_output} output ids exceed max_tokens, which is {most}", param="max_tokens")
    total, context = num_prompt + most, config.max_model_len
    if total > context:
        left = context - num_prompt
        advice = f"use max_tokens <= {left}" if left > 0 else f"shorten the prompt to less than {context} tokens"
        raise InvalidRequestError(
            f"prompt has {num_prompt} tokens and max_tokens is {most}: {total} exceeds the context of {context}; "
            f"{advice}",
            param="max_tokens" if left > 0 else "prompt",
            code="context_length_exceeded",
        )
    if config.blocks_for(total) > config.num_blocks:
        slots = config.num_blocks * config.block_size
        raise InvalidRequestError(
            f"prompt has {num_prompt} tokens and max_tokens is {most}: {total} exceeds the KV pool of {slots} slots; "
            "shorten one or give the server a larger cache",
            param="max_tokens" if num_prompt < slots else "prompt",
            code="context_length_exceeded",
        )


def _check_pooling(params: SamplingParams) -> None:
    """A vector is the whole answer."""
    if params.max_tokens or params.prompt_logprobs is not None or params.grammar:
        raise InvalidRequestError(
            f"pooling with max_tokens {params.max_tokens}: it needs 0, no prompt_logprobs and no grammar",
            param="max_tokens",
        )
    if params.pooling is not None and params.pooling.dimensions < 0:
        raise InvalidRequestError(f"dimensions is {params.pooling.dimensions}: must be at least 0", param="dimensions")


def _check_ids(param: str, token_ids: Iterable[int], vocab_size: int) -> None:
    ids = list(token_ids)
    if ids and (min(ids) < 0 or max(ids) >= vocab_size):
        index = next(i for i, token in enumerate(ids) if not 0 <= token < vocab_size)
        raise InvalidRequestError(
            f"{param}[{index}] is {ids[index]}: token ids must be 0 to {vocab_size - 1}", param=param
        )


def _check_range(param: str, value: float, least: float, most: float, *, above: bool = False) -> None:
    if not isfinite(value) or value > most or value < least or (above and value == least):
        bound = f"above {least:g} and at most {most:g}" if above else f"{least:g} to {most:g}"
        raise InvalidRequestError(f"{param} is {value}: must be {bound}", param=param)


def _check_ranges(params: SamplingParams, config: CoreConfig) -> None:
    _check_range("temperature", params.temperature, 0.0, 2.0)
    _check_range("top_p", params.top_p, 0.0, 1.0, above=True)
    _check_range("min_p", params.min_p, 0.0, 1.0)
    _check_range("presence_penalty", params.presence_penalty, -2.0, 2.0)
    _check_range("frequency_penalty", params.frequency_penalty, -2.0, 2.0)
    _check_range("repetition_penalty", params.repetition_penalty, 0.0, 3.4e38, above=True)  # fp32 on the device
    if params.top_k < 0:
        raise InvalidRequestError(f"top_k is {params.top_k}: must be at least 0; 0 is off", param="top_k")
    if not -(2**63) <= params.seed < 2**64:
        raise InvalidRequestError(f"seed is {params.seed}: must fit in 64 bits", param="seed")
    for param, value in (("logprobs", params.logprobs), ("prompt_logprobs", params.prompt_logprobs)):
        least, most = (0, config.max_logprobs) if config.max_logprobs >= 0 else (-1, config.vocab_size)
        if value is not None and not least <= value <= most:
            bound = f"{least} to {most}" if least == 0 else f"-1 (all) to {most}"
            raise InvalidRequestError(f"{param} is {value}: must be {bound}", param=param)


def _check_lists(params: SamplingParams, vocab_size: int) -> None:
    _check_ids("end_ids", params.end_ids, vocab_size)
    _check_ids("stop_token_ids", params.stop_token_ids, vocab_size)
    _check_count("stop_token_ids", len(params.stop_token_ids), MAX_STOP_IDS)
    _check_count("structured_outputs", len(params.grammar), MAX_GRAMMAR_CHARS, "characters")
    if params.logprob_token_ids is not None:
        _check_ids("logprob_token_ids", params.logprob_token_ids, vocab_size)
        _check_count("logprob_token_ids", len(params.logprob_token_ids), MAX_LOGPROB_IDS)
    if params.logit_bias is not None:
        _check_count("logit_bias", len(params.logit_bias), MAX_BIAS_ENTRIES)
        _check_ids("logit_bias", params.logit_bias, vocab_size)
        for token, bias in params.logit_bias.items():
            _check_range(f"logit_bias.{token}", bias, -100.0, 100.0)
    if params.allowed_token_ids is not None:
        if not params.allowed_token_ids:
            raise InvalidRequestError("allowed_token_ids is empty: allow at least 1 id", param="allowed_token_ids")
        _check_count("allowed_token_ids", len(params.allowed_token_ids), vocab_size)
        _check_ids("allowed_token_ids", params.allowed_token_ids, vocab_size)
    if params.bad_words is not None:
        _check_count("bad_words", len(params.bad_words), MAX_BAD_WORDS)
        _check_count("bad_words", sum(map(len, params.bad_words)), MAX_BAD_WORD_TOKENS, "tokens in all")
        for index, word in enumerate(params.bad_words):
            if not word:
                raise InvalidRequestError(f"bad_words[{index}] is empty: must have at least 1 token", param="bad_words")
            _check_ids(f"bad_words[{index}]", word, vocab_size)


def _check_count(param: str, num: int, most: int, what: str = "entries") -> None:
    if num > most:
        raise InvalidRequestError(f"{param} has {num} {what}: at most {most}", param=param)
