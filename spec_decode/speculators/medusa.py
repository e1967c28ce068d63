"""Medusa heads beside the target: each reads the target's last hidden state and guesses one token further ahead.

For targets for which such heads were trained (arXiv 2401.10774). One small product a head and step, no KV.
"""

from typing import TYPE_CHECKING, Literal

import msgspec

from ..base import Placement, TargetContext

if TYPE_CHECKING:
    from ..heads.head import Head

PLACEMENT: Placement = "target"
NAME = "medusa"


class Config(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """``[speculation.medusa]``."""

    model: str
    """The heads: a folder with config.json and safetensors."""
    num_heads: int = 0
    """Heads to load, from the nearest on; 0 = as many as there are, up to max_draft_tokens."""
    width: int = 1
    """Guesses of each head. 1 = a chain; more = a tree of them, of max_draft_tokens nodes at most."""
    dtype: Literal["auto", "bfloat16", "float16", "float32", "int8"] = "auto"
    """Weights in memory. auto: int8 (group scales) on a CPU, bfloat16 on a GPU."""

    def __post_init__(self) -> None:
        if not self.model.strip():
            raise ValueError("model is empty; name the folder of heads that were trained for the target")
        for name, least, most in (("num_heads", 0, 64), ("width", 1, 16)):
            if not least <= getattr(self, name) <= most:
                raise ValueError(f"{name} = {getattr(self, name)}: must be {least} to {most}")


def build(config: Config, ctx: TargetContext) -> "Head":
    """The heads in memory.

    Raises:
        ConfigError: the files are damaged, or of heads for another target.
    """
    from ..heads import medusa, medusa_net
    from ..heads.files import HeadFiles, loader_for

    files = HeadFiles(ctx.folder, ctx.files, medusa_net.rename)
    try:
        with loader_for(files, ctx.dtype, ctx.device) as loader:
            net = medusa_net.read(
                files,
                loader,
                hidden_size=ctx.model.config.hidden_size,
                vocab_size=ctx.vocab_size,
                most=min(config.num_heads or ctx.max_draft_tokens, ctx.max_draft_tokens),
            )
    finally:
        files.close()
    is_coupled = ctx.rule == "coupled"
    return medusa.Medusa(
        net,
        vocab_size=ctx.vocab_size,
        max_model_len=ctx.max_model_len,
        max_draft_tokens=ctx.max_draft_tokens,
        width=config.width if is_coupled else 1,
        seeded=is_coupled,
        source=NAME,
    )
