"""A head beside the target in real processes: same text, drafts accepted; another target's head is refused at start."""

import asyncio
import contextlib
from pathlib import Path
from typing import Any, NamedTuple

import anyio
import naive
import pytest
import tiny_heads
import tiny_models

from paceline.actors.client import EngineClient
from paceline.actors.messages import Generate, Sampling, TextDelta
from paceline.engine.config import Cache, Config, Speculation, Target
from paceline.engine.errors import PacelineError
from paceline.engine.store import card, resolve
from paceline.engine.types import SamplingParams, SpeculationStats

pytestmark = pytest.mark.e2e
WORK = [(prompt, t) for prompt in ([40, 7, 99, 300, 12], [5] * 40, [260, 261, 262]) for t in (0.0, 1.0)]
NUM = 24


class Made(NamedTuple):
    target: Path
    texts: list[list[int]]
    """The outputs to ``WORK``."""
    heads: dict[str, Path]


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Made:
    root = tmp_path_factory.mktemp("heads")
    target = tiny_models.make_llama(root / "target", seed=1)
    model = naive.load(target, "float32")
    params = [SamplingParams(max_tokens=NUM, temperature=t, seed=9, ignore_eos=True) for _, t in WORK]
    texts = [naive.generate(model, prompt, p) for (prompt, _), p in zip(WORK, params, strict=True)]
    whole = [prompt + text for (prompt, _), text in zip(WORK, texts, strict=True)]
    heads = {
        "medusa": tiny_heads.make_medusa(root / "medusa", model, whole),
        "eagle": tiny_heads.make_eagle(root / "eagle", model, whole),
    }
    return Made(target, texts, heads)


def launch(made: Made, method: str, head: Path, **options: Any) -> contextlib.AbstractAsyncContextManager[EngineClient]:
    config = Config(
        model=str(made.target),
        target=Target(dtype="float32", num_threads=1),
        cache=Cache(num_blocks=128),
        speculation=Speculation(
            methods=[method],
            max_draft_tokens=4,
            settings={method: {"model": str(head), "dtype": "float32", "width": 2}},
            **options,
        ),
    )
    located = resolve.locate(str(made.target), download=False)
    return EngineClient.launch(config, located, card.read(located))


async def ask(
    client: EngineClient, name: str, prompt: list[int], temperature: float
) -> tuple[list[int], SpeculationStats | None]:
    sampling = Sampling(max_tokens=NUM, temperature=temperature, top_p=1.0, top_k=0, seed=9, ignore_eos=True)
    ids: list[int] = []
    report = None
    async with contextlib.aclosing(
        client.generate(Generate(name, sampling, prompts=[prompt], return_token_ids=True))
    ) as items:
        async for item in items:
            if isinstance(item, TextDelta):
                ids += item.token_ids
                report = item.speculation or report
    return ids, report


@pytest.mark.parametrize("method", ["medusa", "eagle"])
def test_text_is_the_same_and_drafts_are_accepted(made: Made, method: str) -> None:
    async def main() -> None:
        async with launch(made, method, made.heads[method], policy="fixed") as client:
            answers = await asyncio.gather(*(ask(client, f"c{i}", *work) for i, work in enumerate(WORK)))
            assert [ids for ids, _ in answers] == made.texts
            reports = [report for _, report in answers if report is not None]
            assert sum(report.accepted.get(method, 0) for report in reports) > 10

    anyio.run(main)


def test_the_head_of_another_target_is_refused_by_name(made: Made, tmp_path: Path) -> None:
    other = tiny_models.make_llama(tmp_path / "other", hidden_size=32)
    head = tiny_heads.make_medusa(tmp_path / "head", naive.load(other, "float32"), [list(range(40))])

    async def main() -> None:
        async with launch(made, "medusa", head):
            pass

    with pytest.raises(PacelineError, match=r"model.safetensors: tensor '0.0.linear.weight' has shape \[32, 32\], but"):
        anyio.run(main)
