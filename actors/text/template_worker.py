"""A process that compiles and runs a chat template, because a hostile one must be stopped from outside.

Frames come in on standard input: first the template, then the values of one conversation each, as JSON. Each is
answered on standard output by a frame of one byte, which says what came of it, and a text. It holds no state but the
template and ends with its standard input; ``template_process.py`` starts it, times it and kills it.
"""

import json
import os
import struct
import sys
from typing import BinaryIO

from ...engine.errors import BadModelFileError, InvalidRequestError
from .template_sandbox import compile_template, run_template

MAX_MEMORY = 1 << 30
"""Bytes of address space."""
_ORPHAN_S = 20
"""Processor time after which one conversation is given up although nobody has killed us: our parent is dead."""
DONE, REFUSED, BAD_TEMPLATE = b"d", b"r", b"b"
HEAD = struct.Struct("<I")
"""Length of what follows."""


def read_frame(stream: BinaryIO) -> bytes | None:
    """The next frame; None at the end."""
    head = stream.read(HEAD.size)
    if len(head) < HEAD.size:
        return None
    return stream.read(HEAD.unpack(head)[0])


def answer(source: str, values: bytes | None) -> bytes:
    """What came of one frame; ``values`` is None for the template itself."""
    try:
        if values is None:
            compile_template(source)
            return DONE
        return DONE + run_template(source, json.loads(values)).encode("utf-8", "surrogatepass")
    except BadModelFileError as e:
        return BAD_TEMPLATE + str(e).encode("utf-8", "replace")
    except InvalidRequestError as e:
        return REFUSED + str(e).encode("utf-8", "replace")


def main() -> None:
    """Answer frame by frame."""
    given, told = sys.stdin.buffer, sys.stdout.buffer
    raw = read_frame(given)
    if raw is None:
        return
    source, values = raw.decode("utf-8", "surrogatepass"), None
    while True:
        _bound()
        said = answer(source, values)
        told.write(HEAD.pack(len(said)) + said)
        told.flush()
        if (values := read_frame(given)) is None:
            return


def _bound() -> None:
    try:
        import resource

        used = os.times()
        seconds = int(used.user + used.system) + _ORPHAN_S
        resource.setrlimit(resource.RLIMIT_CPU, (seconds, resource.RLIM_INFINITY))
        resource.setrlimit(resource.RLIMIT_AS, (MAX_MEMORY, resource.RLIM_INFINITY))
    except (ImportError, ValueError, OSError):
        pass  # not every system has it; the time is bounded everywhere


if __name__ == "__main__":
    main()
