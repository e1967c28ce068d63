"""What a fuzz target is, and where they lie: each file of ``tests/fuzz`` that is no test has a ``TARGET``."""

import importlib.util
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from random import Random
from types import ModuleType
from typing import TypeAlias

from paceline.engine.errors import PacelineError

from .byte_mutator import mutate_bytes

FOLDER = Path(__file__).resolve().parents[2] / "fuzz"

Mutator: TypeAlias = Callable[[bytes, Random], bytes]


@dataclass(frozen=True, kw_only=True)
class Target:
    """An entry point that takes what strangers send or files they wrote."""

    run: Callable[[bytes], None]
    """Feeds one input. Whatever it raises beside ``expected`` is a finding, so it also asserts what must hold."""
    seeds: Sequence[bytes]
    """Good inputs, from which others are made."""
    mutate: Mutator = mutate_bytes
    """Knows the input's structure; ``mixed`` adds plain bytes to it."""
    expected: tuple[type[BaseException], ...] = (PacelineError,)
    most_bytes: int = 1 << 16
    """Longer inputs are cut."""
    is_killable: bool = False
    """In service it runs in a process that is killed when it takes too long or too much: neither is a finding."""


def names() -> list[str]:
    """All targets."""
    return sorted(p.stem for p in FOLDER.glob("*.py") if not p.stem.startswith("test_"))


def load(name: str) -> Target:
    """The target of that name.

    Raises:
        LookupError: there is none.
    """
    if name not in names():
        raise LookupError(f"no target {name!r}; there are {', '.join(names())}")
    return _module(name).TARGET


def _module(name: str) -> ModuleType:
    spec = importlib.util.spec_from_file_location(f"fuzz_{name}", FOLDER / f"{name}.py")
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module
