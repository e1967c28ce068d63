"""Bind the HTTP port before anything else happens: a busy port must fail at once, before a model is loaded."""

import contextlib
import errno
import socket
from collections.abc import Iterable
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ..engine.errors import ConfigError

if TYPE_CHECKING:
    import psutil

BACKLOG = 2048


def bind(host: str, port: int) -> socket.socket:
    """A listening TCP socket; port 0 lets the system choose.

    Raises:
        ConfigError: one line with address, port, who holds it where that can be found, and what to do.
    """
    try:
        family, kind, proto, _, address = socket.getaddrinfo(
            host or None, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE
        )[0]
    except (socket.gaierror, UnicodeError) as e:
        raise ConfigError(f"host {host!r} is not an address of this machine: {e}; pass --host 127.0.0.1") from e
    listener = socket.socket(family, kind, proto)
    try:
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        listener.bind(address)
        listener.listen(BACKLOG)
    except OSError as e:
        listener.close()
        if e.errno == errno.EADDRINUSE:
            raise ConfigError(f"port {port} on {host} is in use{_owner(port)} or pass --port") from e
        if e.errno in (errno.EACCES, errno.EPERM):
            raise ConfigError(f"port {port} on {host} may not be used by this user; pass --port 8000") from e
        raise ConfigError(f"port {port} on {host} cannot be opened: {e.strerror}; pass --host or --port") from e
    listener.setblocking(False)
    return listener


def url(listener: socket.socket) -> str:
    """Where a client on this machine reaches it."""
    host, port = listener.getsockname()[:2]
    if host in ("0.0.0.0", "::"):
        host = "127.0.0.1"
    return f"http://[{host}]:{port}" if ":" in host else f"http://{host}:{port}"


def _owner(port: int) -> str:
    """`` by pid 123 (paceline serve); replace it with paceline upgrade, stop it`` where the system lets us see it."""
    process = owner(port)
    if process is None:
        return "; stop it"
    remedy = "replace it with paceline upgrade, stop it" if is_server(process) else "stop it"
    return f" by pid {process.pid} ({name_of(process)}); {remedy}"


def owner(port: int) -> "psutil.Process | None":
    """The process that listens on ``port``, where the system lets us see it; of a family, the first."""
    import psutil

    def listens(connections: Iterable[Any]) -> bool:
        return any(c.status == psutil.CONN_LISTEN and c.laddr[1:] == (port,) for c in connections)

    with contextlib.suppress(psutil.Error, OSError):
        pid = next((c.pid for c in psutil.net_connections("tcp") if c.pid and listens([c])), None)
        if pid is not None:
            process = psutil.Process(pid)
            while (parent := process.parent()) is not None and listens(parent.net_connections("tcp")):
                process = parent
            return process
    return None


def is_server(process: "psutil.Process") -> bool:
    """Whether it serves with paceline."""
    return name_of(process) in ("paceline serve", "paceline upgrade")


def name_of(process: "psutil.Process") -> str:
    """What a person calls it: ``paceline serve``; empty when it is gone."""
    import psutil

    with contextlib.suppress(psutil.Error):
        return _short_name(process.cmdline()) or process.name()
    return ""


def _short_name(command: list[str]) -> str:
    """``["/venv/bin/python3", "/venv/bin/paceline", "serve", ...]`` -> ``paceline serve``."""
    words = [Path(word).name for word in command[:3]]
    return " ".join(words[1:3] if words and words[0].startswith("python") else words[:2])
