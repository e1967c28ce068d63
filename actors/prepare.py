"""What ``serve`` and ``run`` do alike before any process starts: config, then files, then the card."""

import argparse
import json
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import msgspec

from ..engine import config
from ..engine.config import Config
from ..engine.errors import ConfigError, StoreError
from ..engine.store import card, resolve
from ..engine.store.located import Located, ModelCard
from ..engine.store.preset import Preset
from . import terminal
from .output_format import format_of

_MAX_TEMPLATE = 1 << 20


def load_config(args: argparse.Namespace, first: Sequence[str] = (), below: Mapping[str, Any] | None = None) -> Config:
    """The config of a command line: file, environment, ``first``, flags in their order, and the model named last.

    ``below`` are values for keys that none of them sets.

    Raises:
        ConfigError: one line that says what is wrong and where.
    """
    overrides = [*first, *args.overrides]
    name = args.model or getattr(args, "model_flag", None)
    if name:
        overrides.append(f"model={json.dumps(name)}")
    loaded = config.load(args.config, overrides, below=below)
    if args.revision:
        loaded = msgspec.structs.replace(loaded, model=f"{loaded.model}@{args.revision}")
    return loaded


def load_model(args: argparse.Namespace, loaded: Config) -> tuple[Located, ModelCard]:
    """The model's files, fetched where needed with progress on stderr, and its card. What has no effect is noted there.

    Raises:
        PacelineError: no such model, a failed fetch, a damaged file, a prompt template that cannot be run; one line
            with the remedy.
    """
    template = _template(args.chat_template) if args.chat_template else None
    with terminal.progress() as report:
        located = resolve.locate(loaded.model, progress=report)
    found = card.read(located)
    if template is not None:
        found = msgspec.structs.replace(found, chat_template=template)
    format_of(found, loaded)  # a parser that is not known is told before any process starts
    preset = located.preset or Preset()
    if preset.needs_template and found.chat_template is None:
        what = "its prompt template is in Go's language, which is not run here, and its weights bring none of their own"
        raise StoreError(f"{located.name}: {what}; pass a Jinja one: --chat-template FILE")
    for note in preset.notes:
        sys.stderr.write(f"paceline: {note}\n")
    return located, found


def with_model_settings(
    args: argparse.Namespace, loaded: Config, located: Located, found: ModelCard, first: Sequence[str] = ()
) -> Config:
    """``loaded`` with what comes with the model, a Modelfile's num_ctx or DRAFT, for keys that nothing else sets.

    Raises:
        ConfigError: a value that the config does not take.
    """
    keys = located.preset.config_keys() if located.preset is not None else {}
    if not keys:
        return loaded
    if (context := keys.get("target.max_model_len", 0)) > found.model.max_position:
        sys.stderr.write(f"paceline: num_ctx {context} is more than the model's own {found.model.max_position} tokens, "
                         "which are used\n")  # fmt: skip
        del keys["target.max_model_len"]
    return load_config(args, first, keys)


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
