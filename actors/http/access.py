"""Who may call: API keys, and pages of other origins. Everything is refused that is not on a list here.

The path is taken from ``scope["path"]``: a URL put together with the Host header is the client's to choose.
"""

from hashlib import sha256
from ipaddress import ip_address
from secrets import compare_digest
from urllib.parse import urlsplit

from starlette.types import Scope

from ...engine.config import Server
from .errors import Header, HttpError

OPEN_PATHS = frozenset(["/health", "/ready", "/live", "/ping", "/metrics"])
"""Answered without a key, to GET and HEAD."""
_LOCAL_NAMES = frozenset(["localhost", "127.0.0.1", "::1"])


class Access:
    """The checks of every request, before its body is read."""

    def __init__(self, server: Server) -> None:
        self._digests = [sha256(key.encode()).digest() for key in server.api_keys]
        self._origins = frozenset(server.allowed_origins)
        self._is_local = is_loopback(server.host)

    @property
    def has_keys(self) -> bool:
        """Whether callers need one."""
        return bool(self._digests)

    def check(self, scope: Scope) -> None:
        """Let pass or refuse.

        Raises:
            HttpError: 401 or 403.
        """
        origin = header(scope, b"origin")
        if origin and self._is_local and not self._may(origin) and not _is_local_origin(origin):
            what = "pages of other origins may not call a server on a loopback address"
            raise HttpError(403, f"{what}; list yours in server.allowed_origins", code="origin_refused",
                            type="permission_error")  # fmt: skip
        if not self._digests or (scope["path"] in OPEN_PATHS and scope["method"] in ("GET", "HEAD")):
            return
        if not self.knows(scope):
            raise HttpError(
                401,
                "the API key is missing or wrong; send it as Authorization: Bearer KEY",
                code="invalid_api_key",
                type="authentication_error",
                headers=((b"www-authenticate", b"Bearer"),),
            )

    def knows(self, scope: Scope) -> bool:
        """Whether the request brings a key of ours. Compares with all keys, so that time tells nothing."""
        scheme, _, token = header(scope, b"authorization").partition(b" ")
        given = token.strip() if scheme.lower() == b"bearer" else header(scope, b"x-api-key")
        digest, found = sha256(given).digest(), False
        for known in self._digests:
            found |= compare_digest(digest, known)
        return found

    def preflight(self, scope: Scope) -> list[Header] | None:
        """Headers of the answer to a browser's preflight request, if this is one that we allow."""
        if scope["method"] != "OPTIONS" or not header(scope, b"access-control-request-method"):
            return None
        if not self.cors(scope):  # which every answer gets
            return None
        asked = header(scope, b"access-control-request-headers") or b"authorization, content-type"
        return [
            (b"access-control-allow-methods", b"GET, POST"),
            (b"access-control-allow-headers", asked),
            (b"access-control-max-age", b"600"),
        ]

    def cors(self, scope: Scope) -> list[Header]:
        """Headers that let a page of an allowed origin read the answer."""
        origin = header(scope, b"origin")
        if not origin or not self._may(origin):
            return []
        return [(b"access-control-allow-origin", origin), (b"vary", b"origin")]

    def _may(self, origin: bytes) -> bool:
        return "*" in self._origins or origin.decode("latin-1") in self._origins


def header(scope: Scope, name: bytes) -> bytes:
    """The first header of this name, or nothing."""
    return next((value for key, value in scope["headers"] if key == name), b"")


def is_loopback(host: str) -> bool:
    """Whether only this machine reaches ``host``."""
    if host in _LOCAL_NAMES:
        return True
    try:
        return ip_address(host).is_loopback
    except ValueError:
        return False


def _is_local_origin(origin: bytes) -> bool:
    try:
        return is_loopback(urlsplit(origin.decode("latin-1")).hostname or "")
    except ValueError:
        return False
