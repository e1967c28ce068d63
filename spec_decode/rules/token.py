"""Rejection draft by draft (arXiv 2211.17192): accept x with chance p(x) / q(x), else draw from the normalised [p - q].

Accepts more sampled drafts than ``coupled``. The law of the text is the target's own, but a seed's text changes with
depth and speculator. A draft that comes without its law q counts as sure.
"""

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from ..rejection import Rejection

LOSSLESS = True


def build(config: Any = None) -> "Rejection":
    """The rule takes no settings."""
    from ..rejection import Rejection

    return Rejection("token")
