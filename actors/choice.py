"""One request's tokens to the deltas of one choice: detokenised, searched for stop strings and cut where they hit.

Where the call wants that, the text is read as reasoning, tool calls and content.
"""

from collections.abc import Sequence

from ..engine.core.plan import RequestOutput, TokenLogprobs
from ..engine.types import FinishReason, RequestId
from .messages import Part, PositionLogprobs, Reading, Sampling, TextDelta, TextLogprob
from .text.detokenize import Detokenizer
from .text.response.parser import ResponseParser
from .text.stop_strings import StopStrings
from .text.token_bytes import TokenBytes


class MissingTokens(Exception):
    """An output begins behind what has come so far."""


class Choice:
    """State of one output stream. Feed it every RequestOutput of its request, in order; duplicates are dropped."""

    def __init__(
        self,
        call_id: str,
        index: int,
        request_id: RequestId,
        tokens: TokenBytes,
        prompt_ids: Sequence[int],
        sampling: Sampling,
        *,
        prompt_logprobs: bool,
        return_token_ids: bool,
        parser: ResponseParser | None = None,
        reading: Reading | None = None,
        kept_ids: frozenset[int] = frozenset(),
    ) -> None:
        self.request_id = request_id
        self.is_done = False
        """Its last delta was made; whatever comes later is dropped."""
        self.output_ids: list[int] = []
        """All tokens that have come: what a new scheduler has to be told."""
        self._call_id = call_id
        self._index = index
        self._tokens = tokens
        self._detokenizer = Detokenizer(
            tokens, prompt_ids, skip_special_tokens=sampling.skip_special_tokens,
            kept_ids=kept_ids if parser is not None else frozenset(),
        )  # fmt: skip
        self._parser = parser
        self._hides_reasoning = reading is not None and reading.hides_reasoning
        self._num_reasoning = 0
        self._stops = StopStrings(sampling.stop, include=sampling.include_stop_str_in_output)
        self._sampling = sampling
        self._wants_prompt_logprobs = prompt_logprobs
        self._return_token_ids = return_token_ids
        self._num_tokens = 0
        self._num_chars = 0
        self._num_cached = 0
        self._queue_s = 0.0

    @property
    def num_repairs(self) -> int:
        """See ``Detokenizer.num_repairs``."""
        return self._detokenizer.num_repairs

    def apply(self, output: RequestOutput) -> TextDelta | None:
        """What there is to tell; None when nothing is.

        Raises:
            MissingTokens: tokens were lost on the way here.
        """
        if self.is_done:
            return None
        known = self._num_tokens - output.offset
        if known < 0:
            raise MissingTokens(f"token {self._num_tokens} of request {self.request_id} never came")
        token_ids = output.token_ids[known:]
        if not token_ids and output.finish_reason is None:
            return None
        self.output_ids += token_ids
        is_first = self._num_tokens == 0
        if is_first:
            self._num_cached, self._queue_s = output.num_cached, output.queue_s
        parts, shown = self._read(token_ids, output)
        num_taken, text = len(shown), "".join(p.text for p in parts if p.kind == "content")
        parts = [] if all(p.kind == "content" for p in parts) else parts
        hit = self._stops.hit
        is_over = hit is not None or (self._parser is not None and self._parser.is_over)
        self.is_done = is_over or output.finish_reason is not None
        token_ids = token_ids[:num_taken]
        logprobs = None
        if output.logprobs is not None and self._sampling.logprobs is not None:
            told = zip(output.logprobs[known : known + num_taken], shown, strict=False)
            logprobs = [self._position(t) for t, is_shown in told if is_shown]
        prompt_logprobs = self._prompt_logprobs(output)
        if not (text or parts or self.is_done or is_first or logprobs or prompt_logprobs or self._return_token_ids):
            return None
        num_chars = sum(len(p.text) for p in parts) if parts else len(text)
        offset, self._num_chars = self._num_chars, self._num_chars + num_chars
        finish_reason: FinishReason | None = "stop" if is_over else output.finish_reason
        return TextDelta(
            self._call_id,
            self._index,
            offset,
            text,
            self._num_tokens,
            token_ids if self._return_token_ids else [],
            logprobs,
            prompt_logprobs,
            finish_reason,
            hit if hit is not None else None if is_over else output.stop_reason,
            self._num_cached,
            self._queue_s,
            output.speculation if self.is_done else None,
            output.embedding,
            parts,
            self._num_reasoning,
        )

    def _read(self, token_ids: list[int], output: RequestOutput) -> tuple[list[Part], list[bool]]:
        """What the new tokens say up to a stop string; and of each token that this took, whether it may be shown."""
        # A token that ended the request is counted and reported, but is no text unless the client wants its stops.
        has_end = output.finish_reason == "stop" and not self._sampling.include_stop_str_in_output
        last = len(token_ids) - 1 if has_end else len(token_ids)
        parts: list[Part] = []
        shown: list[bool] = []
        for i, token_id in enumerate(token_ids):
            self._num_tokens += 1
            text = self._search(self._detokenizer.feed(token_id)) if i != last else ""
            shown.append(self._take(text, parts, is_token=i != last))
            if self._stops.hit is not None or (self._parser is not None and self._parser.is_over):
                break
        if self._stops.hit is not None or output.finish_reason is not None:
            if self._stops.hit is None:
                self._take(self._search(self._detokenizer.flush()) + self._stops.flush(), parts, is_token=False)
            if self._parser is not None:
                parts += self._kept(self._parser.finish())
        return parts, shown

    def _take(self, text: str, parts: list[Part], *, is_token: bool) -> bool:
        """Read the text of one token; False if it is reasoning that is not to be shown."""
        if self._parser is None:
            if text:
                parts.append(Part("content", text))
            return True
        is_reasoning = self._parser.is_reasoning
        if text:
            parts += self._kept(self._parser.feed(text))
        is_reasoning = is_token and (is_reasoning or self._parser.is_reasoning)
        self._num_reasoning += is_reasoning
        return not (is_reasoning and self._hides_reasoning)

    def _kept(self, parts: list[Part]) -> list[Part]:
        return [p for p in parts if p.kind != "reasoning"] if self._hides_reasoning else parts

    def _search(self, text: str) -> str:
        """Look for stop strings, but not in the text of the first ``min_tokens`` tokens."""
        return text if self._num_tokens <= self._sampling.min_tokens else self._stops.feed(text)

    def _prompt_logprobs(self, output: RequestOutput) -> list[PositionLogprobs | None] | None:
        """One entry for each prompt token, with the first delta; the first token has nothing before it."""
        if not self._wants_prompt_logprobs:
            return None
        self._wants_prompt_logprobs = False
        return [None, *map(self._position, output.prompt_logprobs or [])]

    def _position(self, at: TokenLogprobs) -> PositionLogprobs:
        ranked = self._sampling.logprob_token_ids is None  # ids the client chose come without ranks
        top = [
            self._token(i, logprob, rank if ranked else 0)
            for rank, (i, logprob) in enumerate(zip(at.top_ids, at.top_logprobs, strict=True), 1)
        ]
        if not ranked:
            top.sort(key=lambda t: -t.logprob)
        return PositionLogprobs(self._token(at.token_id, at.logprob, at.rank), top)

    def _token(self, token_id: int, logprob: float, rank: int) -> TextLogprob:
        raw = self._tokens.of(token_id)
        return TextLogprob(token_id, raw.decode("utf-8", "replace"), raw, logprob, rank)
