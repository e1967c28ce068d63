"""What ``serve`` and ``run`` do alike before any process starts: config, then files, then the card."""

import argparse
import json
from collections.abc import Sequence
from pathlib import Path

import msgspec

from ..engine import config
from ..engine.config import Config
from ..engine.errors import ConfigError
from ..engine.store import card, resolve
from ..engine.store.located import Located, ModelCard
from . import terminal
from .output_format import format_of

_MAX_TEMPLATE = 1 << 20


def load_config(args: argparse.Namespace, first: Sequence[str] = ()) -> Config:
    """The config of a command line: file, environment, ``first``, flags in their order, and the model named last.

    Raises:
        ConfigError: one line that says what is wrong and where.
    """
    overrides = [*first, *args.overrides]
    name = args.model or getattr(args, "model_flag", None)
    if name:
        overrides.append(f"model={json.dumps(name)}")
    loaded = config.load(args.config, overrides)
    if args.revision:
        loaded = msgspec.structs.replace(loaded, model=f"{loaded.model}@{args.revision}")
    return loaded


def load_model(args: argparse.Namespace, loaded: Config) -> tuple[Located, ModelCard]:
    """The model's files, fetched where needed with progress on stderr, and its card.

    Raises:
        PacelineError: no such model, a failed fetch, a damaged file; one line with the remedy.
    """
    template = _template(args.chat_template) if args.chat_template else None
    with terminal.progress() as report:
        located = resolve.locate(loaded.model, progress=report)
    found = card.read(located)
    if template is not None:
        found = msgspec.structs.replace(found, chat_template=template)
    format_of(found, loaded)  # a parser that is not known is told before any process starts
    return located, found


def _template(path: str) -> str:
    try:
        text = Path(path).read_bytes()[: _MAX_TEMPLATE + 1].decode()
    except OSError as e:
        raise ConfigError(f"--chat-template {path}: cannot be read ({e.strerror or e}); pass a Jinja file") from e
    except UnicodeDecodeError as e:
        raise ConfigError(f"--chat-template {path}: is not UTF-8 at byte {e.start}; save it as UTF-8") from e
    if len(text) > _MAX_TEMPLATE:
        raise ConfigError(f"--chat-template {path}: is larger than {_MAX_TEMPLATE} characters; pass a template")
    return text
