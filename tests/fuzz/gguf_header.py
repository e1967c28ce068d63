"""GGUF header -> metadata, tensor table, model card, vocabulary; nothing of it points outside the file."""

import math

from fuzzing.gguf_files import build, descriptions, mutate
from fuzzing.scratch import write
from fuzzing.target import Target

from paceline.engine.errors import BadModelFileError
from paceline.engine.formats.headers import gguf
from paceline.engine.store import card_gguf, vocabulary
from paceline.engine.store.located import Located, TokenizerSource


def run(data: bytes) -> None:
    path = write("model.gguf", data)
    try:
        header = gguf.read_header(path)
    except BadModelFileError as e:
        assert path in str(e) and "\n" not in str(e), str(e)
        _same_without_arrays(path)
        raise
    assert all(t.offset + t.num_bytes <= len(data) for t in header.tensors.values())
    assert gguf.read_header(path, skip_arrays=True).tensors == header.tensors
    vocabulary.read(TokenizerSource(kind="gguf", path=path))
    located = Located(name="x", kind="gguf", folder="", files=[path], sizes=[len(data)], digests=[None])
    card = card_gguf.read(located)
    assert all(math.isfinite(value) for value in card.defaults.values())
    assert all(i >= 0 for i in [*card.end_ids, *card.marker_ids.values()])


def _same_without_arrays(path: str) -> None:
    """A file may be refused for an array only where arrays are read."""
    try:
        gguf.read_header(path, skip_arrays=True)
    except BadModelFileError:
        return


TARGET = Target(
    run=run, seeds=[build(d) for d in descriptions()], mutate=mutate, expected=(BadModelFileError,),
    most_bytes=1 << 18,
)  # fmt: skip
