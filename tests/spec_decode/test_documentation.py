"""``docs/speculation.md`` tells the truth: its configs load, its names exist, its speculator works as it stands."""

import importlib
import json
import re
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
from naive import judge
from repeating_model import Loop
from simulation import simulate
from spec_engine import Engine, config

from paceline.actors.http.openai_speculation import control, metrics
from paceline.actors.stats import METRICS
from paceline.engine import config as configs
from paceline.engine import plugins
from paceline.engine.config import Speculation
from paceline.engine.types import SamplingParams, SpeculationStats

ROOT = Path(__file__).resolve().parents[2]
TEXT = (ROOT / "docs" / "speculation.md").read_text()


def blocks(language: str) -> list[str]:
    """What stands between the fences of a language."""
    return re.findall(rf"^```{language}\n(.*?)^```", TEXT, re.MULTILINE | re.DOTALL)


@pytest.fixture
def mine(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[str]:
    """The dotted name of the document's speculator, saved as it says."""
    (source,) = blocks("python")
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "__init__.py").touch()
    (tmp_path / "mine" / "follow.py").write_text(source)
    monkeypatch.syspath_prepend(str(tmp_path))
    importlib.invalidate_caches()
    yield "mine.follow"
    for name in ("mine", "mine.follow"):
        sys.modules.pop(name, None)


def test_one_speculator_takes_forty_lines() -> None:
    (source,) = blocks("python")
    lines = [line for line in source.splitlines() if line.strip() and not line.startswith(("import", "from"))]
    assert len(lines) <= 40


def test_it_drafts_and_the_text_stays(mine: str) -> None:
    model = Loop(seed=5)
    work = {f"r{i}": ([7, 3, i], SamplingParams(max_tokens=40, temperature=i % 2, seed=i)) for i in range(6)}
    section = Speculation(methods=[mine], policy="fixed", settings={mine: {"depth": 3}})

    async def main() -> Engine:
        async with Engine(config(section), model=model) as engine:
            for name, (prompt, params) in work.items():
                engine.add(name, prompt, params)
            await engine.finish()
            stats = engine.scheduler.stats()
            assert stats is not None and not stats.values[f"spec_faults/{mine}"]
            return engine

    engine = simulate(main)
    for name, asked in work.items():
        assert engine.tokens(name) == judge(model, *asked, dtype=torch.float32).token_ids
    reports = [outputs[-1].speculation for outputs in engine.outputs.values()]
    found = [report for report in reports if report is not None]
    assert sum(report.num_accepted for report in found) > 20
    assert max(len(report.acceptance_histogram) for report in found) >= 4


def test_its_unknown_keys_are_refused(mine: str) -> None:
    with pytest.raises(configs.ConfigError, match='did you mean "depth"'):
        configs.check(configs.Config(speculation=Speculation(methods=[mine], settings={mine: {"depht": 3}})))


def test_configs_load(tmp_path: Path) -> None:
    found = blocks("toml")
    assert len(found) >= 2
    for number, text in enumerate(found):
        path = tmp_path / f"{number}.toml"
        path.write_text(text)
        assert configs.load(path, environ={}).speculation.methods


def test_bodies_are_taken() -> None:
    (text,) = blocks("json")
    wish = control(json.loads(text)["speculation"], ["suffix"], 8)
    assert wish is not None and (wish.methods, wish.max_draft_tokens, wish.detail) == (["suffix"], 4, True)


def test_every_metric_exists() -> None:
    exposed = {f"{kind.name}_total" if kind.kind == "counter" else kind.name for kind in METRICS.values()}
    named = set(re.findall(r"`((?:vllm:|paceline_)\w+)`", TEXT))
    assert len(named) > 10 and named <= exposed


def test_every_field_of_an_answer_exists() -> None:
    stats = SpeculationStats(2, [1, 0, 1], 3, {"a": 3}, {"a": 2}, per_step_accepted=[0, 2], per_step_drafted=[1, 2])
    table = TEXT[TEXT.index("The final usage") : TEXT.index("beside it has the same by method")]
    named = set(re.findall(r"^\| (`.*?`) \|", table, re.MULTILINE))
    fields = {field for row in named for field in re.findall(r"`(\w+)`", row)}
    assert fields == set(metrics(stats)["speculative_decoding"])


@pytest.mark.parametrize("folder", ["spec_decode.speculators", "spec_decode.rules"])
def test_every_plug_in_is_described(folder: str) -> None:
    for name in plugins.names(folder):
        assert f"| `{name}` |" in TEXT


def test_its_promises_are_the_rules_own() -> None:
    for name in plugins.names("spec_decode.rules"):
        promise = next(line for line in TEXT.splitlines() if line.startswith(f"| `{name}` |"))
        assert ("**none**" in promise) is not plugins.load("spec_decode.rules", name).LOSSLESS
