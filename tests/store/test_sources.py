"""Every source in the folder keeps the contract; names find the right one; what is wrong is named."""

from collections.abc import Callable
from pathlib import Path

import pytest
import wheels

from paceline.engine import plugins
from paceline.engine.errors import PacelineError, StoreError, UnknownModelError
from paceline.engine.store import catalog, resolve
from paceline.engine.store.catalog import Entry, Origin
from paceline.engine.store.request import Request

NAMES = plugins.names("engine.store.sources")
OFFLINE = Request(download=False)


@pytest.mark.parametrize("name", NAMES)
def test_a_source_keeps_the_contract(name: str, tmp_path: Path) -> None:
    source = plugins.load("engine.store.sources", name)
    assert isinstance(source.ORDER, int)
    for odd in ("", " ", "\0", "a\0b.gguf", "../..", "x" * 5000, "org/repo/more", "--", "é/è"):
        assert source.claims(odd) in (True, False)
    for missing in (str(tmp_path / "none"), str(tmp_path / "none.gguf"), "no-org/no-repo", "smollm2:135m"):
        if source.claims(missing):
            with pytest.raises(StoreError):
                source.locate(missing, OFFLINE)


def test_orders_differ() -> None:
    assert len({s.ORDER for s in resolve.sources()}) == len(NAMES) >= 4


def test_who_claims_what(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def claimant(name: str) -> str:
        return next((s.__name__.rpartition(".")[2] for s in resolve.sources() if s.claims(name)), "")  # type: ignore[attr-defined]

    monkeypatch.chdir(tmp_path)
    (tmp_path / "org" / "local").mkdir(parents=True)
    (tmp_path / "mine").mkdir()
    expected = {
        "smollm2": "library", "smollm2:135m": "library", "SmolLM2:135M": "library", "Qwen/Qwen2.5-0.5B": "hub",
        "org/repo:Q4_K_M": "hub", "org/repo@main": "hub", "org/local": "folder", "mine": "folder", "./none": "folder",
        "~/x": "folder", "a.gguf": "gguf_file", "./d/a.GGUF": "gguf_file", "nothing": "", "a/b/c": "", "": "",
    }  # fmt: skip
    assert {name: claimant(name) for name in expected} == expected


def test_unknown_names_get_the_nearest() -> None:
    with pytest.raises(UnknownModelError, match=r"did you mean smollm2:135m"):
        resolve.locate("smolm2")
    with pytest.raises(UnknownModelError, match=r"qwen2\.5:0\.5b"):
        resolve.locate("qwen2.5:0.6b")
    with pytest.raises(UnknownModelError, match=r"pass org/repo, a folder or a \.gguf file"):
        resolve.locate("zzzzzz")


def test_a_folder_and_its_shards(sharded: Path) -> None:
    located = resolve.locate(str(sharded))
    assert located.kind == "safetensors" and located.source == "folder" and len(located.files) == 3
    assert located.files == sorted(located.files) and located.sizes == [Path(f).stat().st_size for f in located.files]


def test_a_gguf_by_path_or_by_its_folder(tmp_path: Path, gguf_bytes: bytes) -> None:
    (tmp_path / "a.gguf").write_bytes(gguf_bytes)
    by_path = resolve.locate(str(tmp_path / "a.gguf"))
    by_folder = resolve.locate(str(tmp_path))
    assert by_path.files == by_folder.files == [str(tmp_path / "a.gguf")]
    (tmp_path / "b.gguf").write_bytes(gguf_bytes)
    with pytest.raises(StoreError, match=r"a\.gguf, b\.gguf"):
        resolve.locate(str(tmp_path))


def damage(folder: Path, how: str) -> None:
    if how == "no config":
        (folder / "config.json").unlink()
    elif how == "no shard":
        sorted(folder.glob("*.safetensors"))[1].unlink()
    elif how == "pickled only":
        for path in [*folder.glob("*.safetensors"), folder / "model.safetensors.index.json"]:
            path.unlink()
        (folder / "pytorch_model.bin").write_bytes(b"x")
    elif how == "index leaves the folder":
        (folder / "model.safetensors.index.json").write_text('{"weight_map": {"a": "../../etc/passwd"}}')
    elif how == "link loop":
        shard = sorted(folder.glob("*.safetensors"))[0]
        shard.unlink()
        shard.symlink_to(shard.name)


@pytest.mark.parametrize(
    ("how", "says"),
    [
        ("no config", "no config.json"),
        ("no shard", "is missing"),
        ("pickled only", "pickled weights"),
        ("index leaves the folder", "no file name"),
        ("link loop", "cannot be read"),
    ],
)
def test_a_damaged_folder_is_named(tmp_path: Path, sharded: Path, how: str, says: str) -> None:
    for file in sharded.iterdir():
        (tmp_path / file.name).write_bytes(file.read_bytes())
    damage(tmp_path, how)
    with pytest.raises(PacelineError, match=says):
        resolve.locate(str(tmp_path))


def test_paths_that_are_no_models(tmp_path: Path, llama: Path) -> None:
    (tmp_path / "notes.txt").write_text("hello")
    (tmp_path / "x-00001-of-00002.gguf").write_bytes(b"GGUF")
    for name, says in (
        (tmp_path / "none", "no such file or folder"),
        (tmp_path / "none.gguf", "cannot be read"),
        (tmp_path / "notes.txt", "neither a folder nor a .gguf file"),
        (tmp_path / "x-00001-of-00002.gguf", "split GGUF"),
        (llama / "model.safetensors", "pass its folder"),
    ):
        with pytest.raises(StoreError, match=says):
            resolve.locate(str(name))


def test_not_here_and_not_allowed_to_fetch(library: Callable[[Entry], None], gguf_bytes: bytes) -> None:
    library(wheels.entry(gguf_bytes, Origin(hub="org/repo")))
    with pytest.raises(StoreError, match="run: paceline pull tiny:1"):
        resolve.locate("tiny", download=False)


def test_the_library_is_sound() -> None:
    names = [n for e in catalog.entries() for n in (e.name, *e.aliases)]
    assert len(names) == len(set(names)) and all(n == n.lower() for n in names)
    assert catalog.entries()[0].name == "smollm2:135m"
    for entry in catalog.entries():
        assert ":" in entry.name and entry.license and entry.about and entry.origins
        if entry.file:
            assert len(entry.sha256) == 64 and entry.size > 0 and "/" not in entry.file
            assert all((o.wheel and "==" in o.wheel and o.wheel_size) or o.revision for o in entry.origins)
        else:
            assert [bool(o.hub and not o.wheel) for o in entry.origins] == [True]
