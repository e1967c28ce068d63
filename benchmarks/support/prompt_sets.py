"""Named sets of prompts: files of a folder, or the categories of our own few."""

import json
import random
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

from load import OWN_PROMPTS

_FILES = {"chat": "vicuna"}
"""Sets that are called by what they are, not by how their file begins."""
_SEED = 20


class Prompt(NamedTuple):
    """One call's text; ``max_tokens`` is a bound that a good answer stays under."""

    name: str
    text: str
    max_tokens: int


def read_sets(folder: Path | None, names: Sequence[str]) -> dict[str, list[Prompt]]:
    """Each named set, in a fixed shuffled order, so that a beginning of it is a fair sample.

    A name means the ``.jsonl`` files of ``folder`` that begin with it; without a folder, a category of our own prompts.
    No names = all our own categories.

    Raises:
        SystemExit: no such set; says which there are.
    """
    if folder is None:
        everything = [json.loads(line) for line in OWN_PROMPTS.read_text().splitlines()]
        known = sorted({line["category"] for line in everything})
        found = {name: [line for line in everything if line["category"] == name] for name in names or known}
    else:
        if not folder.is_dir():
            raise SystemExit(f"--data {folder}: is no folder; give one with .jsonl files of prompts")
        known = sorted(path.stem for path in folder.glob("*.jsonl"))
        found = {name: _lines(folder, name) for name in names or known}
    for name, lines in found.items():
        if not lines:
            raise SystemExit(f"--sets {name}: no such prompts in {folder or OWN_PROMPTS}; it has {', '.join(known)}")
    return {name: _shuffled(lines) for name, lines in found.items()}


def _lines(folder: Path, name: str) -> list[dict[str, object]]:
    files = sorted(folder.glob(f"{_FILES.get(name, name)}*.jsonl"))
    return [json.loads(line) for path in files for line in path.read_text().splitlines() if line.strip()]


def _shuffled(lines: list[dict[str, object]]) -> list[Prompt]:
    prompts = [Prompt(str(x["id"]), str(x["prompt"]), int(str(x.get("max_tokens", 512)))) for x in lines]
    random.Random(_SEED).shuffle(prompts)
    return prompts
