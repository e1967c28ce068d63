"""Models made of a Modelfile: kept, found by name, stacked on one another, listed, deleted."""

from collections.abc import Callable
from pathlib import Path

import msgspec
import pytest
import tiny_models
import wheels
from fake_ollama import Store

from paceline.engine.errors import ConfigError, PacelineError, StoreError
from paceline.engine.store import card, created, inventory, paths, resolve
from paceline.engine.store.catalog import Entry
from paceline.engine.store.sources import library as library_source


@pytest.fixture
def tiny(home: Path, gguf_bytes: bytes) -> str:
    """A model of our own store."""
    path = paths.models() / "tiny" / "1b" / "tiny.gguf"
    path.parent.mkdir(parents=True)
    path.write_bytes(gguf_bytes)
    return str(path)


def test_a_modelfile_by_its_path(tmp_path: Path, gguf_bytes: bytes, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "w").mkdir()
    (tmp_path / "w" / "a.gguf").write_bytes(gguf_bytes)
    (tmp_path / "w" / "Modelfile").write_text(
        "FROM a.gguf\nSYSTEM Be brief.\nPARAMETER temperature 0.1\nDRAFT ./a.gguf"
    )
    located = resolve.locate(str(tmp_path / "w" / "Modelfile"))
    assert located.source == "modelfile" and located.files == [str(tmp_path / "w" / "a.gguf")]
    found = card.read(located)
    assert (found.system, found.defaults) == ("Be brief.", {"temperature": 0.1})
    assert located.preset is not None and located.preset.draft_model == str(tmp_path / "w" / "a.gguf")
    monkeypatch.chdir(tmp_path / "w")
    assert resolve.locate("./Modelfile").files == resolve.locate("Modelfile").files == located.files


def test_created_models_stack(tiny: str) -> None:
    created.write("fox", f"FROM {tiny}\nSYSTEM You are a fox.\nPARAMETER stop a\nPARAMETER temperature 0.1\nLICENSE X")
    created.write("fox:loud", "FROM fox\nPARAMETER stop B\nMESSAGE user Shout!\nPARAMETER num_ctx 99\nLICENSE Y")
    located = resolve.locate("fox:loud")
    assert located.name == "fox:loud" and located.files == [tiny]
    found = card.read(located)
    assert (found.system, found.defaults) == ("You are a fox.", {"stop": ["B"], "temperature": 0.1})
    assert found.messages == [{"role": "user", "content": "Shout!"}] and found.license == "X\nY"
    assert located.preset is not None and (located.preset.base, located.preset.max_model_len) == (tiny, 99)
    assert resolve.locate("fox").name == "fox" and resolve.locate("fox:latest").files == [tiny]


def test_a_library_models_defaults_and_license_stay(
    library: Callable[[Entry], None], tmp_path: Path, gguf_bytes: bytes
) -> None:
    entry = msgspec.structs.replace(wheels.entry(gguf_bytes), defaults={"temperature": 0.2, "top_p": 0.9})
    library(entry)
    path = tmp_path / "Modelfile"
    path.write_text("FROM tiny\nPARAMETER top_p 0.5")
    with pytest.raises(StoreError, match="run: paceline pull tiny:1"):
        resolve.locate(str(path), download=False)
    target = library_source.target_of(entry)
    target.parent.mkdir(parents=True)
    target.write_bytes(gguf_bytes)
    created.write("fox", path.read_text())
    created.write("cub", "FROM fox")
    found = card.read(resolve.locate("cub"))
    assert found.defaults == {"temperature": 0.2, "top_p": 0.5} and found.license == "mit"
    with pytest.raises(StoreError, match="fox:latest is made of it"):
        inventory.remove(inventory.find("tiny"))


def test_templates(tmp_path: Path, tiny: str, home: Path, gguf_bytes: bytes) -> None:
    go = "{{ .System }} {{ .Prompt }}"
    Store(home / "ollama").add("vixen", model=gguf_bytes, template=go)
    path = tmp_path / "Modelfile"
    for text, num_notes, template in (
        (f"FROM {tiny}\nTEMPLATE {go}", 1, tiny_models.CHAT_TEMPLATE),
        (f"FROM ollama:vixen\nTEMPLATE {go}", 0, tiny_models.CHAT_TEMPLATE),
        (f"FROM {tiny}\nTEMPLATE {{% if x %}}{{% endif %}}", 0, "{% if x %}{% endif %}"),
    ):
        path.write_text(text)
        located = resolve.locate(str(path))
        assert located.preset is not None and len(located.preset.notes) == num_notes, text
        assert card.read(located).chat_template == template


def test_a_circle_and_a_missing_base_are_told(tiny: str) -> None:
    created.write("a", "FROM b")
    with pytest.raises(ConfigError, match="b:latest would be made of itself"):
        created.write("b", "FROM a")
    (paths.models() / "b" / "latest").mkdir(parents=True)
    (paths.models() / "b" / "latest" / "Modelfile").write_text("FROM a")  # by hand
    with pytest.raises(StoreError, match="more than 16 models are made of one another"):
        resolve.locate("a")
    created.write("c", "FROM nothing-like-it")
    with pytest.raises(PacelineError, match="no model named 'nothing-like-it'"):
        resolve.locate("c")
    assert {"a:latest", "b:latest", "c:latest"} <= {s.name for s in inventory.models()}, (
        "else they could not be deleted"
    )


@pytest.mark.parametrize(
    "name",
    ["", ".", "..", "../x", "a/b", "a:b:c", "a b", "ollama:x", "Ollama", "x.gguf", "a\0", "-x", "x" * 90, "a:../b"],
)
def test_names_that_cannot_be(name: str, home: Path) -> None:
    assert created.find(name) is None
    with pytest.raises(ConfigError, match="cannot name a model"):
        created.write(name, "FROM x")
    assert not paths.models().exists()


def test_the_librarys_names_are_taken(home: Path) -> None:
    for name in ("smollm2", "SmolLM2:135M", "smollm2:latest"):
        with pytest.raises(ConfigError, match="a model of the library"):
            created.write(name, "FROM x")


def test_listed_and_deleted(tiny: str) -> None:
    created.write("fox", "FROM tiny:1b")
    with pytest.raises(PacelineError):
        resolve.locate("fox")  # no source knows what lies in our store without an entry
    created.write("fox", f"FROM {tiny}")
    stored = inventory.find("fox")
    assert (stored.name, stored.source, stored.size_bytes) == ("fox:latest", "created", Path(tiny).stat().st_size)
    created.write("cub", "FROM fox")
    with pytest.raises(StoreError, match="cub:latest is made of it"):
        inventory.remove(stored)
    inventory.remove(inventory.find("cub:latest"))
    assert inventory.remove(stored) > 0 and Path(tiny).exists()
    assert [s.name for s in inventory.models()] == ["tiny:1b"] and not (paths.models() / "fox").exists()


def test_what_a_modelfile_is_made_of_stays(tiny: str) -> None:
    created.write("fox", "FROM tiny:1b")
    with pytest.raises(StoreError, match="fox:latest is made of it"):
        inventory.remove(inventory.find("tiny:1b"))


def test_a_file_that_is_none(tmp_path: Path) -> None:
    path = tmp_path / "Modelfile"
    path.write_bytes(b"FROM \xff")
    with pytest.raises(ConfigError, match="is not UTF-8 at byte 5"):
        resolve.locate(str(path))
    path.write_text("FORM x")
    with pytest.raises(ConfigError, match=r"Modelfile:1: unknown keyword 'FORM'; did you mean FROM\?"):
        resolve.locate(str(path))
