"""Requests of a batch to a server that runs already, over connections that are kept; one thread each while it waits."""

import http.client
from collections import deque
from urllib.parse import urlsplit

import anyio
import anyio.to_thread

from ...engine.errors import ConfigError
from .driver import Reply, Unreachable

_ANSWER_S = 3600.0
"""The server has its own limit, which is shorter; this one is for a network that is gone."""


class OverHttp:
    """A ``Way`` to ``url``, which may end with ``/v1`` as OpenAI's clients want it.

    Raises:
        ConfigError: it is no URL of a server.
    """

    def __init__(self, url: str, limit: int, api_key: str | None) -> None:
        self.limit = limit
        try:
            parts = urlsplit(url if "://" in url else f"http://{url}")
            host, port = parts.hostname, parts.port
        except ValueError:
            host, port = None, None
            parts = urlsplit("")
        if not host or parts.scheme not in ("http", "https") or parts.query or parts.fragment:
            raise ConfigError(f"--url {url}: is no address of a server; pass one such as http://127.0.0.1:8000")
        self._host, self._port = host, port
        self._kind = http.client.HTTPSConnection if parts.scheme == "https" else http.client.HTTPConnection
        self._path = parts.path.rstrip("/").removesuffix("/v1")
        self._headers = {"content-type": "application/json", "user-agent": "paceline-batch"}
        if api_key:
            self._headers["authorization"] = f"Bearer {api_key}"
        self._idle: deque[http.client.HTTPConnection] = deque()
        self._threads = anyio.CapacityLimiter(limit)

    async def post(self, url: str, body: bytes) -> Reply:
        """See ``Way``. When cancelled, the thread is left to its own devices: the process is about to end."""
        return await anyio.to_thread.run_sync(
            self._post, self._path + url, body, abandon_on_cancel=True, limiter=self._threads
        )

    def _post(self, path: str, body: bytes) -> Reply:
        """On a connection that was kept, or a new one; the server may have closed the kept one meanwhile."""
        if self._idle:
            connection = self._idle.pop()
            try:
                return self._exchange(connection, path, body)
            except (http.client.RemoteDisconnected, ConnectionError):
                connection.close()
        connection = self._kind(self._host, self._port, timeout=_ANSWER_S)
        try:
            return self._exchange(connection, path, body)
        except (http.client.HTTPException, OSError) as e:
            connection.close()
            raise Unreachable(f"{self._host}: {e or type(e).__name__}") from e

    def _exchange(self, connection: http.client.HTTPConnection, path: str, body: bytes) -> Reply:
        connection.request("POST", path, body, self._headers)
        answer = connection.getresponse()
        content = answer.read()
        reply = Reply(
            answer.status, answer.headers.get("x-request-id", ""), content, _seconds(answer.headers.get("retry-after"))
        )
        if answer.will_close:
            connection.close()
        else:
            self._idle.append(connection)
        return reply


def _seconds(text: str | None) -> float | None:
    """A ``retry-after`` in seconds; one that is a date is left to our own patience."""
    return float(text) if text is not None and text.isdigit() else None
