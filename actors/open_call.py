"""One open call in the tokenizer actor: its requests, as the scheduler gets them, and what it waits for.

Knows neither mailboxes nor other calls.
"""

import msgspec

from ..engine.types import RequestId, SpeculationControl
from .choice import Choice
from .messages import Add, Generate, PromptInfo, TextDelta
from .text.prompt import Prompt
from .text.sampling import SamplingResolver, Sizes, choice_seed
from .text.token_bytes import TokenBytes


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

    def requests(
        self, prompts: list[Prompt], resolver: SamplingResolver, tokens: TokenBytes, sizes: Sizes, now_s: float
    ) -> list[Add]:
        """The requests of all prompts; each gets its choice.

        Raises:
            InvalidRequestError: they exceed a bound.
        """
        return [
            add
            for index, prompt in enumerate(prompts)
            for add in self._requests_of(index, prompt, resolver, tokens, sizes, now_s)
        ]

    def _requests_of(
        self, prompt_index: int, prompt: Prompt, resolver: SamplingResolver, tokens: TokenBytes, sizes: Sizes,
        now_s: float,
    ) -> list[Add]:  # fmt: skip
        """The requests of one prompt."""
        generate, sampling = self.generate, self.generate.sampling
        prompt_logprobs = sampling.prompt_logprobs
        if prompt_logprobs is None and generate.echo and generate.chat is None:
            prompt_logprobs = sampling.logprobs
        is_chat = generate.chat is not None
        params = resolver.resolve(
            sampling, len(prompt.token_ids), sizes, is_chat=is_chat, until_full=generate.until_full
        )
        params = msgspec.structs.replace(params, prompt_logprobs=prompt_logprobs)
        wants_ids = generate.return_token_ids or (generate.echo and prompt_logprobs is not None)
        ids = prompt.token_ids if wants_ids else None
        self.prompts.append(PromptInfo(len(prompt.token_ids), ids, prompt.text))
        deadline_s = max(0.0, generate.timeout_s - (now_s - self.arrived_s))
        adds: list[Add] = []
        for i in range(generate.n):
            index = prompt_index * generate.n + i
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
                    deadline_s=deadline_s,
                    speculation=_control(generate),
                    prediction_ids=prompt.prediction_ids,
                )
            )
        return adds


def _control(generate: Generate) -> SpeculationControl | None:
    """The call's wish; with stop strings the scheduler reports each time, for it does not know which output is last."""
    if not generate.sampling.stop:
        return generate.speculation
    return msgspec.structs.replace(generate.speculation or SpeculationControl(), always_report=True)
