"""Ollama's store: found under its names, described by its small layers, read in place, and never trusted."""

import hashlib
import json
import os
from pathlib import Path
from typing import Any

import pytest
import tiny_models
from fake_ollama import TYPE, Store

from paceline.engine.errors import BadModelFileError, DownloadError, PacelineError, StoreError, UnknownModelError
from paceline.engine.store import card, inventory, ollama_store, resolve
from paceline.engine.store.preset import Preset

GO = "{{ if .System }}<|im_start|>system\n{{ .System }}<|im_end|>\n{{ end }}{{ .Prompt }}"


@pytest.fixture
def store(home: Path) -> Store:
    """An empty store where OLLAMA_MODELS points."""
    return Store(home / "ollama")


def preset_of(name: str) -> Preset:
    found = resolve.locate(name).preset
    assert found is not None
    return found


def test_found_in_place_by_its_names(store: Store, gguf_bytes: bytes) -> None:
    store.add("vixen:1b", model=gguf_bytes)
    store.add("vixen", model=gguf_bytes)
    store.add("ada/fox:v1", model=gguf_bytes)
    store.add("hf.co/org/some-GGUF:Q4_K_M", model=gguf_bytes)
    before = store.bytes()
    for name in ("ollama:vixen:1b", "vixen:1b", "ollama:vixen", "vixen", "VIXEN", "ollama:ada/fox:v1",
                 "ollama:hf.co/org/some-GGUF:Q4_K_M", "ollama:registry.ollama.ai/library/vixen:latest"):  # fmt: skip
        located = resolve.locate(name)
        assert (located.name, located.kind, located.source) == (name, "gguf", "ollama")
        assert located.files == [str(store.path(hashlib.sha256(gguf_bytes).hexdigest()))]
        assert card.read(located).chat_template == tiny_models.CHAT_TEMPLATE
    assert [s.name for s in inventory.models()] == [
        "ollama:ada/fox:v1", "ollama:hf.co/org/some-GGUF:Q4_K_M", "ollama:vixen", "ollama:vixen:1b",
    ]  # fmt: skip
    assert {s.source for s in inventory.models()} == {"ollama"}
    assert store.bytes() == before


def test_a_copy_of_a_library_model_is_pointed_to(store: Store, gguf_bytes: bytes) -> None:
    store.add("smollm2:135m", model=gguf_bytes)
    assert resolve.locate("ollama:smollm2:135m").source == "ollama"
    with pytest.raises(StoreError, match=r"paceline pull smollm2:135m; Ollama has a copy: ollama:smollm2:135m"):
        resolve.locate("smollm2:135m", download=False)


def test_the_default_place_is_ollamas(home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("OLLAMA_MODELS")
    monkeypatch.setenv("HOME", str(home))
    assert ollama_store.root() == home / ".ollama" / "models"


def test_small_layers_become_a_preset(store: Store, gguf_bytes: bytes) -> None:
    params = {
        "stop": ["<|im_end|>", "###"], "temperature": 0.3, "num_ctx": 256, "num_predict": 40, "repeat_penalty": 1.1,
        "seed": 7, "draft_num_predict": 3,
    }  # fmt: skip
    talk = [{"role": "user", "content": "hi"}, {"role": "assistant", "content": "ho"}]
    store.add("m", model=gguf_bytes, params=params, system="Be brief.", template=GO, license="MIT", messages=talk)
    located = resolve.locate("ollama:m")
    assert located.preset is not None and located.preset.notes == []
    assert located.preset.config_keys() == {"target.max_model_len": 256, "speculation.max_draft_tokens": 3}
    found = card.read(located)
    assert found.defaults == {
        "stop": ["<|im_end|>", "###"], "temperature": 0.3, "max_tokens": 40, "repetition_penalty": 1.1, "seed": 7,
    }  # fmt: skip
    assert (found.system, found.messages, found.license) == ("Be brief.", talk, "MIT")
    assert located.preset.needs_template and found.chat_template == tiny_models.CHAT_TEMPLATE


def test_a_template_that_only_repeats_the_prompt_asks_for_nothing(store: Store, gguf_bytes: bytes) -> None:
    store.add("base", model=gguf_bytes, template="{{ .Prompt }}")
    assert not preset_of("ollama:base").needs_template


def test_what_has_no_effect_is_noted(store: Store, gguf_bytes: bytes) -> None:
    params = {"mirostat": 1, "temperature": 9, "wings": 2, "top_k": 5}
    store.add("m", model=gguf_bytes, adapter=b"a", projector=b"p", params=params)
    found = preset_of("ollama:m")
    assert found.sampling == {"top_k": 5}
    for words in (
        "adapter is not applied",
        "images are not read",
        "mirostat has no effect",
        "temperature is 9",
        "wings",
    ):
        assert sum(words in note for note in found.notes) == 1, found.notes


def test_a_draft_layer_is_the_draft_model(store: Store, gguf_bytes: bytes, tmp_path: Path) -> None:
    draft = tiny_models.make_gguf(tmp_path / "d.gguf", num_hidden_layers=1).read_bytes()
    store.add("m", model=gguf_bytes, draft=draft)
    name = preset_of("m").draft_model
    assert preset_of("m").config_keys()["speculation.draft_model.model"] == name == "ollama:m#draft"
    assert Path(resolve.locate(name).files[0]).read_bytes() == draft
    store.add("alone", model=gguf_bytes)
    with pytest.raises(StoreError, match="0 files of weights"):
        resolve.locate("ollama:alone#draft")


def test_a_blob_can_be_named_by_its_path(store: Store, gguf_bytes: bytes) -> None:
    store.add("m", model=gguf_bytes)
    path = store.path(hashlib.sha256(gguf_bytes).hexdigest())
    assert resolve.locate(str(path)).source == "gguf_file"
    path.write_bytes(gguf_bytes[:-1] + b"\xff")
    with pytest.raises(DownloadError, match="sha256"):
        resolve.locate(str(path))


def test_not_there(store: Store, gguf_bytes: bytes, monkeypatch: pytest.MonkeyPatch) -> None:
    store.add("vixen", model=gguf_bytes)
    with pytest.raises(UnknownModelError, match=r"did you mean ollama:vixen\?"):
        resolve.locate("ollama:vixn")
    with pytest.raises(UnknownModelError, match="run: ollama pull zebra"):
        resolve.locate("ollama:zebra")
    with pytest.raises(UnknownModelError, match=r"did you mean vixen\?"):
        resolve.locate("vixen2")
    monkeypatch.setenv("OLLAMA_MODELS", str(store.root / "none"))
    with pytest.raises(UnknownModelError, match="set OLLAMA_MODELS"):
        resolve.locate("ollama:vixen")


@pytest.mark.parametrize(
    "name",
    ["..", "../x", "../../etc/passwd", "a/../b", "a/b/../../c", ".hidden", "a:..", "a:../b", "/etc/passwd", "a//b",
     "a:b:c", "a\0b", "a/b/c/d", "", "x" * 81, "a b", "a\n", "é"],
)  # fmt: skip
def test_no_name_leaves_the_store(name: str, store: Store, gguf_bytes: bytes) -> None:
    assert ollama_store.parse(name) is None and ollama_store.find(name) is None
    with pytest.raises(UnknownModelError):
        resolve.locate(f"ollama:{name}")


def layer(**fields: Any) -> str:
    values = {"mediaType": f"{TYPE}model", "digest": "sha256:" + "a" * 64, "size": 1} | fields
    return json.dumps({"layers": [values]})


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("", "is no manifest"),
        ("[]", "is no manifest"),
        ("{}", "is no manifest"),
        ('{"layers": [{"digest": 5, "size": 1}]}', "is no manifest"),
        ("[" * 5000, "is no manifest"),
        (layer(digest="sha256:../../../../etc/passwd"), "is no digest"),
        (layer(digest="sha256:" + "A" * 64), "is no digest"),
        (layer(digest="sha256:" + "a" * 64 + "\n"), "is no digest"),
        (layer(digest="md5:" + "a" * 64), "is no digest"),
        (layer(size=-1), "is no digest"),
        (layer(size=2**70), "cannot be read"),
        (layer(), "cannot be read"),
        (json.dumps({"layers": []}), "0 files of weights"),
        (json.dumps({"layers": [], "pad": "x" * (5 << 20)}), "at most 4194304"),
    ],
)
def test_a_manifest_is_not_trusted(text: str, says: str, store: Store, gguf_bytes: bytes) -> None:
    store.add("good", model=gguf_bytes)
    store.manifest("bad", text)
    with pytest.raises(PacelineError, match=says) as caught:
        resolve.locate("ollama:bad")
    assert "\n" not in str(caught.value) and len(str(caught.value)) < 600
    assert [s.name for s in inventory.models()] == ["ollama:good"], "one bad file must not hide the others"


def test_files_other_than_promised(store: Store, gguf_bytes: bytes) -> None:
    store.add("m", model=gguf_bytes, system="Be brief.")
    weights = store.path(hashlib.sha256(gguf_bytes).hexdigest())
    text = store.path(hashlib.sha256(b"Be brief.").hexdigest())
    text.write_text("Be  cruel")
    with pytest.raises(BadModelFileError, match="its sha256 is not its name"):
        resolve.locate("ollama:m")
    text.write_text("Be")
    with pytest.raises(BadModelFileError, match="has 2 bytes"):
        resolve.locate("ollama:m")
    text.write_text("Be brief.")
    weights.write_bytes(gguf_bytes[:-1] + b"\xff")
    with pytest.raises(DownloadError, match="sha256"):
        resolve.locate("ollama:m")
    weights.unlink()
    os.mkfifo(weights)  # reading one would wait for ever
    with pytest.raises(BadModelFileError, match="is no file"):
        resolve.locate("ollama:m")


def test_small_layers_are_not_trusted(store: Store, gguf_bytes: bytes) -> None:
    for name, more in (
        ("params", {"params": b"[1, 2]"}),
        ("latin", {"system": b"\xff\xfe"}),
        ("messages", {"messages": b'[{"role": 5}]'}),
        ("huge", {"system": b"x" * (5 << 20)}),
        ("stops", {"params": {"stop": ["x"] * 65}}),
    ):
        store.add(name, model=gguf_bytes, **more)
        with pytest.raises(BadModelFileError):
            resolve.locate(f"ollama:{name}")


def test_weights_of_another_kind(store: Store, gguf_bytes: bytes) -> None:
    store.add("tensors", ("tensor", b"a"), ("tensor", b"b"))
    with pytest.raises(StoreError, match="single tensors"):
        resolve.locate("ollama:tensors")
    store.add("two", ("model", gguf_bytes), ("model", gguf_bytes + b"\0"))
    with pytest.raises(StoreError, match="2 files of weights"):
        resolve.locate("ollama:two")


def test_nothing_is_deleted_there(store: Store, gguf_bytes: bytes) -> None:
    store.add("m", model=gguf_bytes)
    before = store.bytes()
    with pytest.raises(StoreError, match="run: ollama rm m"):
        inventory.remove(inventory.find("ollama:m"))
    with pytest.raises(StoreError, match="run: ollama rm m"):
        inventory.find("m")
    assert store.bytes() == before
