"""``paceline create NAME -f Modelfile``: a model of one's own, made of another one."""

import argparse
import sys
from pathlib import Path

from ...engine.errors import ConfigError
from ...engine.store import card, created, modelfile, resolve
from .. import terminal


def run(args: argparse.Namespace) -> int:
    """Check the Modelfile, fetch what it is made of, and keep the text of it; weights are not copied."""
    full = created.check_name(args.name)
    path = Path(args.file).expanduser().absolute()
    found, text = created.read(path, args.file)
    base, draft = (created.anchored(name, path.parent) for name in (found.base, found.draft))
    with terminal.progress() as report:
        located = [resolve.locate(name, progress=report) for name in (base, draft) if name]
    model = card.read(located[0])
    for one in located[1:]:
        card.read(one)
    if found.preset.max_model_len > model.model.max_position:
        longest = f"{base} holds {model.model.max_position} tokens"
        raise ConfigError(f"{args.file}: PARAMETER num_ctx is {found.preset.max_model_len}, but {longest}; lower it")
    kept = created.write(full, modelfile.rebased(text, args.file, base, draft))
    located_now = resolve.locate(full)
    for note in located_now.preset.notes if located_now.preset is not None else []:
        sys.stderr.write(f"paceline: {note}\n")
    sys.stdout.write(f"{full}: made of {base}, kept in {kept}; try: paceline run {args.name}\n")
    return 0
