"""The gateway's view of the models of this machine."""

from pathlib import Path

import pytest

from paceline.actors.model_store import ModelStore
from paceline.engine.errors import InvalidRequestError
from paceline.engine.store import paths


@pytest.fixture
def tiny(home: Path, gguf_bytes: bytes) -> Path:
    """A model of our own store."""
    path = paths.models() / "tiny" / "1b" / "tiny.gguf"
    path.parent.mkdir(parents=True)
    path.write_bytes(gguf_bytes)
    return path


def test_models_are_described_and_deleted(tiny: Path) -> None:
    broken = tiny.parent.parent / "2b" / "broken.gguf"
    broken.parent.mkdir()
    broken.write_bytes(b"GGUF nonsense")
    store = ModelStore()
    [model, *_] = store.models()
    assert (model.name, model.format, model.size_bytes) == ("tiny:1b", "gguf", tiny.stat().st_size)
    assert model.card is not None and model.num_parameters > 0
    store.remove("tiny:1b")
    assert not tiny.exists() and "tiny:1b" not in {m.name for m in store.models()}
    with pytest.raises(InvalidRequestError, match="'tiny:1b' not found") as caught:
        store.remove("tiny:1b")
    assert caught.value.not_found


@pytest.mark.parametrize("name", ["", "./x", "~/x", "../x/y", "a\0b", "x" * 300])
def test_a_path_is_a_name_that_nobody_knows(name: str, tiny: Path) -> None:
    name = name or str(tiny)
    for call in (lambda: ModelStore().pull(name, lambda _: None), lambda: ModelStore().remove(name)):
        with pytest.raises(InvalidRequestError, match="not found"):
            call()
    assert tiny.exists()


def test_a_folder_next_to_the_server_cannot_be_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "org" / "model").mkdir(parents=True)
    monkeypatch.chdir(tmp_path)
    with pytest.raises(InvalidRequestError, match="not found"):
        ModelStore().pull("org/model", lambda _: None)


def test_an_unknown_name_is_a_404_with_the_nearest_ones(home: Path) -> None:
    with pytest.raises(InvalidRequestError, match="did you mean") as caught:
        ModelStore().pull("smollm2:135", lambda _: None)
    assert caught.value.not_found and caught.value.param == "model"
