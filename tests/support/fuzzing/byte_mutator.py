"""Bytes changed without knowing what they mean: flips, cuts, copies, and numbers at which code breaks."""

import re
from random import Random

_INTERESTING = [0, 1, 2, 7, 8, 9, 31, 32, 33, 127, 128, 255, 256, 4095, 4096, 65535, 65536, 2**31 - 1, 2**31, 2**32 - 1,
                2**32, 2**62, 2**63 - 1, 2**63, 2**64 - 1]  # fmt: skip
_NUMBERS = [b"0", b"-1", b"1e999", b"-0", b"0.5", b"9223372036854775807", b"9223372036854775808",
            b"18446744073709551616", b"-9223372036854775809", b"1e-400", b"9" * 4301, b"NaN", b"Infinity"]  # fmt: skip
_TOKENS = [b"\x00", b"\xff", b"\xff\xfe", b"\xef\xbb\xbf", b"\xed\xa0\x80", b"\xf4\x90\x80\x80", b"\\ud800", b"\r\n",
           b"\n\n", b"\xc2\x85", b"\xe2\x80\xa8", b'"', b"'", b'"""', b"\\", b"[" * 400, b"{" * 400, b'{"a":' * 300,
           b"null", b"true", b"../", b"%s", b"{{", b"{%", b"__class__", b"<|im_end|>"]  # fmt: skip
_NUMBER = re.compile(rb"-?\d+(?:\.\d+)?")


def mutate_bytes(data: bytes, rng: Random) -> bytes:
    """``data`` with one to five changes."""
    raw = bytearray(data)
    for _ in range(min(rng.randint(1, 5), rng.randint(1, 5))):
        rng.choice(_CHANGES)(raw, rng)
    return bytes(raw)


def _flip(raw: bytearray, rng: Random) -> None:
    if raw:
        raw[rng.randrange(len(raw))] ^= 1 << rng.randrange(8)


def _set(raw: bytearray, rng: Random) -> None:
    if raw:
        raw[rng.randrange(len(raw))] = rng.choice((0, 1, 0x7F, 0x80, 0xFF, rng.randrange(256)))


def _integer(raw: bytearray, rng: Random) -> None:
    """A little-endian integer of 1 to 8 bytes, where one may be."""
    size = rng.choice((1, 2, 4, 8))
    at = rng.randrange(len(raw) + 1)
    raw[at : at + size] = (rng.choice(_INTERESTING) % (1 << 8 * size)).to_bytes(size, "little")


def _number(raw: bytearray, rng: Random) -> None:
    """A number written in digits."""
    found = list(_NUMBER.finditer(raw))
    if found:
        start, end = rng.choice(found).span()
        raw[start:end] = rng.choice(_NUMBERS)


def _cut(raw: bytearray, rng: Random) -> None:
    at = rng.randrange(len(raw) + 1)
    del raw[at : at + rng.choice((1, 2, 8, 64, len(raw)))]


def _copy(raw: bytearray, rng: Random) -> None:
    """A piece once more, somewhere else."""
    start = rng.randrange(len(raw) + 1)
    piece = raw[start : start + rng.choice((1, 4, 16, 200))]
    at = rng.randrange(len(raw) + 1)
    raw[at:at] = piece * rng.choice((1, 1, 1, 50))


def _insert(raw: bytearray, rng: Random) -> None:
    at = rng.randrange(len(raw) + 1)
    raw[at:at] = rng.choice(_TOKENS) if rng.random() < 0.8 else rng.randbytes(rng.randint(1, 16))


def _swap(raw: bytearray, rng: Random) -> None:
    """A line, or what stands for one, in another place."""
    lines = bytes(raw).split(b"\n")
    rng.shuffle(lines)
    raw[:] = b"\n".join(lines)


_CHANGES = (_flip, _set, _integer, _number, _cut, _copy, _insert, _insert, _swap)
