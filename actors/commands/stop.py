"""``paceline stop``: end the server on a port of this machine, as Ctrl-C in its terminal would."""

import argparse
import contextlib
import os
import signal
import sys
import time

from ...engine.errors import PacelineError
from .. import listen, server_address

_MOST_S, _POLL_S = 600.0, 0.05


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
    if not listen.is_server(process):
        raise PacelineError(f"port {address.port} belongs to pid {process.pid} ({name}), which is no paceline server")
    with contextlib.suppress(psutil.NoSuchProcess):  # it was on its way out
        try:
            process.send_signal(signal.SIGTERM)
        except psutil.AccessDenied as e:
            raise PacelineError(f"pid {process.pid} ({name}) is another user's; ask them to stop it") from e
        end_s = time.monotonic() + _MOST_S
        # Its parent may not have fetched its status yet: then it is a zombie, and as good as gone.
        while process.is_running() and process.status() != psutil.STATUS_ZOMBIE:
            if time.monotonic() > end_s:
                raise PacelineError(f"pid {process.pid} still answers calls after {_MOST_S:g} s; run this again")
            time.sleep(_POLL_S)
    sys.stdout.write(f"the server on port {address.port} (pid {process.pid}) has ended\n")
    return 0
