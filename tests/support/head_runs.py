"""A target with a head beside it, in one process: the runner, and the core as its scheduler's shell would use it."""

from pathlib import Path
from typing import Any

import msgspec

from paceline.engine.nn.model import Model
from paceline.spec_decode.base import TargetContext
from paceline.spec_decode.speculators import eagle, medusa

PLUGINS = {"medusa": medusa, "eagle": eagle}


def build(name: str, folder: Path, model: Model, *, rule: str = "coupled", **settings: Any) -> Any:
    """The head of ``folder`` as the target would build it, in fp32."""
    plugin = PLUGINS[name]
    context = TargetContext(
        vocab_size=model.config.vocab_size,
        max_model_len=settings.pop("max_model_len", 256),
        max_num_seqs=8,
        max_draft_tokens=settings.pop("max_draft_tokens", 4),
        model=model,
        folder=str(folder),
        files=[str(file) for file in sorted(folder.glob("*.safetensors"))],
        dtype="float32",
        num_blocks=settings.pop("pool", 64),
        block_size=8,
        rule=rule,
    )
    return plugin.build(msgspec.convert({"model": str(folder), **settings}, plugin.Config), context)
