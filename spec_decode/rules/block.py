"""Rejection of all drafts together (arXiv 2403.10444): the longest prefix whose joint chance holds up.

Never accepts less than ``token`` on average, and like it keeps the target's law, not a seed's text. A draft that comes
without its law q counts as sure.
"""

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from ..rejection import Rejection

LOSSLESS = True


def build(config: Any = None) -> "Rejection":
    """The rule takes no settings."""
    from ..rejection import Rejection

    return Rejection("block")
