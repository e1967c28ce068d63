"""Model cards and setups of actors over ``tiny_tokenizers``, without weights."""

from pathlib import Path
from typing import Any

from tiny_tokenizers import CHATML, byte_level

from paceline.actors.actor import Setup
from paceline.engine.config import Config
from paceline.engine.store.located import Located, ModelCard, TokenizerSource
from paceline.engine.types import ModelConfig

SIZES = ModelConfig(
    architecture="TinyForTesting", vocab_size=512, hidden_size=8, num_layers=1, num_heads=1, num_kv_heads=1, head_dim=8,
    intermediate_size=8, max_position=200,
)  # fmt: skip


def card(path: str = "", **fields: Any) -> ModelCard:
    """A chat model over ``byte_level``: 512 rows, 200 positions, ends with <|im_end|> (2) or <|endoftext|> (0)."""
    values: dict[str, Any] = {
        "name": "tiny", "model": SIZES, "tokenizer": TokenizerSource(kind="json", path=path), "chat_template": CHATML,
        "bos_id": 1, "end_ids": [2, 0],
    }  # fmt: skip
    return ModelCard(**(values | fields))


def setup(folder: Path, actor: str, **fields: Any) -> Setup:
    """What a process of ``actor`` would be told."""
    path = folder / "tokenizer.json"
    byte_level().save(str(path))
    located = Located(name="tiny", kind="safetensors", folder=str(folder), files=[], sizes=[], digests=[])
    return Setup(
        actor=actor, epoch=0, folder=str(folder), config=Config(), located=located, card=card(str(path), **fields)
    )
