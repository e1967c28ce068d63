"""``paceline upgrade``: serve in the place of a server of this machine, which ends when its calls are answered."""

import argparse
import os
import sys
from collections.abc import Sequence

from ...engine.errors import ConfigError, PacelineError
from .. import cli, prepare
from ..handover import Predecessor, take
from ..serve import serve

_ADDRESS = ("--host", "--port")


def run(args: argparse.Namespace) -> int:
    """Serve until a signal; the exit status is the server's. Until it can, the old server serves as if nothing was."""
    port = prepare.load_config(args).server.port
    with take(port) as old:
        sys.stderr.write(f"paceline: pid {old.pid} (version {old.version}) serves port {port} until this one can\n")
        try:
            return _serve(args, old)
        except PacelineError as e:
            raise type(e)(f"{e}; pid {old.pid} goes on serving") from e


def _serve(args: argparse.Namespace, old: Predecessor) -> int:
    words = args.words
    if not _says_what(words):
        words = old.words
        args = _again(old)
    loaded = prepare.load_config(args)
    located, card = prepare.load_model(args, loaded)
    config = prepare.with_model_settings(args, loaded, located, card)
    status = serve(config, located, card, words=words, predecessor=old)
    if not old.has_retired:
        sys.stderr.write(f"paceline: pid {old.pid} goes on serving\n")
    return status


def _says_what(words: Sequence[str]) -> bool:
    """Whether a command line tells what to serve, not only where."""
    left = list(words)
    while left:
        name, equals, _ = left.pop(0).partition("=")
        if name not in _ADDRESS:
            return True
        if not equals and left:
            left.pop(0)
    return False


def _again(old: Predecessor) -> argparse.Namespace:
    """The old server's command line, in its folder.

    Raises:
        ConfigError: its folder is gone, or this version does not take that line.
    """
    try:
        os.chdir(old.cwd)
        args = cli.parse("serve", old.words)
    except OSError as e:
        raise ConfigError(f"the folder of pid {old.pid}, {old.cwd}, cannot be entered ({e.strerror}); "
                          "name the model and its flags") from e  # fmt: skip
    except cli.UsageError as e:
        raise ConfigError(f"{e}; pid {old.pid} was started so: name the model and its flags") from e
    if args is None:
        raise ConfigError(f"pid {old.pid} does not tell how it was started; name the model and its flags")
    return args
