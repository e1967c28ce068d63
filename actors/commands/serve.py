"""``paceline serve``: config, model, card, then the processes."""

import argparse

from .. import prepare
from ..serve import serve


def run(args: argparse.Namespace) -> int:
    """Serve until a signal; the exit status is the server's."""
    loaded = prepare.load_config(args)
    located, card = prepare.load_model(args, loaded)
    return serve(prepare.with_model_settings(args, loaded, located, card), located, card, words=args.words)
