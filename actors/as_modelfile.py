"""A model's settings as a Modelfile: for ``show --modelfile``, the conversation's ``/save``, and /api/show.

Paths in it are absolute, so that it holds wherever it is kept.
"""

from pathlib import Path
from typing import Any

import msgspec

from ..engine.store import created, modelfile, parameters
from ..engine.store.located import Located, ModelCard
from ..engine.store.preset import Preset

_HEAD = "write this to a file, then: paceline create NAME -f FILE"


def as_modelfile(located: Located, card: ModelCard) -> str:
    """FROM the model, behind it what it has set already: reading it again changes nothing.

    Raises:
        ConfigError: a text holds three quotation marks.
    """
    preset = msgspec.structs.replace(
        located.preset or Preset(), system=card.system or None, messages=card.messages, license=""
    )
    base = created.anchored(located.name, Path.cwd())
    return modelfile.write(base, preset, parameter_lines(located, card), head=_HEAD)


def parameter_lines(located: Located, card: ModelCard) -> list[tuple[str, Any]]:
    """(Ollama's name, value) of the model's sampling defaults and of the lengths that come with its name."""
    sizes = (located.preset or Preset()).parameter_lines()
    own = parameters.in_ollamas_words(card.defaults)
    return own + [pair for pair in sizes if pair[0] in ("num_ctx", "draft_num_predict")]
