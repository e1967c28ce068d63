"""``paceline version``."""

import argparse
import platform
import sys
from importlib.metadata import PackageNotFoundError
from importlib.metadata import version as installed

from ... import __version__


def run(args: argparse.Namespace) -> int:
    """Print our version, and those of what decides speed and results; imports none of it."""
    parts = [f"Python {platform.python_version()}"]
    for name in ("torch", "triton"):
        try:
            parts.append(f"{name} {installed(name)}")
        except PackageNotFoundError:
            continue
    sys.stdout.write(f"paceline {__version__} ({', '.join(parts)}, {platform.machine()})\n")
    return 0
