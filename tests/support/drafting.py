"""Drafters over tiny models, and what they should draft."""

import random
from pathlib import Path
from typing import Any

import tiny_models
import torch
from msgspec.structs import replace
from naive import judge
from naive import load as load_any

from paceline.engine.execution.kv_pool import allocate
from paceline.engine.nn.model import Model
from paceline.engine.types import SamplingParams
from paceline.spec_decode.base import ModelContext, ProposeReq, StepBudget
from paceline.spec_decode.drafter import Drafter
from paceline.spec_decode.speculators import draft_model

GREEDY = SamplingParams(max_tokens=64, temperature=0.0, ignore_eos=True)
BLOCK = 4


def load(folder: Path, **sizes: Any) -> Model:
    return load_any(tiny_models.make_llama(folder, **sizes), dtype="float32")


def make(model: Model, num_blocks: int = 64, *, num_ids: int = 512, rule: str = "coupled", **config: Any) -> Drafter:
    kv = allocate(model.config, num_blocks, BLOCK, torch.float32)
    ctx = ModelContext(
        vocab_size=512, max_model_len=512, max_num_seqs=4, max_draft_tokens=8, model=model, kv=kv, num_ids=num_ids,
        rule=rule,
    )  # fmt: skip
    return draft_model.build(draft_model.Config(model="small", **config), ctx)


def ask(drafter: Drafter, name: str, length: int, delta: list[int], depth: int = 4, epoch: int = 0) -> list[int] | None:
    """The drafts for one request; None = no answer."""
    found = drafter.propose([ProposeReq(name, epoch, length, delta, depth)], StepBudget(64, 8))
    drafter.check()
    assert all((d.request_id, d.epoch, d.base_len, d.source) == (name, epoch, length, "draft_model") for d in found)
    return found[0].token_ids if found else None


def likely(model: Model, text: list[int], num: int, params: SamplingParams = GREEDY) -> list[int]:
    """What the model itself writes behind ``text``."""
    return judge(model, text, replace(params, max_tokens=num), dtype=torch.float32).token_ids


def some_text(rng: random.Random, num: int) -> list[int]:
    return [rng.randrange(3, 512) for _ in range(num)]
