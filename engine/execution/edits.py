"""What changes a request's raw logits before temperature: penalties, bias, bad words, allowed ids, the minimum length.

In this order (``process`` in ``sampler.py`` goes on with temperature and filters). One position at a time, on a numpy
row [vocab_size] fp32 in place: only ids that matter are touched, and no other row can have an influence.
"""

from collections.abc import Sequence

import numpy as np

from ..types import SamplingParams

_NEVER = np.float32(-np.inf)


class Edits:
    """The edits of one request. ``push`` what was committed; ``apply`` before each choice."""

    @classmethod
    def of(cls, params: SamplingParams, token_ids: Sequence[int], num_prompt: int) -> "Edits | None":
        """For a request with these tokens, the first ``num_prompt`` being its prompt; None when nothing edits."""
        ends = params.min_tokens > 0 and (params.end_ids or params.stop_token_ids)
        others = params.logit_bias or params.bad_words or params.allowed_token_ids is not None
        if not (ends or others or _has_penalties(params)):
            return None
        return cls(params, token_ids, num_prompt)

    def __init__(self, params: SamplingParams, token_ids: Sequence[int], num_prompt: int) -> None:
        self._penalties = Penalties(params, token_ids, num_prompt) if _has_penalties(params) else None
        bias = params.logit_bias or {}
        self._bias_ids = np.fromiter(bias.keys(), np.int64, len(bias))
        self._bias = np.fromiter(bias.values(), np.float32, len(bias))
        self._bad_words = [np.asarray(w, np.int32) for w in params.bad_words or () if w]
        allowed = params.allowed_token_ids
        self._allowed = None if allowed is None else np.unique(np.asarray(allowed, np.int64))
        # End ids are masked with ignore_eos too: they would not end the text, but they would still be in it.
        self._end_ids = np.asarray(sorted({*params.end_ids, *params.stop_token_ids}), np.int64)
        self._free_from = num_prompt + params.min_tokens

    def apply(self, row: np.ndarray, context: np.ndarray) -> None:
        """Edit ``row`` fp32 [vocab_size] in place for the position behind ``context``, all tokens before it, int32."""
        if self._penalties is not None:
            self._penalties.apply(row)
        if len(self._bias):
            row[self._bias_ids] += self._bias
        for word in self._bad_words:
            lead = len(word) - 1
            if lead <= len(context) and np.array_equal(context[len(context) - lead :], word[:lead]):
                row[word[lead]] = _NEVER
        if self._allowed is not None:
            kept = row[self._allowed]
            row.fill(_NEVER)
            row[self._allowed] = kept
        if len(context) < self._free_from:
            row[self._end_ids] = _NEVER

    def push(self, token_ids: Sequence[int]) -> None:
        """Count tokens that were committed, or drafts that stand as if they were."""
        if self._penalties is not None:
            for token in token_ids:
                self._penalties.push(token)

    def pop(self, token_ids: Sequence[int]) -> None:
        """Undo the latest ``push`` of these tokens, without a trace."""
        if self._penalties is not None:
            for token in reversed(token_ids):
                self._penalties.pop(token)


class Penalties:
    """Counts of the ids a request has seen, kept sparse, and the three penalties on them.

    Repetition weighs on prompt and output; presence and frequency count output only.
    """

    def __init__(self, params: SamplingParams, token_ids: Sequence[int], num_prompt: int) -> None:
        self._repetition = np.float32(params.repetition_penalty)
        self._presence = np.float32(params.presence_penalty)
        self._frequency = np.float32(params.frequency_penalty)
        prompt_ids = list(dict.fromkeys(token_ids[:num_prompt]))
        self._num_prompt_ids = len(prompt_ids)
        self._place = {token: i for i, token in enumerate(prompt_ids)}
        self._ids = np.zeros(2 * len(prompt_ids) + 64, np.int64)
        self._ids[: len(prompt_ids)] = prompt_ids
        self._counts = np.zeros(len(self._ids), np.float32)
        for token in token_ids[num_prompt:]:
            self.push(token)

    def apply(self, row: np.ndarray) -> None:
        """Penalise ``row`` fp32 [vocab_size] in place."""
        size = len(self._place)
        ids, counts = self._ids[:size], self._counts[:size]
        values = row[ids]
        if self._repetition != 1:
            values = np.where(values > 0, values / self._repetition, values * self._repetition)
        values -= self._frequency * counts
        values -= self._presence * (counts > 0)
        row[ids] = values

    def push(self, token: int) -> None:
        """Count one more output token."""
        place = self._place.setdefault(token, len(self._place))
        if place == len(self._ids):
            self._ids = np.concatenate([self._ids, np.zeros_like(self._ids)])
            self._counts = np.concatenate([self._counts, np.zeros_like(self._counts)])
        self._ids[place] = token
        self._counts[place] += 1

    def pop(self, token: int) -> None:
        """Uncount the token pushed last."""
        place = self._place[token]
        self._counts[place] -= 1
        if self._counts[place] == 0 and place >= self._num_prompt_ids:
            del self._place[token]


def _has_penalties(params: SamplingParams) -> bool:
    return params.repetition_penalty != 1 or params.presence_penalty != 0 or params.frequency_penalty != 0
