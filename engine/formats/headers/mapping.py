"""Map a weight file into memory."""

import mmap
from pathlib import Path

from ...errors import BadModelFileError


def map_file(path: str, size: int) -> mmap.mmap:
    """The first ``size`` bytes of ``path``: writable, as torch wants buffers, yet private: the file never changes.

    Raises:
        BadModelFileError: the file cannot be opened or became shorter.
    """
    try:
        with Path(path).open("rb") as file:
            return mmap.mmap(file.fileno(), size, access=mmap.ACCESS_COPY)
    except (OSError, ValueError) as e:
        raise BadModelFileError(f"{path}: cannot be mapped: {e}; check memory limits and that the file is whole") from e
