"""TOML -> config: a config or a ``ConfigError`` of one line."""

from random import Random

from fuzzing.byte_mutator import mutate_bytes
from fuzzing.scratch import write
from fuzzing.target import FOLDER, Target

from paceline.engine import config
from paceline.engine.errors import ConfigError

_OVERRIDES = ["server.port={}", "speculation.table={}", "server.keys.a={}", "target.device={}", "{}", "{}=1", "a.{}=1"]
_LINES = [
    b"[server]", b"[server.keys.fox]", b"[[server.keys]]", b"[speculation.suffix]", b"[speculation.settings.x]",
    b"[speculation]", b"[scheduler]", b"[a.b.c]", b'methods = ["suffix", "ngram"]', b"methods = [1]", b'key = "k"',
    b"table = [[1, 4, 2], [5, 9, 0]]", b'policy = "table"', b'rule = "../x"', b'methods = ["os.path"]', b"port = inf",
    b"port = nan", b"port = 0x10", b"port = 1979-05-27", b'sha256 = "' + b"0" * 64 + b'"', b"keys = {}", b"server = 1",
    b"memory_fraction = nan", b"max_draft_tokens = 99999999999999999999", b'model = "\\u0000"', b"speculation = []",
    b"x = " + b"[" * 600, b"x." * 600 + b"x = 1", b'"\\ud800" = 1', b"speculation.suffix.max_tokens = 'a'",
]  # fmt: skip


def run(data: bytes) -> None:
    """The file; a first byte picks an override made of its first line."""
    text = data[1:]
    overrides: list[str] = []
    if data and data[0] < len(_OVERRIDES):
        overrides = [_OVERRIDES[data[0]].format(text[:80].decode(errors="replace").partition("\n")[0])]
    try:
        loaded = config.load(write("serve.toml", text), overrides, environ={})
    except ConfigError as e:
        assert "\n" not in str(e), str(e)
        raise
    assert loaded == loaded, "a NaN has passed"


def _mutate(data: bytes, rng: Random) -> bytes:
    if rng.random() < 0.5:
        return mutate_bytes(data, rng)
    lines = data[1:].split(b"\n")
    for _ in range(rng.randint(1, 3)):
        lines.insert(rng.randrange(len(lines) + 1), rng.choice(_LINES))
    return (rng.randbytes(1) if rng.random() < 0.3 else data[:1]) + b"\n".join(lines)


_seeds = [b"\xff" + p.read_bytes() for p in sorted((FOLDER.parents[1] / "configs").glob("*.toml"))]
TARGET = Target(run=run, seeds=[*_seeds, b"\x00" + b"[server]\nport = 1\n"], mutate=_mutate, expected=(ConfigError,))
