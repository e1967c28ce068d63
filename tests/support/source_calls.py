"""Calls, imports and assertions of the package's own sources, for rules that a machine can check."""

import ast
from collections.abc import Iterator
from functools import cache
from pathlib import Path
from typing import NamedTuple

ROOT = Path(__file__).resolve().parents[2]
FOLDERS = ("engine", "actors", "kernels", "spec_decode")
SOURCES = [*sorted(p for folder in FOLDERS for p in (ROOT / folder).rglob("*.py")), ROOT / "__init__.py"]


class Call(NamedTuple):
    """One call as it is written."""

    path: str
    """Below the root."""
    line: int
    name: str
    """With dots, such as ``time.time``; a call on something computed begins with a dot."""
    node: ast.Call

    @property
    def where(self) -> str:
        """For messages."""
        return f"{self.path}:{self.line}"


@cache
def tree_of(path: Path) -> ast.Module:
    """Parsed once a run."""
    return ast.parse(path.read_text(), str(path))


def calls() -> Iterator[Call]:
    """All calls of the package."""
    for path in SOURCES:
        for node in ast.walk(tree_of(path)):
            if isinstance(node, ast.Call):
                yield Call(str(path.relative_to(ROOT)), node.lineno, _name(node.func), node)


def asserts() -> Iterator[tuple[str, int, ast.expr]]:
    """(path, line, condition) of all assertions of the package."""
    for path in SOURCES:
        for node in ast.walk(tree_of(path)):
            if isinstance(node, ast.Assert):
                yield str(path.relative_to(ROOT)), node.lineno, node.test


def imported() -> Iterator[tuple[str, int, str]]:
    """(path, line, module) of what is imported from outside the package."""
    for path in SOURCES:
        for node in ast.walk(tree_of(path)):
            if isinstance(node, ast.Import):
                names = [a.name for a in node.names]
            elif isinstance(node, ast.ImportFrom) and not node.level and node.module:
                names = [node.module, *(f"{node.module}.{a.name}" for a in node.names)]
            else:
                continue
            for name in names:
                yield str(path.relative_to(ROOT)), node.lineno, name


def _name(func: ast.expr) -> str:
    if isinstance(func, ast.Name):
        return func.id
    if isinstance(func, ast.Attribute):
        return f"{_name(func.value)}.{func.attr}"
    return ""
