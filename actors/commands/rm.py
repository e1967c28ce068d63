"""``paceline rm MODEL...``: delete what was fetched; never a user's own file."""

import argparse
import sys

from ...engine.store import inventory
from ...engine.store.download import size_text
from ..flags import UsageError


def run(args: argparse.Namespace) -> int:
    """Delete each model. Those in the Hugging Face cache, which other tools share, only after a yes or ``-y``."""
    found = [inventory.find(name) for name in args.models]
    for stored in found:
        if stored.source == "hub" and not args.yes and not _confirmed(stored):
            sys.stdout.write(f"{stored.name}: kept\n")
            continue
        freed = inventory.remove(stored)
        sys.stdout.write(f"{stored.name}: deleted, {size_text(freed)} freed\n")
    return 0


def _confirmed(stored: inventory.Stored) -> bool:
    if not sys.stdin.isatty():
        raise UsageError(
            f"rm: {stored.name} is in the Hugging Face cache, which other tools share; pass -y to delete it"
        )
    question = f"delete {stored.name} ({size_text(stored.size_bytes)}) from the Hugging Face cache? [y/N] "
    return input(question).strip().lower() in ("y", "yes")
