"""One tiny target, texts that it wrote, and heads fitted to them."""

from pathlib import Path
from typing import NamedTuple

import naive
import pytest
import tiny_heads
import tiny_models
import torch

from paceline.engine.nn.model import Model
from paceline.engine.types import SamplingParams

KINDS = ["medusa", "eagle", "eagle-3"]


class Wrote(NamedTuple):
    prompt: list[int]
    params: SamplingParams
    output: list[int]


class Target(NamedTuple):
    """``wrote``: greedy texts first, then sampled ones."""

    folder: Path
    model: Model
    wrote: list[Wrote]
    heads: dict[str, Path]


@pytest.fixture(scope="session")
def target(tmp_path_factory: pytest.TempPathFactory) -> Target:
    torch.set_num_threads(1)
    root = tmp_path_factory.mktemp("heads")
    folder = tiny_models.make_llama(root / "target", num_hidden_layers=3)
    model = naive.load(folder, "float32")
    wrote: list[Wrote] = []
    for i in range(8):
        prompt = [5 + (31 * i + 7 * j) % 500 for j in range(3 + 2 * i)]
        params = SamplingParams(max_tokens=40, temperature=0.0 if i < 4 else 0.9, seed=i, top_p=1.0 if i < 6 else 0.95)
        wrote.append(Wrote(prompt, params, naive.generate(model, prompt, params, dtype=torch.float32)))
    texts = [w.prompt + w.output for w in wrote]
    heads = {
        "medusa": tiny_heads.make_medusa(root / "medusa", model, texts),
        "eagle": tiny_heads.make_eagle(root / "eagle", model, texts),
        "eagle-3": tiny_heads.make_eagle(root / "eagle-3", model, texts, third=True, draft_ids=300),
    }
    return Target(folder, model, wrote, heads)


@pytest.fixture(params=KINDS)
def kind(request: pytest.FixtureRequest) -> str:
    """A name in ``target.heads``; its method is what stands before the dash."""
    return str(request.param)
