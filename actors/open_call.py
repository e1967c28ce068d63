"""One open call in the tokenizer actor: its requests, as the scheduler gets them, and what it waits for.

Knows neither mailboxes nor other calls.
"""

from collections import deque

import msgspec

from ..engine.errors import InvalidRequestError
from ..engine.types import RequestId, SpeculationControl
from .choice import Choice
from .messages import Add, Generate, PromptInfo, TextDelta
from .neighbour import check_replays
from .text.prompt import Prompt, param_of
from .text.response.reader import OutputReader
from .text.sampling import SamplingResolver, Sizes, choice_seed
from .text.token_bytes import TokenBytes

MAX_N = 128
MAX_CHOICES = 2048
"""As many vectors as one call may ask for; of text each dialect lets fewer through."""


def check_size(generate: Generate) -> None:
    """Refuse a call of more choices than any dialect lets through, or of none, before there is anything for each.

    Raises:
        InvalidRequestError: naming the bound.
    """
    num_prompts = 1 if generate.prompts is None else len(generate.prompts)
    if not 1 <= generate.n <= MAX_N or num_prompts * generate.n > MAX_CHOICES:
        what = f"{num_prompts} prompts with n = {generate.n}"
        raise InvalidRequestError(f"{what}: n must be 1 to {MAX_N}, prompts x n at most {MAX_CHOICES}", param="n")


class OpenCall:
    """A call from its arrival until all its choices have ended."""

    def __init__(self, sender: str, generate: Generate, now_s: float) -> None:
        self.sender = sender
        self.generate = generate
        self.arrived_s = now_s
        self.choices: dict[RequestId, Choice] = {}
        """Of the requests that have not ended."""
        self.not_added: set[RequestId] = set()
        self.prompts: list[PromptInfo] = []
        self.held: list[TextDelta] = []
        """Deltas made before the call was admitted."""
        self.is_admitted = False
        self.backlog: deque[Add] = deque()
        """Requests that the scheduler has not got yet."""
        self._out: dict[RequestId, Add] = {}  # those that it has
        self._num_tokens_out = 0
        again = generate.again
        self._num_replays = 0 if again is None else again.num_replays
        self._was_admitted = again is not None and again.was_admitted
        self._ended = frozenset(() if again is None else again.ended)

    @property
    def num_waiting(self) -> int:
        """Requests that wait for the scheduler to be there; a call for vectors counts as one, see ``next_adds``."""
        return 0 if self._out else 1 if self.generate.embed is not None else max(1, len(self.backlog))

    def requests(
        self, prompts: list[Prompt], resolver: SamplingResolver, tokens: TokenBytes, sizes: Sizes, now_s: float,
        reader: OutputReader,
    ) -> list[Add]:  # fmt: skip
        """The requests of all prompts; each gets its choice.

        Raises:
            InvalidRequestError: they exceed a bound.
        """
        return [
            add
            for index, prompt in enumerate(prompts)
            for add in self._requests_of(index, prompt, resolver, tokens, sizes, now_s, reader)
        ]

    def next_adds(self, most_requests: int, most_tokens: int) -> list[Add]:
        """Requests from the backlog that the scheduler may get now: of a call that generates all at once.

        A call for vectors may have thousands, of which no client sees one before it has all: they wait here, so that
        they neither fill the queue nor stand in it before every other call. At least one is always out.
        """
        embeds, adds = self.generate.embed is not None, list[Add]()
        while self.backlog:
            is_full = len(self._out) >= most_requests or self._num_tokens_out >= most_tokens
            if embeds and self._out and is_full:
                break
            add = self.backlog.popleft()
            self._out[add.request_id] = add
            self._num_tokens_out += len(add.prompt_ids)
            adds.append(add)
        return adds

    def ended(self, request_id: RequestId) -> None:
        """A request is out of the scheduler."""
        if (add := self._out.pop(request_id, None)) is not None:
            self._num_tokens_out -= len(add.prompt_ids)

    def adds_again(self, now_s: float) -> list[Add]:
        """The requests that the dead scheduler had, for another: each goes on behind the output that has come.

        Raises:
            UnavailableError: it was tried often enough.
        """
        if self._out:
            self._num_replays += 1
            check_replays(self._num_replays)
        return [
            msgspec.structs.replace(
                add,
                output_ids=self.choices[request_id].output_ids,
                deadline_s=self._left_s(now_s),
                is_again=add.is_again or request_id not in self.not_added,
            )
            for request_id, add in self._out.items()
        ]

    def _left_s(self, now_s: float) -> float:
        return max(0.0, self.generate.timeout_s - (now_s - self.arrived_s))

    def _requests_of(
        self, prompt_index: int, prompt: Prompt, resolver: SamplingResolver, tokens: TokenBytes, sizes: Sizes,
        now_s: float, reader: OutputReader,
    ) -> list[Add]:  # fmt: skip
        """The requests of one prompt."""
        generate, sampling = self.generate, self.generate.sampling
        prompt_logprobs = sampling.prompt_logprobs
        if prompt_logprobs is None and generate.echo and generate.chat is None:
            prompt_logprobs = sampling.logprobs
        is_chat = generate.chat is not None
        if generate.embed is not None:
            param = param_of(generate, prompt_index)
            params = resolver.pooled(generate.embed, len(prompt.token_ids), sizes, param)
        else:
            params = resolver.resolve(
                sampling, len(prompt.token_ids), sizes, is_chat=is_chat, until_full=generate.until_full
            )
            grammar = reader.grammar(generate.reading, prompt.end, sampling.grammar)
            params = msgspec.structs.replace(params, prompt_logprobs=prompt_logprobs, grammar=grammar)
        wants_ids = generate.return_token_ids or (generate.echo and prompt_logprobs is not None)
        ids = prompt.token_ids if wants_ids else None
        self.prompts.append(PromptInfo(len(prompt.token_ids), ids, prompt.text))
        adds: list[Add] = []
        for i in range(generate.n):
            index = prompt_index * generate.n + i
            if index in self._ended:
                continue
            request_id = f"{generate.call_id}-{index}"
            self.choices[request_id] = Choice(
                generate.call_id,
                index,
                request_id,
                tokens,
                prompt.token_ids,
                sampling,
                prompt_logprobs=prompt_logprobs is not None,
                return_token_ids=generate.return_token_ids,
                parser=reader.parser(generate.reading, prompt.end),
                reading=generate.reading,
                kept_ids=reader.kept_ids,
            )
            adds.append(
                Add(
                    request_id,
                    prompt.token_ids,
                    msgspec.structs.replace(params, seed=choice_seed(sampling.seed, index)),
                    generate.priority,
                    generate.cache_salt,
                    # A fork computes no prompt of its own, so it would have no log-probabilities of it.
                    adds[0].request_id if adds and prompt_logprobs is None else None,
                    deadline_s=self._left_s(now_s),
                    speculation=_control(generate),
                    prediction_ids=prompt.prediction_ids,
                    is_again=self._was_admitted,
                )
            )
        return adds


def _control(generate: Generate) -> SpeculationControl | None:
    """The call's wish, and none for vectors. With stop strings the scheduler, which does not know which output is the
    last, reports each time.
    """
    if generate.embed is not None:
        return SpeculationControl(enabled=False)
    if not generate.sampling.stop:
        return generate.speculation
    return msgspec.structs.replace(generate.speculation or SpeculationControl(), always_report=True)
