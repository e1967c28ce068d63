"""What all routes share: the engine, the model's name and bounds, metrics, the calls that are open."""

import time
from collections.abc import AsyncGenerator
from typing import Any, Protocol

from ... import __version__
from ...engine.config import Config
from ...engine.errors import InvalidRequestError
from ...engine.store.located import Located, ModelCard
from ..messages import Admitted, Detokenize, EngineState, Generate, Stats, TextDelta, Tokenize, Tokenized
from ..model_store import ModelStore
from ..output_format import format_of
from .errors import describe
from .grammar_check import GrammarCheck
from .health import Health
from .meter import Registry
from .parsed_call import Bounds
from .stream import OpenCalls

MAX_NAME_CHARS = 200


class Engine(Protocol):
    """What HTTP uses of ``EngineClient``."""

    state: EngineState | None
    stats: dict[str, Stats]

    def generate(self, call: Generate) -> AsyncGenerator[Admitted | TextDelta, None]:
        """``Admitted``, then deltas; closing it aborts."""
        ...

    async def tokenize(self, request: Tokenize | Detokenize) -> Tokenized:
        """Text or a conversation to ids."""
        ...

    async def detokenize(self, request: Detokenize) -> Tokenized:
        """Ids to text."""
        ...

    async def reset_prefix_cache(self) -> int:
        """Forget what later requests could find; how many blocks that were."""
        ...


class Service:
    """One served model behind HTTP."""

    def __init__(
        self, config: Config, card: ModelCard, engine: Engine, registry: Registry, located: Located | None = None,
        store: ModelStore | None = None,
    ) -> None:  # fmt: skip
        self.config = config
        self.engine = engine
        self.registry = registry
        self.health = Health(engine)
        self.calls = OpenCalls()
        self.closes_connections = False
        """Each answer is its connection's last: another server has taken the port over."""
        self.model_name = config.server.served_model_name or config.model
        self.created = int(time.time())
        self.card = card
        self.located = located
        self.store = store or ModelStore()
        self.grammars = GrammarCheck()
        self.format = format_of(card, config)

    def bounds(self) -> Bounds:
        """The limits of a call now.

        Raises:
            UnavailableError: the engine takes no calls.
        """
        error = self.health.why_no_calls()
        if error is not None:
            raise error
        state, config = self.engine.state, self.config
        hello = state.hello if state is not None else None
        model = self.card.model
        return Bounds(
            max_model_len=self.max_model_len,
            vocab_size=model.vocab_size,
            logits_width=(hello.logits_width if hello is not None else 0) or model.vocab_size,
            max_logprobs=config.server.max_logprobs,
            has_priorities=config.scheduler.policy == "priority",
            timeout_s=config.server.request_timeout_s,
            chat_template=self.card.chat_template or "",
            speculators=config.speculation.methods,
            max_draft_tokens=config.speculation.max_draft_tokens,
            format=self.format,
            marker_ids=self.card.marker_ids,
            default_seed=self.card.defaults.get("seed"),
        )

    def check_model(self, name: str | None) -> None:
        """Refuse a model that is not served here. None is the served one.

        Raises:
            InvalidRequestError: 404, with the names that are served.
        """
        if name is not None and name != self.model_name:
            what = f"the model {describe(name)} is not served here; use {describe(self.model_name)}"
            raise InvalidRequestError(what, param="model", code="model_not_found", not_found=True)

    def model(self) -> dict[str, Any]:
        """The served model, as /v1/models shows it."""
        return {
            "id": self.model_name,
            "object": "model",
            "created": self.created,
            "owned_by": "paceline",
            "root": self.card.name,
            "parent": None,
            "max_model_len": self.max_model_len,
            "permission": [],
        }

    @property
    def max_model_len(self) -> int:
        """Most tokens of prompt and output; the model's own bound until the target has told what its memory allows."""
        state = self.engine.state
        hello = state.hello if state is not None else None
        return (hello.max_model_len if hello is not None else 0) or self.card.model.max_position

    @property
    def weight_digest(self) -> str:
        """sha256 in hex of the first weight file; empty where unknown."""
        return next((d for d in (self.located.digests if self.located else []) if d), "")

    @property
    def fingerprint(self) -> str:
        """What an answer's tokens depend on beside the request: version, device, dtype, weights."""
        state = self.engine.state
        facts = state.hello.detail if state is not None and state.hello is not None else {}
        parts = [__version__, facts.get("device"), facts.get("dtype"), self.weight_digest[:12]]
        return "-".join(["paceline", *(p for p in parts if p)])
