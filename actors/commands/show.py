"""``paceline show MODEL``: what a model is, from its headers alone."""

import argparse
import sys

import msgspec

from ...engine.store import card, resolve
from .. import describe
from ..as_modelfile import as_modelfile


def run(args: argparse.Namespace) -> int:
    """Print facts, the chat template, a Modelfile, or the card as JSON. Fetches nothing."""
    located = resolve.locate(args.model, download=False)
    found = card.read(located)
    if args.template:
        sys.stdout.write((found.chat_template or "") + "\n")
    elif args.modelfile:
        sys.stdout.write(as_modelfile(located, found))
    elif args.json:
        tree = {"card": msgspec.to_builtins(found), "located": msgspec.to_builtins(located)}
        sys.stdout.write(msgspec.json.format(msgspec.json.encode(tree)).decode() + "\n")
    else:
        sys.stdout.write(describe.lines(describe.facts(located, found)))
    return 0
