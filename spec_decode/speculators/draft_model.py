"""Draft model: any model that shares the target's tokenizer, in a process of its own, drafts a chain for each request.

Greedy at temperature 0. Above, under the rule ``coupled`` it draws with the noise that the target will use at the same
position, so that the two agree as often as their distributions allow. Under the rules ``token`` and ``block`` it drafts
the most likely token, or with ``q = "sparse"`` draws from a law that is sent along.
"""

from typing import TYPE_CHECKING, Literal

import msgspec

from ...engine.errors import ConfigError
from ..base import ModelContext, Placement

if TYPE_CHECKING:
    from ..drafter import Drafter

PLACEMENT: Placement = "process"
NAME = "draft_model"


class Config(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """``[speculation.draft_model]``."""

    model: str
    """A library name, a Hugging Face repo, a folder or a .gguf file, with the target's tokenizer."""
    mode: Literal["sync", "ahead", "enumerate"] = "sync"
    """sync: draft when asked. ahead: go on drafting while the target verifies, for a device of its own. enumerate:
    also behind other outcomes than the likeliest, for a device that has much time."""
    fanout: int = 3
    """enumerate: outcomes drafted for, for each draft that is verified."""
    q: Literal["none", "sparse"] = "none"
    """What travels with a draft. none: nothing, for drafts are the most likely tokens, or drawn with the shared noise.
    sparse: the likeliest ids and their chances, from which it was drawn; for the rules token and block."""
    device: str = "auto"
    """auto, cpu, cuda:0, ..."""
    dtype: Literal["auto", "bfloat16", "float16", "float32", "int8", "int4"] = "auto"
    """Weights in memory. auto: int4 on a CPU, for drafts need speed more than precision (blocks of 4 and 5 bits stay as
    they are); bfloat16 on a GPU."""
    num_threads: int = 0
    """0 = as the target's, where they take turns on a CPU (sync); one, where they share it; else one a core."""
    num_blocks: int = 0
    """Blocks of its own KV pool; 0 = from the memory really free."""
    max_bytes: int = 0
    """Upper bound of its KV pool when num_blocks is 0; 0 = memory_fraction of what is free."""
    memory_fraction: float = 0.1
    """Share of the free memory its KV pool may take."""
    timeout_ms: float = 0.0
    """sync: how long a step waits for drafts; 0 = twice the measured time of a proposal."""
    min_token_prob: float = 0.0
    """A chain ends where the product of its drafts' probabilities falls below; 0.3 where verified rows are not free."""
    chunk_tokens: int = 256
    """Most tokens of prompts computed in one go; drafts of other requests wait for it."""

    def __post_init__(self) -> None:
        if not self.model.strip():
            raise ValueError("model is empty; name a small model with the target's tokenizer")
        for name, least, most in (
            ("num_threads", 0, 4096),
            ("num_blocks", 0, 1 << 32),
            ("max_bytes", 0, 1 << 62),
            ("memory_fraction", 0.01, 0.95),
            ("timeout_ms", 0, 60_000),
            ("min_token_prob", 0, 1),
            ("chunk_tokens", 16, 1 << 20),
            ("fanout", 1, 16),
        ):
            if not least <= getattr(self, name) <= most:
                raise ValueError(f"{name} = {getattr(self, name)}: must be {least} to {most}")


def check_rule(config: Config, rule: str) -> None:
    """Do the drafts fit the rule that will judge them?

    Raises:
        ConfigError: they do not; one line with the remedy.
    """
    if config.q == "sparse" and rule not in ("token", "block"):
        raise ConfigError(
            f"speculation.draft_model.q = sparse: speculation.rule = {rule} uses no law of the drafts; leave q out, or "
            "set the rule to token or block"
        )


def build(config: Config, ctx: ModelContext) -> "Drafter":
    """The speculator, for a model that is loaded already.

    Raises:
        ConfigError: its drafts would not fit the rule.
    """
    from ..drafter import Drafter

    check_rule(config, ctx.rule)
    return Drafter(
        ctx.model,
        ctx.kv,
        source=NAME,
        num_ids=min(ctx.num_ids, ctx.vocab_size),
        max_num_seqs=ctx.max_num_seqs,
        max_draft_tokens=ctx.max_draft_tokens,
        how="shared" if ctx.rule == "coupled" else "sparse" if config.q == "sparse" else "likeliest",
        ahead=config.mode != "sync",
        fanout=config.fanout if config.mode == "enumerate" else 0,
        min_token_prob=config.min_token_prob,
        chunk_tokens=config.chunk_tokens,
        device=ctx.device,
    )
