"""``paceline ps``: what is served, and how busy it is."""

import argparse
import json
import os
import sys
from typing import Any

from ...engine.errors import PacelineError
from ...engine.store.download import size_text
from .. import server_address, terminal


def run(args: argparse.Namespace) -> int:
    """Ask the server for its models and print them; without one, that is an error."""
    address = server_address.find(args.host, args.port, os.environ)
    try:
        models = server_address.get(address, "/api/ps", args.api_key)["models"]
        if args.json:
            sys.stdout.write(json.dumps(models, indent=2) + "\n")
            return 0
        load = server_address.get(address, "/load", args.api_key).get("server_load", "")
        rows = [[*_row(model), str(load), address.url] for model in models]
    except (KeyError, TypeError, AttributeError) as e:
        raise PacelineError(f"{address.url}/api/ps answered something else; is another program on that port?") from e
    sys.stdout.write(terminal.table(["NAME", "QUANT", "SIZE", "CONTEXT", "DEVICE", "REQUESTS", "AT"], rows))
    return 0


def _row(model: dict[str, Any]) -> list[str]:
    size, on_gpu = model["size"], model["size_vram"]
    device = "CPU" if not on_gpu else "GPU" if on_gpu >= size else f"{100 * on_gpu // size} % GPU"
    return [
        model["name"],
        model["details"]["quantization_level"],
        size_text(size),
        str(model["context_length"]),
        device,
    ]
