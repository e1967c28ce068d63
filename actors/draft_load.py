"""From a Setup to a draft model that is ready: weights, KV pages of its own, and then a speculator that has run once.

Runs in the draft actor's process only. The config's sections for the target's model are filled with those of the draft
model, so that both are loaded by the same code.
"""

from dataclasses import dataclass
from typing import cast

import msgspec

from ..engine import plugins
from ..engine.config import Config, method_config
from ..engine.store import vocabulary
from ..engine.store.located import Located, ModelCard
from ..kernels.native import load as native
from ..spec_decode.base import ModelContext
from ..spec_decode.drafter import Drafter
from ..spec_decode.speculators import draft_model
from .target_load import choose_device, load_pages


@dataclass(slots=True)
class Loaded:
    """A speculator and what others must know of it."""

    speculator: Drafter
    num_blocks: int
    num_threads: int
    facts: dict[str, str]
    vocab_hash: str

    def warm_up(self) -> None:
        """Run once, and measure. Its threads start anew: those that loading started have loading's priority."""
        native.set_num_threads(self.num_threads)
        self.speculator.warmup()

    @property
    def step_costs(self) -> list[tuple[int, float]]:
        """Requests, seconds of one draft for each; empty before ``warm_up``."""
        return self.speculator.costs


def load(config: Config, located: Located, card: ModelCard) -> Loaded:
    """Everything that stands between a process and its first draft, but for ``Loaded.warm_up``.

    Raises:
        BadModelFileError: the weights are damaged or of no kind we read.
        ConfigError: no such device, or the model or its KV pool does not fit into memory.
    """
    name = draft_model.NAME
    settings = cast(draft_model.Config, method_config(config.speculation, name))
    words = vocabulary.read(card.tokenizer)
    pages = load_pages(_as_target(config, settings, card), located, card)
    context = ModelContext(
        vocab_size=card.model.vocab_size,
        max_model_len=pages.sizes.max_model_len,
        max_num_seqs=config.scheduler.max_num_seqs,
        max_draft_tokens=config.speculation.max_draft_tokens,
        model=pages.model,
        kv=pages.kv,
        device=str(pages.device),
        num_ids=min(words.num_ids, card.model.vocab_size),
        rule=config.speculation.rule,
    )
    speculator = plugins.load("spec_decode.speculators", name).build(settings, context)
    facts = {"model": card.name, **pages.facts}
    return Loaded(speculator, pages.sizes.num_blocks, int(pages.facts["threads"]), facts, words.fingerprint)


def _as_target(config: Config, settings: draft_model.Config, card: ModelCard) -> Config:
    """The config with which the draft model is loaded as the target is."""
    device = choose_device(settings.device)
    both_on_cpu = choose_device(config.target.device).type == device.type == "cpu"
    both_at_once = both_on_cpu and settings.mode != "sync"  # else they take turns, and idle threads sleep
    num_threads = 1 if both_at_once else config.target.num_threads if both_on_cpu else 0
    target = msgspec.structs.replace(
        config.target,
        device=settings.device,
        dtype="int4" if settings.dtype == "auto" and device.type == "cpu" else settings.dtype,
        num_threads=settings.num_threads or num_threads,
        max_model_len=min(config.target.max_model_len, card.model.max_position),
    )
    cache = msgspec.structs.replace(
        config.cache,
        num_blocks=settings.num_blocks,
        max_bytes=settings.max_bytes,
        memory_fraction=settings.memory_fraction,
    )
    return msgspec.structs.replace(config, target=target, cache=cache)
