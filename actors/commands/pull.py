"""``paceline pull MODEL...``: fetch models, or their newest revision."""

import argparse
import sys

from ...engine.store import card, resolve
from ...engine.store.download import size_text
from .. import terminal


def run(args: argparse.Namespace) -> int:
    """Fetch each model and print where it is."""
    for name in args.models:
        with terminal.progress() as report:
            located = resolve.locate(name, progress=report, refresh=True)
        quant = card.quantization(located)
        where = located.files[0] if len(located.files) == 1 else located.folder
        sys.stdout.write(f"{name}: {size_text(sum(located.sizes))}, {quant}, {where}\n")
    return 0
