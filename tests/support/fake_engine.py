"""An engine in one object, for tests of HTTP: it answers at once, or when told, and remembers what it was asked.

The text of a choice is ``tok0 tok1 ...``; token i has id 100 + i. No processes, no model.
"""

import asyncio
import struct
from collections.abc import AsyncGenerator

from paceline.actors.messages import (
    ActorState,
    Admitted,
    Detokenize,
    EngineState,
    Generate,
    Hello,
    PositionLogprobs,
    PromptInfo,
    Stats,
    TextDelta,
    TextLogprob,
    Tokenize,
    Tokenized,
)
from paceline.engine.config import Config, Server
from paceline.engine.errors import PacelineError
from paceline.engine.store.located import ModelCard, TokenizerSource
from paceline.engine.types import ModelConfig, SpeculationStats

MAX_MODEL_LEN = 256
VOCAB_SIZE = 1000
LOGITS_WIDTH = 960
MODEL = "tiny"


def card(template: str = "{% if role == 'observer' %}{% endif %}{# tools: <tool_call> with arguments #}") -> ModelCard:
    """A model of which only the sizes matter."""
    return ModelCard(
        name="tiny-original",
        model=ModelConfig(
            architecture="LlamaForCausalLM", vocab_size=VOCAB_SIZE, hidden_size=8, num_layers=1, num_heads=1,
            num_kv_heads=1, head_dim=8, intermediate_size=8, max_position=MAX_MODEL_LEN,
        ),
        tokenizer=TokenizerSource(kind="json", path="tokenizer.json"),
        chat_template=template,
    )  # fmt: skip


def config(**server: object) -> Config:
    """A server's config; ``server`` are keys of its [server] table."""
    return Config(model=MODEL, server=Server(**server))  # pyright: ignore[reportArgumentType]


def state(word: str = "ok", *, hello: bool = True, error: str | None = None) -> EngineState:
    """The supervisor's word."""
    target = Hello(
        "target", 7, 0, logits_width=LOGITS_WIDTH, num_blocks=32, block_size=16, max_model_len=MAX_MODEL_LEN,
        detail={"device": "cpu", "dtype": "float32"},
    )  # fmt: skip
    actors = [ActorState("scheduler", "ok", 6, 0, 0.5, None), ActorState("target", "ok", 7, 1, 0.0, None)]
    return EngineState(word, actors, error, target if hello else None)  # pyright: ignore[reportArgumentType]


class FakeEngine:
    """Stands in for ``EngineClient``."""

    def __init__(self) -> None:
        self.state: EngineState | None = state()
        self.stats: dict[str, Stats] = {}
        self.calls: list[Generate] = []
        self.tokenized: list[Tokenize] = []
        self.aborted: list[str] = []
        """Calls whose iterator was closed before its end."""
        self.aborted_event = asyncio.Event()
        self.refuse_with: PacelineError | None = None
        self.fail_with: PacelineError | Exception | None = None
        """Raised after ``fail_after`` tokens."""
        self.fail_after = 1
        self.gate: asyncio.Event | None = None
        """Waited for before the second token."""
        self.delay_s = 0.0
        self.text = "tok{i} "
        self.speculation: SpeculationStats | None = None
        """Told with every choice's last delta."""
        self.stop_at: int | None = None
        """Token at which every choice ends with a stop."""
        self.num_resets = 0
        """Of the prefix cache."""

    async def generate(self, call: Generate) -> AsyncGenerator[Admitted | TextDelta, None]:
        """Admit, then one token a delta, all choices in turn."""
        self.calls.append(call)
        is_over = False
        try:
            await asyncio.sleep(0)
            if self.refuse_with is not None:
                is_over = True
                raise self.refuse_with
            prompts = call.prompts if call.prompts is not None else [[1, 2, 3, 4, 5]]
            yield Admitted(call.call_id, [self._prompt(call, p) for p in prompts])
            if call.embed is not None:
                for index in reversed(range(len(prompts))):
                    if self.gate is not None:
                        await self.gate.wait()
                    vector = vector_of(index, call.embed.dimensions)
                    yield TextDelta(call.call_id, index, 0, "", 0, finish_reason="stop", embedding=vector)
                is_over = True
                return
            num_tokens = 16 if call.sampling.max_tokens is None else call.sampling.max_tokens
            for i in range(max(num_tokens, 1)):
                if self.fail_with is not None and i >= self.fail_after:
                    is_over = True
                    raise self.fail_with
                if i and self.gate is not None:
                    await self.gate.wait()
                await asyncio.sleep(self.delay_s)
                for index in range(len(prompts) * call.n):
                    yield self._delta(call, index, i, num_tokens)
                if i == self.stop_at:
                    break
            is_over = True
        finally:
            if not is_over:
                self.aborted.append(call.call_id)
                self.aborted_event.set()

    async def reset_prefix_cache(self) -> int:
        """There were three blocks."""
        self.num_resets += 1
        return 3

    async def tokenize(self, request: Tokenize | Detokenize) -> Tokenized:
        """A word is a token; a conversation has one for each of its words and two for each message."""
        if isinstance(request, Detokenize):
            return await self.detokenize(request)
        self.tokenized.append(request)
        words = (request.prompt or "").split()
        if request.chat is not None:
            words = [w for m in request.chat.messages for w in ("<s>", *str(m.get("content")).split(), "</s>")]
        ids = list(range(1, len(words) + 1))
        return Tokenized(request.call_id, ids, words, request.prompt or "")

    async def detokenize(self, request: Detokenize) -> Tokenized:
        """Ids as ``<id>``."""
        texts = [f"<{i}>" for i in request.token_ids]
        return Tokenized(request.call_id, request.token_ids, texts, "".join(texts))

    def _prompt(self, call: Generate, prompt: str | list[int]) -> PromptInfo:
        ids = prompt if isinstance(prompt, list) else list(range(1, len(prompt.split()) + 1))
        text = prompt if isinstance(prompt, str) else "".join(f"<{i}>" for i in ids)
        if call.chat is not None:
            last = call.chat.messages[-1]
            text = last["content"] if last["role"] == "assistant" else ""
        wants_ids = call.return_token_ids or (call.echo and call.sampling.logprobs is not None)
        return PromptInfo(len(ids), ids if wants_ids else None, text if call.echo else None)

    def _delta(self, call: Generate, index: int, i: int, num_tokens: int) -> TextDelta:
        offset = sum(len(self.text.format(i=j)) for j in range(i))
        has_token = num_tokens > 0
        is_stop, is_last = i == self.stop_at, i + 1 >= num_tokens
        prompt_logprobs = None
        echoes = call.echo and call.chat is None and call.sampling.logprobs is not None
        if i == 0 and (call.sampling.prompt_logprobs is not None or echoes):
            prompts = call.prompts if call.prompts is not None else [[1, 2, 3, 4, 5]]
            prompt = prompts[index // call.n]
            ids = prompt if isinstance(prompt, list) else list(range(1, len(prompt.split()) + 1))
            prompt_logprobs = [None, *(position(t, f"<{t}>", call.sampling.logprobs or 0) for t in ids[1:])]
        wants = call.sampling.logprobs is not None and has_token
        return TextDelta(
            call.call_id,
            index,
            offset,
            self.text.format(i=i) if has_token else "",
            i + 1 if has_token else 0,
            [100 + i] if call.return_token_ids and has_token else [],
            [position(100 + i, self.text.format(i=i), call.sampling.logprobs or 0)] if wants else None,
            prompt_logprobs,
            "stop" if is_stop else "length" if is_last else None,
            "halt" if is_stop else None,
            2 if index % call.n == 0 else 0,
            0.25,
            self.speculation if is_stop or is_last else None,
        )


def vector_of(index: int, dimensions: int = 0) -> bytes:
    """Of the prompt ``index``."""
    return struct.pack(f"<{dimensions or 4}f", *(0.1 * (index + i) for i in range(dimensions or 4)))


def position(token_id: int, text: str, num_top: int) -> PositionLogprobs:
    """A token that was the second choice, with ``num_top`` alternatives."""
    chosen = TextLogprob(token_id, text, text.encode(), -1.5, 2)
    top = [TextLogprob(500 + k, f"alt{k}", b"alt%d" % k, -0.5 - k if k else -0.5, k + 1) for k in range(num_top)]
    return PositionLogprobs(chosen, top)
