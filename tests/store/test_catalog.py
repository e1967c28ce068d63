"""The library of short names."""

from pathlib import Path

import msgspec
import tiny_models

from paceline.engine.store import card, catalog


def test_recommended_sampling_fills_what_the_files_do_not_say(tmp_path: Path) -> None:
    tiny_models.make_llama(tmp_path)
    located = msgspec.structs.replace(tiny_models.located(tmp_path), name="smollm2")
    assert card.read(located).defaults == {"temperature": 0.7, "top_p": 0.9}
    (tmp_path / "generation_config.json").unlink()
    assert card.read(located).defaults == {"temperature": 0.2, "top_p": 0.9}


def test_every_single_file_entry_can_be_proved() -> None:
    for entry in catalog.entries():
        assert bool(entry.file) == bool(entry.sha256) == bool(entry.size), entry.name
        assert entry.origins and entry.license
