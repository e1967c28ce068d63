"""``python serve_fakes.py PORT [DRAIN_S]``: a server of fake roles, so that its life can be tested from outside."""

import os
import sys

import msgspec
from fake_actors import CARD, ENTRIES, LOCATED, config

from paceline.actors import posts
from paceline.actors.serve import serve

if __name__ == "__main__":
    if delay_s := os.environ.get("FAKE_RESTART_DELAY_S"):
        posts.RESTART_DELAYS_S = (float(delay_s),)
    base = config()
    server = msgspec.structs.replace(
        base.server, port=int(sys.argv[1]), shutdown_timeout_s=float(sys.argv[2]) if len(sys.argv) > 2 else 10.0
    )
    sys.exit(serve(msgspec.structs.replace(base, server=server), LOCATED, CARD, entries=ENTRIES))
