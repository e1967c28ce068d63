"""``paceline check FILE``: is this config right?"""

import argparse
import sys

from ...engine import config


def run(args: argparse.Namespace) -> int:
    """Load the file as ``serve`` would and say so; errors name file and line."""
    loaded = config.load(args.file, args.overrides)
    sys.stdout.write(f"{args.file}: OK (model {loaded.model}, port {loaded.server.port})\n")
    return 0
