"""paceline: an LLM serving engine in which small models draft and the big model verifies.

Public names are imported on first use, so that ``import paceline`` costs nothing.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from .actors.client import EngineClient as EngineClient
    from .engine.config import Config as Config
    from .engine.types import SamplingParams as SamplingParams

__version__ = "0.1.0"
__all__ = ["Config", "EngineClient", "SamplingParams", "__version__"]

_HOMES = {
    "EngineClient": ".actors.client",
    "Config": ".engine.config",
    "SamplingParams": ".engine.types",
}


def __getattr__(name: str) -> Any:
    home = _HOMES.get(name)
    if home is None:
        raise AttributeError(f"module 'paceline' has no attribute {name!r}")
    return getattr(import_module(home, __name__), name)
