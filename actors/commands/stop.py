"""``paceline stop``: end the server on a port of this machine, as Ctrl-C in its terminal would."""

import argparse
import os
import signal
import sys

from ...engine.errors import PacelineError
from .. import listen, server_address

_MOST_S = 600.0


def run(args: argparse.Namespace) -> int:
    """Signal the server and wait until it has answered its open calls and is gone.

    Only a process that serves with paceline is ended, whatever else holds the port.
    """
    import psutil

    address = server_address.find(args.host, args.port, os.environ)
    process = listen.owner(address.port)
    if process is None:
        raise PacelineError(f"no server of yours listens on port {address.port}; pass --port, see: paceline ps")
    name = listen.name_of(process)
    if not name.startswith("paceline serve"):
        raise PacelineError(f"port {address.port} belongs to pid {process.pid} ({name}), which is no paceline serve")
    try:
        process.send_signal(signal.SIGTERM)
        process.wait(_MOST_S)
    except psutil.NoSuchProcess:
        pass
    except psutil.AccessDenied as e:
        raise PacelineError(f"pid {process.pid} ({name}) is another user's; ask them to stop it") from e
    except psutil.TimeoutExpired as e:
        raise PacelineError(f"pid {process.pid} still answers calls after {_MOST_S:g} s; run this again") from e
    sys.stdout.write(f"the server on port {address.port} (pid {process.pid}) has ended\n")
    return 0
