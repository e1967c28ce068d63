"""The house rules that a machine can check: who may import whom, what stays free of torch, what is packaged.

Those about hostile input, such as that nothing is pickled, are in ``test_safety.py``.
"""

import ast
import subprocess
import sys
import tomllib
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent
FOLDERS = ("engine", "actors", "kernels", "spec_decode")
SOURCES = [*sorted(p for folder in FOLDERS for p in (ROOT / folder).rglob("*.py")), ROOT / "__init__.py"]

# module prefix -> prefixes of ours it may import; the longest matching left side counts.
ALLOWED: dict[str, tuple[str, ...]] = {
    "engine.types": (),
    "engine.errors": ("engine.types",),
    "engine.plugins": (),
    "engine.core": ("engine.core", "engine.types", "engine.errors"),
    "engine.config": ("engine.types", "engine.errors", "engine.plugins", "engine.store", "engine.sizing"),
    "engine.store": (
        "engine.types", "engine.errors", "engine.plugins", "engine.config", "engine.store", "engine.sizing",
        "engine.formats",
    ),
    "engine.sizing": ("engine.types", "engine.errors", "engine.plugins", "engine.config", "engine.store"),
    "kernels": ("kernels",),
    "engine.nn": (
        "engine.types", "engine.errors", "engine.plugins", "engine.nn", "engine.quant", "engine.models",
        "engine.formats", "engine.store.located", "kernels",
    ),
    "engine.quant": ("engine.types", "engine.errors", "engine.plugins", "engine.nn", "engine.quant", "kernels"),
    "engine.models": ("engine.types", "engine.errors", "engine.plugins", "engine.nn", "engine.models", "kernels"),
    "engine.formats": ("engine.formats", "engine.errors", "engine.types", "engine.nn.weights", "engine.store.located"),
    "engine.execution": (
        "engine.nn", "engine.types", "engine.errors", "engine.plugins", "engine.core.plan", "engine.execution",
        "kernels",
    ),
    "spec_decode": (
        "engine.types", "engine.errors", "engine.core.plan", "engine.nn", "engine.execution", "engine.plugins",
        "kernels", "spec_decode",
    ),
    "actors.messages": ("engine.types", "engine.errors", "engine.core.plan"),
    "actors.text": ("engine.types", "engine.errors", "actors.text", "actors.messages", "engine.store.located",
                    "engine.formats"),
    "actors.http": (
        "actors.http", "actors.client", "actors.model_store", "actors.messages", "actors.stats", "actors.actor",
        "actors.logs", "actors.mailbox", "actors.output_format", "actors.text.response", "engine.types",
        "engine.errors",
        "engine.config", "engine.store.located", "engine.store.progress",
    ),
    "actors": ("actors", "engine", "kernels", "spec_decode"),
}  # fmt: skip

CORE_STDLIB_BANNED = {"time", "random", "uuid", "socket", "threading", "asyncio", "secrets", "datetime", "os"}

NO_TORCH = [
    "paceline", "paceline.engine.types", "paceline.engine.errors", "paceline.engine.config", "paceline.engine.sizing",
    "paceline.engine.plugins", "paceline.engine.core.scheduler", "paceline.engine.store.resolve",
    "paceline.engine.store.card", "paceline.spec_decode.base", "paceline.spec_decode.adapt",
    "paceline.spec_decode.proposer", "paceline.spec_decode.grammar_drafts", "paceline.spec_decode.speculators.ngram",
    "paceline.spec_decode.speculators.suffix", "paceline.spec_decode.speculators.medusa",
    "paceline.spec_decode.speculators.eagle", "paceline.actors.speculation", "paceline.actors.messages",
    "paceline.actors.supervisor", "paceline.actors.tokenizer", "paceline.actors.scheduler", "paceline.actors.client",
    "paceline.actors.stats", "paceline.actors.cli", "paceline.actors.commands.serve", "paceline.actors.commands.run",
    "paceline.actors.commands.batch", "paceline.actors.batch.in_process", "paceline.actors.batch.over_http",
    "paceline.actors.commands.pull", "paceline.actors.http.gateway", "paceline.actors.http.app",
]  # fmt: skip


def module_name(path: Path) -> str:
    parts = list(path.relative_to(ROOT).with_suffix("").parts)
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


def imports(path: Path) -> Iterator[tuple[int, str, bool]]:
    """(line, dotted target, is ours). A relative import is resolved; names imported from a package count as modules."""
    name = module_name(path)
    package = name.split(".") if path.name == "__init__.py" else name.split(".")[:-1]
    for node in ast.walk(ast.parse(path.read_text(), str(path))):
        if isinstance(node, ast.Import):
            for alias in node.names:
                yield node.lineno, alias.name, False
        elif isinstance(node, ast.ImportFrom):
            if not node.level:
                yield node.lineno, node.module or "", False
                continue
            base = package[: len(package) - node.level + 1]
            target = [*base, *(node.module or "").split(".")] if node.module else base
            for alias in node.names:
                full = [*target, alias.name]
                is_module = ROOT.joinpath(*full).is_dir() or ROOT.joinpath(*full).with_suffix(".py").exists()
                yield node.lineno, ".".join(p for p in (full if is_module else target) if p), True


def covers(prefix: str, name: str) -> bool:
    return name == prefix or name.startswith(prefix + ".")


def test_imports_go_one_way() -> None:
    faults: list[str] = []
    for path in SOURCES:
        name = module_name(path)
        if not name:
            continue
        rule = max((k for k in ALLOWED if covers(k, name)), key=len, default=None)
        for line, target, ours in imports(path):
            where = f"{path.relative_to(ROOT)}:{line}"
            if not ours:
                first = target.split(".")[0]
                if first == "paceline" or (first in FOLDERS and first != "kernels"):
                    faults.append(f"{where} imports {target}: use a relative import")
                if covers("engine.core", name) and first in CORE_STDLIB_BANNED:
                    faults.append(f"{where} imports {target}: the core is pure")
                if first == "transformers" and path.name != "hf_any.py":
                    faults.append(f"{where} imports transformers: only hf_any.py may")
                continue
            if rule is None or not target or target == "paceline":
                continue
            if not any(covers(a, target) for a in ALLOWED[rule]):
                faults.append(f"{where} ({name}) may not import {target}")
    assert not faults, "\n".join(faults)


@pytest.mark.parametrize("module", NO_TORCH)
def test_no_torch_behind(module: str) -> None:
    code = (
        f"import sys, {module}; bad = {{'torch', 'transformers'}} & set(sys.modules); sys.exit(repr(bad) if bad else 0)"
    )
    done = subprocess.run([sys.executable, "-P", "-c", code], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr


def test_package_list_is_the_tree() -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())
    listed = set(project["tool"]["setuptools"]["packages"])
    found = {"paceline"}
    for folder in FOLDERS:
        for path in (ROOT / folder).rglob("__init__.py"):
            found.add("paceline." + ".".join(path.parent.relative_to(ROOT).parts))
    assert listed == found
    for path in SOURCES:
        assert (path.parent / "__init__.py").exists(), f"{path.parent} has no __init__.py"


def test_package_inits_are_empty_and_root_holds_no_other_python() -> None:
    for folder in FOLDERS:
        for path in (ROOT / folder).rglob("__init__.py"):
            assert not path.read_text().strip(), f"{path} must be empty"
    assert [p.name for p in ROOT.glob("*.py")] == ["__init__.py"]
    assert not list((ROOT / "tests").rglob("__init__.py"))


@pytest.mark.parametrize("path", sorted((ROOT / "configs").glob("*.toml")), ids=lambda p: p.name)
def test_every_config_loads_and_every_key_has_a_comment(path: Path) -> None:
    from paceline.engine import config

    config.load(path, environ={})
    lines = path.read_text().splitlines()
    for before, line in zip(["", *lines], lines, strict=False):
        if "=" in line and not line.startswith("#"):
            assert before.startswith("# "), f"{path.name}: {line!r} has no comment line above it"


def test_no_registry_host_is_named() -> None:
    hosts = ["pypi" + ".org", "pythonhosted" + ".org", "npmjs" + ".org", "download.pytorch" + ".org"]
    tracked = subprocess.run(["git", "ls-files"], cwd=ROOT, capture_output=True, text=True).stdout.split("\n")
    for name in filter(None, tracked):
        path = ROOT / name
        if path.suffix in {".png", ".gguf"} or not path.is_file():
            continue
        text = path.read_text(errors="replace")
        for host in hosts:
            assert host not in text, f"{name} names {host}"
