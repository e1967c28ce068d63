"""Who may call, and how often: API keys with their quotas, and pages of other origins. Refused is what no list names.

The path is taken from ``scope["path"]``: a URL put together with the Host header is the client's to choose.
"""

from hashlib import sha256
from ipaddress import ip_address
from secrets import compare_digest
from urllib.parse import urlsplit

from starlette.types import Scope

from ...engine.config import Server
from .errors import Header, HttpError
from .quotas import Quota

OPEN_PATHS = frozenset(["/health", "/ready", "/live", "/ping", "/metrics"])
"""Answered without a key, to GET and HEAD."""
_LOCAL_NAMES = frozenset(["localhost", "127.0.0.1", "::1"])


class Access:
    """The checks of every request, before its body is read."""

    def __init__(self, server: Server) -> None:
        self._holders = holders(server)
        self._origins = frozenset(server.allowed_origins)
        self._is_local = is_loopback(server.host)

    @property
    def has_keys(self) -> bool:
        """Whether callers need one."""
        return bool(self._holders)

    def check(self, scope: Scope) -> Quota | None:
        """Let pass or refuse. What the caller's key allows; None for those who need no key.

        Raises:
            HttpError: 401 or 403.
        """
        origin = header(scope, b"origin")
        if origin and self._is_local and not self._may(origin) and not _is_local_origin(origin):
            what = "pages of other origins may not call a server on a loopback address"
            raise HttpError(403, f"{what}; list yours in server.allowed_origins", code="origin_refused",
                            type="permission_error")  # fmt: skip
        holder = self.holder(scope)
        if holder is None and self._holders and not _is_open(scope):
            raise HttpError(
                401,
                "the API key is missing or wrong; send it as Authorization: Bearer KEY",
                code="invalid_api_key",
                type="authentication_error",
                headers=((b"www-authenticate", b"Bearer"),),
            )
        return holder

    def holder(self, scope: Scope) -> Quota | None:
        """Whose key the request brings. Compares with all keys, so that time tells nothing."""
        scheme, _, token = header(scope, b"authorization").partition(b" ")
        given = token.strip() if scheme.lower() == b"bearer" else header(scope, b"x-api-key")
        digest, found = sha256(given).digest(), None
        for known, holder in self._holders:
            found = holder if compare_digest(digest, known) else found
        return found

    def preflight(self, scope: Scope) -> list[Header] | None:
        """Headers of the answer to a browser's preflight request, if this is one that we allow."""
        if scope["method"] != "OPTIONS" or not header(scope, b"access-control-request-method"):
            return None
        if not self.cors(scope):  # which every answer gets
            return None
        asked = header(scope, b"access-control-request-headers") or b"authorization, content-type"
        return [
            (b"access-control-allow-methods", b"GET, POST, DELETE"),
            (b"access-control-allow-headers", asked),
            (b"access-control-max-age", b"600"),
        ]

    def cors(self, scope: Scope) -> list[Header]:
        """Headers that let a page of an allowed origin read the answer."""
        origin = header(scope, b"origin")
        if not origin or not self._may(origin):
            return []
        exposed = b"x-request-id, x-paceline-ignored, retry-after, retry-after-ms"
        return [(b"access-control-allow-origin", origin), (b"access-control-expose-headers", exposed),
                (b"vary", b"origin")]  # fmt: skip

    def _may(self, origin: bytes) -> bool:
        return "*" in self._origins or origin.decode("latin-1") in self._origins


def holders(server: Server) -> list[tuple[bytes, Quota]]:
    """Digest and quota of each key. Those of ``api_keys`` have no names; the log numbers them."""
    most, rate = server.max_concurrent_per_key, server.requests_per_minute_per_key
    found = [
        (sha256(key.encode()).digest(), Quota(f"key{i}", most, rate)) for i, key in enumerate(server.api_keys, 1)
    ]
    for name, key in server.keys.items():
        digest = bytes.fromhex(key.sha256) if key.sha256 else sha256(key.key.encode()).digest()
        found.append((digest, Quota(name, key.max_concurrent or most, key.requests_per_minute or rate)))
    return found


def _is_open(scope: Scope) -> bool:
    """Health, and the chat page, which holds nothing of this server and asks for the key itself."""
    if scope["method"] not in ("GET", "HEAD"):
        return False
    return scope["path"] in OPEN_PATHS or (scope["path"] == "/" and wants_html(scope))


def wants_html(scope: Scope) -> bool:
    """Whether a browser asks."""
    return b"text/html" in header(scope, b"accept")


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
