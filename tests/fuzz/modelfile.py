"""Modelfile -> preset: values or a ``ConfigError`` of one line; what is written reads the same again."""

from random import Random

from fuzzing.byte_mutator import mutate_bytes
from fuzzing.target import Target

from paceline.engine.errors import ConfigError
from paceline.engine.store import modelfile

_LINES = [
    b"FROM smollm2:135m",
    b"from ./x.gguf",
    b"FROM",
    b"PARAMETER temperature 0.7",
    b"PARAMETER stop END",
    b"PARAMETER num_ctx 1e400",
    b"PARAMETER seed 9" + b"9" * 5000,
    b"PARAMETER top_k -1",
    b"PARAMETER numa 1",
    b'SYSTEM """You',
    b'are a fox."""',
    b'TEMPLATE """{{ .Prompt }}"""',
    b"TEMPLATE {% for m in messages %}{% endfor %}",
    b"MESSAGE user x",
    b"MESSAGE tool x",
    b"LICENSE MIT",
    b"ADAPTER x",
    b"DRAFT y",
    b"# note",
    b'SYSTEM "a',
    b'"',
    b"PARAMETER seed \xd9\xa3",
    b"PARAMETER top_k \xc2\xb2",
    b"PARAMETER temperature nan",
    b"RENDERER x",
    b"REQUIRES 0.1",
    b"PARAMETER draft_num_predict 3",
    b"SYSTEM \xef\xbb\xbf",
    b"\xc2\x85FROM a",
    b"PARAMETER",
]


def run(data: bytes) -> None:
    text = data.decode(errors="surrogateescape" if data[:1] == b"\x01" else "replace")
    try:
        found = modelfile.parse(text, "Modelfile")
        modelfile.rebased(text, "Modelfile", "base", "draft")
    except ConfigError as e:
        assert "\n" not in str(e), str(e)
        raise
    written = modelfile.write(found.base, found.preset, found.preset.parameter_lines())
    again = modelfile.parse(written, "written")
    assert again.base == found.base
    assert again.preset.sampling == found.preset.sampling, written
    assert again.preset.system == found.preset.system, written
    assert again.preset.messages == found.preset.messages, written
    assert again.preset.chat_template == found.preset.chat_template, written


def _mutate(data: bytes, rng: Random) -> bytes:
    if rng.random() < 0.4:
        return mutate_bytes(data, rng)
    lines = data.split(b"\n")
    for _ in range(rng.randint(1, 3)):
        lines.insert(rng.randrange(len(lines) + 1), rng.choice(_LINES))
    return b"\n".join(lines)


_seeds = [
    b"FROM smollm2:135m\nPARAMETER temperature 0.3\nPARAMETER stop a\nPARAMETER stop b\nSYSTEM Be short.\n",
    b'FROM ./x.gguf\nTEMPLATE """{% for m in messages %}{{ m.content }}{% endfor %}"""\n'
    b'MESSAGE user "hi"\nLICENSE """a\nb"""\n',
]  # fmt: skip
TARGET = Target(run=run, seeds=_seeds, mutate=_mutate, expected=(ConfigError,))
