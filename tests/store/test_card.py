"""Cards of small real models: the same model as a folder and as GGUF, and every source of each fact."""

import json
import shutil
import time
from pathlib import Path
from typing import Any

import pytest
import tiny_models
from fuzzing.gguf_files import build, descriptions

from paceline.engine.errors import BadModelFileError, PacelineError, StoreError
from paceline.engine.store import card, resolve
from paceline.engine.store.located import ModelCard


@pytest.fixture
def folder(tmp_path: Path, llama: Path) -> Path:
    """A copy of the small model, to change."""
    return Path(shutil.copytree(llama, tmp_path / "model"))


def read(path: Path) -> ModelCard:
    return card.read(resolve.locate(str(path)))


def edit(path: Path, **changes: Any) -> None:
    tree = json.loads(path.read_text()) if path.exists() else {}
    path.write_text(json.dumps(tree | changes))


def test_folder_and_gguf_agree(folder: Path, tmp_path: Path) -> None:
    gguf = tmp_path / "tiny.gguf"
    tiny_models.make_gguf(gguf)
    one, two = read(folder), read(gguf)
    assert one.chat_template == two.chat_template == tiny_models.CHAT_TEMPLATE
    assert tiny_models.EOS_ID in one.end_ids and tiny_models.EOS_ID in two.end_ids
    assert (one.model.num_layers, one.model.vocab_size) == (two.model.num_layers, two.model.vocab_size)
    assert one.special_tokens["eos_token"] == two.special_tokens["eos_token"] == "<|im_end|>"
    assert (one.tokenizer.kind, two.tokenizer.kind) == ("json", "gguf")
    assert one.quantization == two.quantization == "F32"
    assert one.size_bytes > 0 and two.size_bytes == gguf.stat().st_size


def test_end_ids_of_generation_config_come_first(folder: Path) -> None:
    edit(folder / "generation_config.json", eos_token_id=[77, 0])
    assert read(folder).end_ids == [77, 0, 2]
    edit(folder / "generation_config.json", eos_token_id=None)
    edit(folder / "config.json", eos_token_id=5)
    assert read(folder).end_ids == [5, 2]


def test_sampling_defaults(folder: Path) -> None:
    edit(folder / "generation_config.json", temperature=0.7, top_p=0.8, top_k=20, do_sample=True, min_p="x")
    assert read(folder).defaults == {"temperature": 0.7, "top_p": 0.8, "top_k": 20}


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_sampling_defaults_that_are_no_numbers_say_nothing(tmp_path: Path, value: float) -> None:
    """An infinite top_k was an internal error for every request without one of its own."""
    byte_level = descriptions()[-1]
    keys = [[k, 6, value] if k == "general.sampling.top_k" else [k, kind, v] for k, kind, v in byte_level["keys"]]
    path = tmp_path / "tiny.gguf"
    path.write_bytes(build(byte_level | {"keys": keys}))
    assert read(path).defaults == {"temperature": 0.5}


def test_chat_template_by_source_order(folder: Path) -> None:
    (folder / "chat_template.jinja").unlink(missing_ok=True)
    edit(folder / "tokenizer_config.json", chat_template=None)
    assert read(folder).chat_template is None
    (folder / "chat_template.json").write_text('{"chat_template": "C"}')
    assert read(folder).chat_template == "C"
    named = [{"name": "tool_use", "template": "T"}, {"name": "default", "template": "D"}]
    edit(folder / "tokenizer_config.json", chat_template=named)
    assert read(folder).chat_template == "D"
    edit(folder / "tokenizer_config.json", chat_template="S")
    assert read(folder).chat_template == "S"
    (folder / "chat_template.jinja").write_text("J")
    assert read(folder).chat_template == "J"


def test_special_tokens_as_text_or_as_objects(folder: Path) -> None:
    edit(folder / "tokenizer_config.json", eos_token={"content": "<|endoftext|>", "lstrip": False}, bos_token=None)
    edit(folder / "special_tokens_map.json", bos_token="<|im_start|>", eos_token="unused")
    found = read(folder)
    assert found.special_tokens["eos_token"] == "<|endoftext|>"
    assert found.special_tokens["bos_token"] == "<|im_start|>" and found.bos_id == 1
    assert not found.add_bos


@pytest.mark.parametrize("nested", [False, True])
def test_add_bos_follows_the_post_processor(folder: Path, nested: bool) -> None:
    edit(folder / "tokenizer_config.json", bos_token="<|im_start|>")
    step = {"type": "TemplateProcessing", "single": [{"SpecialToken": {"id": "<|im_start|>", "type_id": 0}}, {}]}
    edit(folder / "tokenizer.json", post_processor={"type": "Sequence", "processors": [step]} if nested else step)
    assert read(folder).add_bos


def test_licence_from_the_readme(folder: Path) -> None:
    (folder / "README.md").write_text("---\nlibrary: x\nlicense: mit\n---\nlicense: other\n")
    assert read(folder).license == "mit"
    (folder / "README.md").write_text("no front matter\nlicense: mit\n")
    assert read(folder).license == ""


@pytest.mark.parametrize(
    ("name", "data", "kind"),
    [
        ("config.json", b"", BadModelFileError),
        ("config.json", b"[1]", BadModelFileError),
        ("config.json", b'{"architectures": ["Foo"]}', BadModelFileError),
        ("tokenizer.json", None, StoreError),
        ("tokenizer.json", b'{"added_tokens": 5}', BadModelFileError),
        ("tokenizer_config.json", b"\xff\xfe", BadModelFileError),
        ("tokenizer_config.json", b'{"chat_template": 5}', BadModelFileError),
        ("generation_config.json", b"[" * 100_000, BadModelFileError),
        ("chat_template.jinja", b"\xff", BadModelFileError),
        ("chat_template.jinja", b"x" * ((1 << 20) + 1), BadModelFileError),
    ],
)
def test_a_damaged_neighbour_is_named(folder: Path, name: str, data: bytes | None, kind: type[PacelineError]) -> None:
    (folder / name).unlink(missing_ok=True)
    if data is not None:
        (folder / name).write_bytes(data)
    place = "chat_template" if data == b'{"chat_template": 5}' else name
    with pytest.raises(kind, match=place.replace(".", r"\.")):
        read(folder)


@pytest.mark.model
def test_the_default_model(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.undo()  # the user's own store
    located = resolve.locate("smollm2:135m", download=False)
    begun = time.process_time()
    found = card.read(located)
    elapsed = time.process_time() - begun
    assert found.model.num_layers == 30 and found.quantization == "Q4_1" and found.license == "apache-2.0"
    assert found.end_ids[0] == 2 and "<|im_start|>" in (found.chat_template or "") and not found.add_bos
    assert elapsed < 0.5  # s of processor time; usually 0.08


@pytest.mark.parametrize(
    ("modes", "pooling"),
    [
        ({}, "last"),
        ({"pooling_mode_lasttoken": True, "pooling_mode_mean_tokens": False}, "last"),
        ({"pooling_mode_mean_tokens": True, "word_embedding_dimension": 64}, "mean"),
        ({"pooling_mode_cls_token": True}, "cls_token"),
        ({"pooling_mode_mean_tokens": True, "pooling_mode_max_tokens": True}, "mixed"),
    ],
)
def test_pooling_is_what_sentence_transformers_says(folder: Path, modes: dict[str, Any], pooling: str) -> None:
    (folder / "1_Pooling").mkdir()
    edit(folder / "1_Pooling" / "config.json", **modes)
    assert read(folder).pooling == pooling


def test_pooling_of_a_gguf(tmp_path: Path) -> None:
    path = tmp_path / "tiny.gguf"
    tiny_models.make_gguf(path, pooling_type=1)
    assert read(path).pooling == "mean"
    tiny_models.make_gguf(path)
    assert read(path).pooling == "last"


def test_a_list_where_a_name_belongs_is_no_name(folder: Path, tmp_path: Path) -> None:
    """Found by fuzzing: neither can be looked up in a table, which was a TypeError."""
    named = [{"name": [], "template": "a"}, {"name": "default", "template": "b"}]
    edit(folder / "tokenizer_config.json", chat_template=named)
    assert read(folder).chat_template == "b"
    path = tmp_path / "tiny.gguf"
    tiny_models.make_gguf(path, pooling_type=[1])
    assert read(path).pooling == "last"


@pytest.mark.parametrize(
    ("fields", "sizes"),
    [({}, []), ({"is_matryoshka": True}, [-1]), ({"matryoshka_dimensions": [64, 32, "x"]}, [64, 32])],
)
def test_sizes_to_which_vectors_may_be_cut(folder: Path, fields: dict[str, Any], sizes: list[int]) -> None:
    edit(folder / "config.json", **fields)
    assert read(folder).embedding_dimensions == sizes
