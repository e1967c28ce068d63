"""``paceline ls``: the models on this machine, and the library names that could be fetched."""

import argparse
import sys

import msgspec

from ...engine.errors import PacelineError
from ...engine.store import card, catalog, inventory
from ...engine.store.download import size_text
from ...engine.store.inventory import Stored
from .. import terminal


def run(args: argparse.Namespace) -> int:
    """Print a table, or JSON."""
    found = inventory.models()
    if args.json:
        rows = [
            {
                "name": s.name,
                "quant": _quant(s),
                "size_bytes": s.size_bytes,
                "source": s.source,
                "path": s.path,
                "modified_s": s.modified_s,
            }
            for s in found
        ]
        sys.stdout.write(msgspec.json.format(msgspec.json.encode(rows)).decode() + "\n")
        return 0
    if found:
        rows = [
            [s.name, _quant(s), size_text(s.size_bytes), s.source, terminal.date_text(s.modified_s), s.path]
            for s in found
        ]
        sys.stdout.write(terminal.table(["NAME", "QUANT", "SIZE", "SOURCE", "MODIFIED", "PATH"], rows))
    here = {s.name for s in found}
    rest = [e.name for e in catalog.entries() if e.name not in here]
    if rest:
        sys.stdout.write(f"{'also ' if found else 'no models here yet; '}to pull: {', '.join(rest)}\n")
    return 0


def _quant(stored: Stored) -> str:
    try:
        return card.quantization(stored.located)
    except PacelineError:
        return "damaged"  # one bad file must not hide the others; run and show say what is wrong
