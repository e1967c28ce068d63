"""Typed, bounded look-up in a table of model settings, so that a bad file names its key instead of crashing later."""

from collections.abc import Mapping
from typing import Any

from ...errors import BadModelFileError

MAX_SIZE = 1 << 24
"""Above every size of a published model: a wider value is damage, not a model."""


def shown(value: Any) -> str:
    """A value of the file as a message shows it, cut short."""
    return repr(value)[:60]


class Fields:
    """Reads one table; ``where`` (a file, a repository) starts every message."""

    def __init__(self, table: Mapping[str, Any], where: str) -> None:
        self.table = table
        self.where = where

    def bad(self, what: str, remedy: str = "use a complete copy of the model") -> BadModelFileError:
        """The error for this table."""
        return BadModelFileError(f"{self.where}: {what}; {remedy}")

    def integer(self, key: str, default: int | None = None, *, most: int = MAX_SIZE) -> int:
        """A size from 1 to ``most``.

        Raises:
            BadModelFileError: missing without a default, or no such number.
        """
        value = self.table.get(key)
        if value is None:
            if default is None:
                raise self.bad(f"{key} is missing")
            return default
        if type(value) is not int or not 1 <= value <= most:
            raise self.bad(f"{key} is {shown(value)}, not a whole number from 1 to {most}")
        return value

    def number(self, key: str, default: float | None = None) -> float:
        """A finite number above zero.

        Raises:
            BadModelFileError: missing without a default, or no such number.
        """
        value = self.table.get(key)
        if value is None:
            if default is None:
                raise self.bad(f"{key} is missing")
            return default
        if type(value) not in (int, float) or not 0 < value < 1e30:
            raise self.bad(f"{key} is {shown(value)}, not a number above 0")
        return float(value)

    def check_heads(self, num_heads: int, num_kv_heads: int, head_dim: int) -> None:
        """Refuse head counts that attention cannot pair.

        Raises:
            BadModelFileError: naming the counts.
        """
        if num_heads % num_kv_heads:
            raise self.bad(f"{num_heads} attention heads cannot share {num_kv_heads} key/value heads")
        if head_dim % 2:
            raise self.bad(f"head size {head_dim} is odd, rotary embedding needs pairs")
