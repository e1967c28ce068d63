"""EAGLE beside the target: one decoder layer over the target's hidden states drafts a chain, with KV of its own.

For targets for which such a head was trained: EAGLE-1 (arXiv 2401.15077) or EAGLE-3 (arXiv 2503.01840), told apart by
the tensors. A draft costs one layer and one LM head.
"""

from typing import TYPE_CHECKING, Literal

import msgspec

from ..base import Placement, TargetContext

if TYPE_CHECKING:
    from ..heads.head import Head

PLACEMENT: Placement = "target"
NAME = "eagle"


class Config(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """``[speculation.eagle]``."""

    model: str
    """The head: a folder with config.json and safetensors."""
    width: int = 1
    """Guesses at each place. 1 = a chain; more = a chain with the others as leaves, max_draft_tokens nodes in all."""
    layer_ids: list[int] = []
    """EAGLE-3: behind how many layers its features are read; empty = as the head's config or the paper's code says."""
    min_token_prob: float = 0.0
    """A chain ends where the product of its drafts' probabilities falls below; 0.3 where verified rows are not free."""
    num_blocks: int = 0
    """Blocks of its own KV pool; 0 = as many as the target's, of one layer each."""
    dtype: Literal["auto", "bfloat16", "float16", "float32", "int8"] = "auto"
    """Weights in memory. auto: int8 (group scales) on a CPU, bfloat16 on a GPU."""

    def __post_init__(self) -> None:
        if not self.model.strip():
            raise ValueError("model is empty; name the folder of a head that was trained for the target")
        for name, least, most in (("width", 1, 16), ("min_token_prob", 0, 1), ("num_blocks", 0, 1 << 32)):
            if not least <= getattr(self, name) <= most:
                raise ValueError(f"{name} = {getattr(self, name)}: must be {least} to {most}")


def build(config: Config, ctx: TargetContext) -> "Head":
    """The head in memory, with its pages.

    Raises:
        ConfigError: the files are damaged, or of a head for another target.
    """
    from ...engine.execution.kv_pool import allocate, page_dtype
    from ..heads import eagle, eagle_net
    from ..heads.files import HeadFiles, loader_for

    files = HeadFiles(ctx.folder, ctx.files, eagle_net.rename)
    try:
        with loader_for(files, ctx.dtype, ctx.device) as loader:
            net = eagle_net.read(files, loader, ctx.model.config, config.layer_ids)
    finally:
        files.close()
    is_coupled = ctx.rule == "coupled"
    num_blocks = config.num_blocks or ctx.num_blocks
    return eagle.Eagle(
        net,
        allocate(net.config, num_blocks, ctx.block_size, page_dtype("auto"), ctx.device),
        embed=ctx.model.embed,
        target_logits=ctx.model.logits,
        max_model_len=min(ctx.max_model_len, net.config.max_position),
        max_draft_tokens=ctx.max_draft_tokens,
        width=config.width if is_coupled else 1,
        min_token_prob=config.min_token_prob,
        seeded=is_coupled,
        source=NAME,
        device=ctx.device,
    )
