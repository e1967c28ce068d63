"""The gateway's view of the models of this machine."""

from pathlib import Path

import msgspec
import pytest
from fake_ollama import Store

from paceline.actors.model_store import ModelStore, Wish
from paceline.engine.errors import InvalidRequestError, PacelineError, StoreError
from paceline.engine.store import card, created, paths, resolve


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


def test_models_are_made_of_others(tiny: Path) -> None:
    store = ModelStore()
    talk = [{"role": "user", "content": "hi"}]
    wish = Wish(base="tiny:1b", system="You are a fox.", parameters={"stop": ["a", "b"], "num_gpu": 1, "seed": 3},
                messages=talk, license="MIT")  # fmt: skip
    with pytest.raises(PacelineError):
        resolve.locate("fox")
    # Only what has an entry or a path can be resolved, and this test's base has neither: a path that the owner gave.
    assert store.create("fox", msgspec.structs.replace(wish, base=str(tiny), is_served=True)) == ["num_gpu"]
    found = card.read(resolve.locate("fox"))
    assert (found.system, found.defaults, found.messages) == ("You are a fox.", {"stop": ["a", "b"], "seed": 3}, talk)
    store.create("fox", Wish(base="fox", system="You are a cat.", parameters={"stop": ["c"]}))
    found = card.read(resolve.locate("fox"))
    assert (found.system, found.defaults, found.messages) == ("You are a cat.", {"stop": ["c"], "seed": 3}, talk)
    store.copy("fox", "second")
    store.remove("fox")
    assert card.read(resolve.locate("second:latest")).system == "You are a cat."
    [listed] = [m for m in store.models() if m.name == "second:latest"]
    assert (listed.size_bytes, listed.parent) == (tiny.stat().st_size, "tiny.gguf")
    assert str(tiny.parent) not in listed.modelfile and "SYSTEM You are a cat." in listed.modelfile
    store.remove("second")
    assert [m.name for m in store.models()] == ["tiny:1b"] and tiny.exists()


@pytest.mark.parametrize(
    ("name", "wish", "param"),
    [
        ("x", Wish(base="no-such"), "from"),
        ("x", Wish(base="/etc/passwd"), "model"),
        ("x", Wish(base="tiny:1b", draft="no-such"), "draft"),
        ("x", Wish(base="tiny:1b", parameters={"wings": 2}), "parameters.wings"),
        ("x", Wish(base="tiny:1b", parameters={"temperature": {}}), "parameters.temperature"),
        ("x", Wish(base="tiny:1b", messages=[{"role": "robot", "content": "x"}]), "messages.0"),
        ("x", Wish(base="tiny:1b", messages=[{"role": "user", "content": ["x"]}]), "messages.0"),
        ("x", Wish(base="tiny:1b", system='""" x'), "model"),
        ("../x", Wish(base="tiny:1b"), "model"),
        ("smollm2", Wish(base="tiny:1b"), "model"),
    ],
)
def test_wishes_that_cannot_be_kept(name: str, wish: Wish, param: str, tiny: Path) -> None:
    with pytest.raises(InvalidRequestError) as caught:
        ModelStore().create(name, wish)
    assert caught.value.param == param
    assert not list(created.names())


def test_copies_that_cannot_be(tiny: Path) -> None:
    store = ModelStore()
    for source, destination, param in (("none", "x", "source"), ("/etc/passwd", "x", "model"),
                                       ("tiny:1b", "a/b", "destination")):  # fmt: skip
        with pytest.raises(InvalidRequestError) as caught:
            store.copy(source, destination)
        assert caught.value.param == param


def test_ollamas_models_are_listed_and_left_alone(home: Path, gguf_bytes: bytes) -> None:
    fake = Store(home / "ollama")
    fake.add("vixen", model=gguf_bytes, params={"temperature": 0.3}, system="Be brief.", template="{{ .System }}")
    before = fake.bytes()
    store = ModelStore()
    [model] = store.models()
    assert model.name == "ollama:vixen" and model.card is not None and model.card.system == "Be brief."
    assert model.parameters == [("temperature", 0.3)] and model.digest
    store.copy("ollama:vixen", "mine")
    assert card.read(resolve.locate("mine")).defaults == {"temperature": 0.3}
    with pytest.raises(StoreError, match="run: ollama rm vixen"):
        store.remove("ollama:vixen")
    assert fake.bytes() == before
