"""The same vocabulary is known again in any file, and another one is told apart."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import tiny_models

from paceline.engine.errors import BadModelFileError
from paceline.engine.store import vocabulary
from paceline.engine.store.located import TokenizerSource


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tiny_models.make_llama(tmp_path_factory.mktemp("model") / "m")


def of_json(path: Path) -> vocabulary.Vocabulary:
    return vocabulary.read(TokenizerSource(kind="json", path=str(path)))


def changed(folder: Path, tmp_path: Path, change: Callable[[dict[str, Any]], object]) -> Path:
    tokenizer = json.loads((folder / "tokenizer.json").read_text())
    change(tokenizer)
    path = tmp_path / "tokenizer.json"
    path.write_text(json.dumps(tokenizer, indent=3))
    return path


def swap_two(tokenizer: dict[str, Any]) -> None:
    vocab = tokenizer["model"]["vocab"]
    first, second = list(vocab)[300:302]
    vocab[first], vocab[second] = vocab[second], vocab[first]


def test_a_gguf_file_and_a_tokenizer_json_of_one_vocabulary_agree(folder: Path, tmp_path: Path) -> None:
    gguf = tiny_models.make_gguf(tmp_path / "m.gguf")
    found = vocabulary.read(TokenizerSource(kind="gguf", path=str(gguf)))
    assert found == of_json(folder / "tokenizer.json") and found.num_ids == 512


@pytest.mark.parametrize(
    ("change", "is_same"),
    [
        (lambda t: None, True),  # written anew with other spaces
        (lambda t: t["model"].__setitem__("merges", t["model"]["merges"][:5]), True),
        (lambda t: t.pop("post_processor", None), True),
        (swap_two, False),
        (lambda t: t["added_tokens"].append({"id": 512, "content": "<new>"}), False),
        (lambda t: t["model"]["vocab"].pop(max(t["model"]["vocab"], key=t["model"]["vocab"].get)), False),
    ],
)
def test_only_what_an_id_means_counts(
    folder: Path, tmp_path: Path, change: Callable[[dict[str, Any]], object], is_same: bool
) -> None:
    original = of_json(folder / "tokenizer.json")
    assert (of_json(changed(folder, tmp_path, change)).fingerprint == original.fingerprint) is is_same


def test_a_vocabulary_that_is_a_list_of_pieces_is_read(tmp_path: Path) -> None:
    path = tmp_path / "tokenizer.json"
    path.write_text(json.dumps({"model": {"vocab": [["a", -1.0], ["b", -2.0]]}, "added_tokens": []}))
    assert of_json(path).num_ids == 2


@pytest.mark.parametrize(
    "text", ["", "{}", "[1]", '{"model": {"vocab": {"a": -1}}}', '{"model": {"vocab": {"a": 99999999}}}',
             '{"model": {"vocab": [[]]}}', '{"model": {"vocab": {"a": "b"}}}']
)  # fmt: skip
def test_what_is_no_tokenizer_is_refused(tmp_path: Path, text: str) -> None:
    path = tmp_path / "tokenizer.json"
    path.write_text(text)
    with pytest.raises(BadModelFileError, match=r"tokenizer\.json"):
        of_json(path)
    with pytest.raises(BadModelFileError):
        of_json(tmp_path / "nowhere.json")
