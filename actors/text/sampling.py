"""A client's sampling fields to the engine's: defaults of the model, words to ids, a seed for each choice.

Checked here is what needs the tokenizer or the model's sizes. Ranges are the gateway's business and, again, the core's.
"""

from collections.abc import Iterable
from hashlib import blake2b

import msgspec
from tokenizers import Tokenizer

from ...engine.errors import InvalidRequestError
from ...engine.store.located import ModelCard
from ...engine.types import Pooling, SamplingParams
from ..messages import Embed, Sampling

MAX_STOP_STRINGS = 4
_MAX_BAD_WORDS = 128
_MAX_BAD_WORD_TOKENS = 1024
_COMPLETION_TOKENS = 16
"""``max_tokens`` of a completion that does not say."""
_LEAST_TEMPERATURE = 0.01
"""Below it, but above 0, scaled logits would overflow; OpenAI's clients mean "almost greedy"."""


class Sizes(msgspec.Struct, frozen=True):
    """What bounds a request."""

    max_model_len: int
    logits_width: int


class SamplingResolver:
    """Makes ``SamplingParams`` for one model."""

    def __init__(self, tokenizer: Tokenizer, card: ModelCard) -> None:
        self._tokenizer = tokenizer
        self._card = card

    def resolve(
        self, sampling: Sampling, num_prompt: int, sizes: Sizes, *, is_chat: bool, until_full: bool = False
    ) -> SamplingParams:
        """The parameters of choice 0. ``until_full``: no ``max_tokens`` means what the context holds, also where the
        model's default is another.

        Raises:
            InvalidRequestError: the prompt with its output exceeds the context, or an id the logits.
        """
        if sampling.stop != self._card.defaults.get("stop"):
            _check_stops(sampling.stop)
        for param in ("stop_token_ids", "logit_bias", "allowed_token_ids", "logprob_token_ids"):
            _check_ids(param, getattr(sampling, param) or (), sizes.logits_width)
        unasked = None if is_chat else _COMPLETION_TOKENS
        unasked = None if until_full else self._card.defaults.get("max_tokens", unasked)
        max_tokens = _max_tokens(sampling.max_tokens, unasked, num_prompt, sizes.max_model_len, is_chat)
        if sampling.min_tokens > max_tokens:
            what = f"min_tokens is {sampling.min_tokens}: must be at most max_tokens, which is {max_tokens}"
            raise InvalidRequestError(f"{what}; lower it", param="min_tokens")
        temperature = self._default(sampling.temperature, "temperature", 1.0)
        return SamplingParams(
            max_tokens=max_tokens,
            min_tokens=sampling.min_tokens,
            temperature=max(temperature, _LEAST_TEMPERATURE) if temperature > 0 else temperature,
            top_p=self._default(sampling.top_p, "top_p", 1.0),
            top_k=max(0, int(self._default(sampling.top_k, "top_k", 0))),
            min_p=self._default(sampling.min_p, "min_p", 0.0),
            presence_penalty=self._default(sampling.presence_penalty, "presence_penalty", 0.0),
            frequency_penalty=self._default(sampling.frequency_penalty, "frequency_penalty", 0.0),
            repetition_penalty=self._default(sampling.repetition_penalty, "repetition_penalty", 1.0),
            logit_bias=sampling.logit_bias,
            allowed_token_ids=sampling.allowed_token_ids,
            bad_words=self._bad_words(sampling.bad_words) if sampling.bad_words else None,
            seed=sampling.seed,
            end_ids=self._card.end_ids,
            ignore_eos=sampling.ignore_eos,
            stop_token_ids=sampling.stop_token_ids,
            logprobs=sampling.logprobs,
            logprob_token_ids=sampling.logprob_token_ids,
            prompt_logprobs=sampling.prompt_logprobs,
            grammar=sampling.grammar,
        )

    def pooled(self, embed: Embed, num_prompt: int, sizes: Sizes, param: str = "prompt") -> SamplingParams:
        """The parameters of a prompt of which the vector is wanted.

        Raises:
            InvalidRequestError: it is longer than the context, or the model's vectors cannot be had like this.
        """
        if num_prompt > sizes.max_model_len:
            what = f"{param} has {num_prompt} tokens: the context is {sizes.max_model_len}"
            raise InvalidRequestError(
                f"{what}; shorten it or set truncate_prompt_tokens", param=param, code="context_length_exceeded"
            )
        kind = self._card.pooling
        if kind != "last" and kind != "mean":
            raise InvalidRequestError(
                f"{self._card.name} is made for {kind} pooling, which this server does not do; use another model"
                " for embeddings, or serve with -s target.pooling=last",
                code="unsupported_parameter",
            )
        self._check_dimensions(embed.dimensions)
        return SamplingParams(max_tokens=0, pooling=Pooling(kind, embed.dimensions))

    def _check_dimensions(self, asked: int) -> None:
        """Vectors may be cut only where the model was trained for it."""
        size, allowed = self._card.model.hidden_size, self._card.embedding_dimensions
        if asked in (0, size) or asked in allowed or (allowed == [-1] and asked < size):
            return
        may = f"can only be {size}" if not allowed else f"must be one of {', '.join(map(str, [*allowed, size]))}"
        may = f"must be at most {size}" if allowed == [-1] else may
        raise InvalidRequestError(
            f"dimensions is {asked}: for {self._card.name} it {may}; leave it out",
            param="dimensions",
            code=None if allowed else "unsupported_parameter",
        )

    def _default(self, given: float | None, name: str, otherwise: float) -> float:
        if given is not None:
            return given
        value = self._card.defaults.get(name)
        return value if isinstance(value, int | float) else otherwise

    def _bad_words(self, words: list[str]) -> list[list[int]]:
        """Each word as it is spelled at the start of a text and behind a space; often different ids."""
        if len(words) > _MAX_BAD_WORDS:
            what = f"bad_words has {len(words)} entries: at most {_MAX_BAD_WORDS}"
            raise InvalidRequestError(f"{what}; shorten the list", param="bad_words")
        found: list[list[int]] = []
        for i, word in enumerate(words):
            if not word.strip():
                raise InvalidRequestError(f"bad_words.{i} is empty; leave it out", param=f"bad_words.{i}")
            for text in (word.lstrip(), " " + word.lstrip()):
                ids = self._tokenizer.encode(text, add_special_tokens=False).ids
                if ids and ids not in found:
                    found.append(ids)
        num = sum(map(len, found))
        if num > _MAX_BAD_WORD_TOKENS:
            what = f"bad_words has {num} tokens in all: at most {_MAX_BAD_WORD_TOKENS}"
            raise InvalidRequestError(f"{what}; shorten the list", param="bad_words")
        return found


def choice_seed(seed: int, index: int) -> int:
    """The seed of choice ``index`` of a call: its own for the first, else 63 keyed and stable bits."""
    if index == 0:
        return seed
    key = (seed % 2**64).to_bytes(8, "little")
    digest = blake2b(index.to_bytes(8, "little"), digest_size=8, key=key, person=b"choice-seed").digest()
    return int.from_bytes(digest, "little") >> 1


def _max_tokens(asked: int | None, unasked: int | None, num_prompt: int, max_model_len: int, is_chat: bool) -> int:
    """``unasked``: of a call that does not say; None = what the context holds."""
    room = max_model_len - num_prompt
    if asked is None and room >= 1:
        return room if unasked is None else min(unasked, room)
    if asked is not None and asked <= room:
        return asked
    total = f"prompt has {num_prompt} tokens and max_tokens is {asked}: {num_prompt + (asked or 0)} exceeds the context"
    if room >= 1:
        what, advice, param = f"{total} of {max_model_len}", f"use max_tokens <= {room}", "max_tokens"
    else:
        what = f"prompt has {num_prompt} tokens: the context of {max_model_len} leaves no room for output"
        advice, param = f"shorten it to less than {max_model_len}", "messages" if is_chat else "prompt"
    raise InvalidRequestError(f"{what}; {advice}", param=param, code="context_length_exceeded")


def _check_stops(stops: list[str]) -> None:
    if len(stops) > MAX_STOP_STRINGS:
        raise InvalidRequestError(f"stop has {len(stops)} strings: at most {MAX_STOP_STRINGS}", param="stop")
    if not all(stops):
        raise InvalidRequestError("stop has an empty string; leave it out", param="stop")


def _check_ids(param: str, ids: Iterable[int], width: int) -> None:
    wrong = next((i for i in ids if not 0 <= i < width), None)
    if wrong is not None:
        raise InvalidRequestError(f"{param} has id {wrong}: ids must be 0 to {width - 1}", param=param)
