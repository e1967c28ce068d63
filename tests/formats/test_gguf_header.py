"""The GGUF header reader: what it reads, and that nothing but BadModelFileError comes out of a bad file."""

import random
import re
import struct
import time
import tracemalloc
from pathlib import Path

import pytest
import tiny_models
from gguf import GGML_QUANT_SIZES, GGUFReader
from tiny_tokenizers import smollm2_path

from paceline.engine.errors import BadModelFileError
from paceline.engine.formats.headers import gguf
from paceline.engine.formats.headers.gguf import SkippedArray, read_header


@pytest.fixture(scope="module")
def tiny(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tiny_models.make_gguf(tmp_path_factory.mktemp("gguf") / "tiny.gguf", num_hidden_layers=1)


def string(text: bytes) -> bytes:
    return struct.pack("<Q", len(text)) + text


def key_value(key: bytes, kind: int, value: bytes) -> bytes:
    return string(key) + struct.pack("<I", kind) + value


def tensor(name: bytes, dims: list[int], kind: int, offset: int) -> bytes:
    return string(name) + struct.pack(f"<I{len(dims)}QIQ", len(dims), *dims, kind, offset)


def build(
    path: Path, kvs: list[bytes], tensors: list[bytes], data: int = 0, *, counts: tuple[int, int] | None = None
) -> Path:
    num_tensors, num_kv = counts or (len(tensors), len(kvs))
    header = b"GGUF" + struct.pack("<IQQ", 3, num_tensors, num_kv) + b"".join(kvs) + b"".join(tensors)
    path.write_bytes(header + bytes(-len(header) % 32 + data))
    return path


def test_type_sizes_are_the_packages() -> None:
    theirs = {kind.value: (kind.name, *sizes) for kind, sizes in GGML_QUANT_SIZES.items()}
    assert {kind: theirs[kind] for kind in gguf.GGML_TYPES} == gguf.GGML_TYPES


def test_agrees_with_the_packages_reader(tiny: Path) -> None:
    ours, theirs = read_header(tiny), GGUFReader(tiny)
    assert {k: f.contents() for k, f in theirs.fields.items() if not k.startswith("GGUF.")} == ours.metadata
    assert (ours.alignment, ours.data_start) == (theirs.alignment, theirs.data_offset)
    for t in theirs.tensors:
        info = ours.tensors[t.name]
        assert info.shape == tuple(reversed(t.shape.tolist()))
        assert (info.ggml_type, info.offset, info.num_bytes) == (t.tensor_type.value, t.data_offset, t.n_bytes)
    assert len(ours.tensors) == len(theirs.tensors)


def test_skipping_arrays_changes_nothing_else(tiny: Path) -> None:
    whole, short = read_header(tiny), read_header(tiny, skip_arrays=True)
    assert short.tensors == whole.tensors
    assert short.metadata == {k: SkippedArray(len(v)) if isinstance(v, list) else v for k, v in whole.metadata.items()}
    assert isinstance(short.metadata["tokenizer.ggml.tokens"], SkippedArray)


def test_all_scalar_kinds_and_broken_utf8(tmp_path: Path) -> None:
    scalars = {0: ("B", 200), 1: ("b", -5), 2: ("H", 65535), 3: ("h", -3), 4: ("I", 1 << 31), 5: ("i", -7)}
    scalars |= {6: ("f", 0.5), 7: ("?", True), 10: ("Q", 1 << 63), 11: ("q", -(1 << 62)), 12: ("d", 1e100)}
    kvs = [key_value(b"k%d" % kind, kind, struct.pack("<" + code, v)) for kind, (code, v) in scalars.items()]
    kvs.append(key_value(b"text", 8, string(b"a\xffb")))
    kvs.append(key_value(b"list", 9, struct.pack("<IQ", 5, 3) + struct.pack("<3i", 1, -2, 3)))
    kvs.append(key_value(b"empty", 9, struct.pack("<IQ", 8, 0)))
    meta = read_header(build(tmp_path / "a.gguf", kvs, [])).metadata
    assert meta == {f"k{k}": v for k, (_, v) in scalars.items()} | {"text": "a\ufffdb", "list": [1, -2, 3], "empty": []}


HUGE = (1 << 64) - 1
HOSTILE = {
    "magic": (b"GGML" + bytes(40), "byte 0"),
    "empty": (b"", "too few"),
    "version 1": (b"GGUF" + struct.pack("<IQQ", 1, 0, 0), "version 1"),
    "big-endian": (b"GGUF" + struct.pack(">IQQ", 3, 0, 0), "big-endian"),
    "key count": (b"GGUF" + struct.pack("<IQQ", 3, 0, HUGE), "do not fit"),
    "tensor count": (b"GGUF" + struct.pack("<IQQ", 3, HUGE, 0), "do not fit"),
}


@pytest.mark.parametrize("case", HOSTILE)
def test_bad_beginnings_are_refused(tmp_path: Path, case: str) -> None:
    raw, said = HOSTILE[case]
    path = tmp_path / "bad.gguf"
    path.write_bytes(raw)
    with pytest.raises(BadModelFileError, match=said) as caught:
        read_header(path)
    assert str(path) in str(caught.value) and "\n" not in str(caught.value)


def test_bad_key_values_are_refused(tmp_path: Path) -> None:
    one = key_value(b"a", 4, struct.pack("<I", 1))
    cases = {
        "twice": [one, one],
        "unknown kind 13": [key_value(b"a", 13, bytes(8))],
        "more than the rest": [key_value(b"a", 9, struct.pack("<IQ", 4, HUGE))],
        "unsupported kind 9": [key_value(b"a", 9, struct.pack("<IQ", 9, 1) + bytes(32))],
        "at most 4096": [struct.pack("<Q", 1 << 40) + bytes(64)],
        "bytes long": [string(b"a") + struct.pack("<IQ", 8, HUGE) + bytes(64)],
        "needs": [key_value(b"a", 9, struct.pack("<IQQ", 8, 1, 1 << 50))],
        "power of two": [key_value(b"general.alignment", 4, struct.pack("<I", 48))],
        "alignment is 0": [key_value(b"general.alignment", 4, struct.pack("<I", 0))],
        "alignment is text": [key_value(b"general.alignment", 8, string(b"text"))],
    }
    for said, kvs in cases.items():
        with pytest.raises(BadModelFileError, match=said):
            read_header(build(tmp_path / "bad.gguf", kvs, []))


def test_bad_tensor_tables_are_refused(tmp_path: Path) -> None:
    cases = {
        "5 dimensions": [tensor(b"t", [1, 1, 1, 1, 1], 0, 0)],
        "0 dimensions": [tensor(b"t", [], 0, 0)],
        "cannot be cut": [tensor(b"t", [0, 4], 0, 0)],
        "Q8_0 blocks of 32": [tensor(b"t", [33], 8, 0)],
        "unknown ggml type 99": [tensor(b"t", [4], 99, 0)],
        "past the end": [tensor(b"t", [1 << 62, 1 << 62], 0, 0)],
        "past the end of the file": [tensor(b"t", [64], 0, 0)],
        "not a multiple of 32": [tensor(b"t", [4], 0, 4)],
        "there twice": [tensor(b"t", [4], 0, 0), tensor(b"t", [4], 0, 32)],
        "overlap": [tensor(b"t", [16], 0, 0), tensor(b"u", [4], 0, 32)],
    }
    for said, tensors in cases.items():
        with pytest.raises(BadModelFileError, match=said):
            read_header(build(tmp_path / "bad.gguf", [], tensors, data=64))
    good = [tensor(b"u", [4], 0, 32), tensor(b"t", [8], 0, 0)]
    assert set(read_header(build(tmp_path / "good.gguf", [], good, data=64)).tensors) == {"t", "u"}


def test_missing_file_is_one_error(tmp_path: Path) -> None:
    with pytest.raises(BadModelFileError, match="cannot be read"):
        read_header(tmp_path / "none.gguf")
    with pytest.raises(BadModelFileError, match="cannot be read"):
        read_header(tmp_path)


def test_every_truncation_is_refused(tiny: Path, tmp_path: Path) -> None:
    whole = tiny.read_bytes()
    header = read_header(tiny)
    places = [*range(200), *range(200, header.data_start, 997), header.data_start, len(whole) - 1]
    path = tmp_path / "cut.gguf"
    for place in places:
        path.write_bytes(whole[:place])
        with pytest.raises(BadModelFileError):
            read_header(path)


@pytest.mark.parametrize("place", ["nothing", "8 bytes", "in the header", "in a tensor", "before the last byte"])
def test_a_cut_file_is_named_with_the_byte(tiny: Path, tmp_path: Path, place: str) -> None:
    whole, data_start = tiny.read_bytes(), read_header(tiny).data_start
    ends = [0, 8, data_start // 2, (data_start + len(whole)) // 2, len(whole) - 1]
    names = ["nothing", "8 bytes", "in the header", "in a tensor", "before the last byte"]
    path = tmp_path / "cut.gguf"
    path.write_bytes(whole[: ends[names.index(place)]])
    for skip_arrays in (False, True):
        with pytest.raises(BadModelFileError, match=rf"{re.escape(str(path))}: .*byte \d+"):
            read_header(path, skip_arrays=skip_arrays)


def test_what_the_file_spells_stays_on_one_line_of_a_message(tmp_path: Path) -> None:
    """Found by fuzzing: a key with a line break made an error of two lines, one with escapes wrote to the terminal."""
    for key in (b"a\nb", b"\x1b[2J", b"k" * 4000):
        with pytest.raises(BadModelFileError, match=r"byte \d+ of") as caught:
            read_header(build(tmp_path / "bad.gguf", [key_value(key, 13, bytes(8))], []))
        message = str(caught.value)
        assert message.isprintable() and len(message) < 1000, message


def test_flipped_bytes_give_a_header_or_one_error(tiny: Path, tmp_path: Path) -> None:
    """500 seeded cases of 1 to 8 random bytes; what still parses stays inside the file, and memory stays small."""
    whole = tiny.read_bytes()
    end = read_header(tiny).data_start
    vocabulary = whole.index(b"tokenizer.ggml.tokens")
    rng = random.Random(1)
    path = tmp_path / "flipped.gguf"
    refused = 0
    tracemalloc.start()
    for case in range(500):
        raw = bytearray(whole)
        for _ in range(rng.randint(1, 8)):
            # Half of the cases hit the parts that are not vocabulary text, where more depends on every byte.
            raw[rng.randrange(vocabulary if case % 2 else end)] = rng.randrange(256)
        path.write_bytes(raw)
        try:
            header = read_header(path)
        except BadModelFileError:
            refused += 1
        else:
            assert all(t.offset + t.num_bytes <= len(raw) for t in header.tensors.values())
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert 100 < refused < 500
    assert peak < 16 * len(whole)


@pytest.mark.model
def test_smollm2_header_is_quick() -> None:
    path = smollm2_path()
    if path is None:
        pytest.skip("SmolLM2 is not on this machine: set PACELINE_TEST_GGUF or run make test")
    times: list[float] = []
    header = read_header(path)
    for _ in range(5):
        start = time.perf_counter()
        read_header(path)
        times.append(time.perf_counter() - start)
    assert len(header.metadata["tokenizer.ggml.tokens"]) == 49152
    assert len(header.tensors) == 272
    assert min(times) < 0.3  # 0.09 s on a quiet core
