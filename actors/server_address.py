"""Where the server is that ``ps`` and ``stop`` ask, and asking it. Standard library only: nothing is started for it."""

import json
import urllib.error
import urllib.request
from collections.abc import Mapping
from typing import Any, NamedTuple
from urllib.parse import urlsplit

from ..engine.errors import ConfigError, PacelineError

DEFAULT_HOST, DEFAULT_PORT = "127.0.0.1", 8000
_OLLAMAS_PORT = 11434
_TIMEOUT_S = 5.0
_MAX_BYTES = 16 << 20


class Address(NamedTuple):
    """A server's address."""

    host: str
    port: int
    scheme: str = "http"

    @property
    def url(self) -> str:
        """Without a slash at its end."""
        return f"{self.scheme}://{f'[{self.host}]' if ':' in self.host else self.host}:{self.port}"


def find(host: str | None, port: int | None, environ: Mapping[str, str]) -> Address:
    """From flags; else from OLLAMA_HOST, as Ollama's own commands read it; else where ``serve`` listens by default.

    Raises:
        ConfigError: OLLAMA_HOST is no address.
    """
    told = environ.get("OLLAMA_HOST", "").strip()
    found = parse(told) if told and host is None and port is None else Address(DEFAULT_HOST, DEFAULT_PORT)
    host = host or found.host
    if host in ("0.0.0.0", "::"):  # where it listens, not where it can be reached
        host = DEFAULT_HOST
    return Address(host, port or found.port, found.scheme)


def parse(text: str) -> Address:
    """``host``, ``host:port``, ``:port`` or a URL.

    Raises:
        ConfigError: it is none.
    """
    try:
        parts = urlsplit(text if "://" in text else f"//{text}", scheme="")
        port = parts.port
    except ValueError as e:
        raise ConfigError(f"OLLAMA_HOST={text}: {e}; set it to a host and port, such as 127.0.0.1:8000") from e
    if parts.scheme not in ("", "http", "https"):
        raise ConfigError(
            f"OLLAMA_HOST={text}: {parts.scheme} is not spoken; set it to an address such as 127.0.0.1:8000"
        )
    default = {"": _OLLAMAS_PORT, "http": 80, "https": 443}[parts.scheme]
    return Address(parts.hostname or DEFAULT_HOST, port or default, parts.scheme or "http")


def get(address: Address, path: str, api_key: str | None = None) -> Any:
    """The JSON that a GET answers.

    Raises:
        PacelineError: nobody listens there, or the answer is an error or no JSON; one line.
    """
    request = urllib.request.Request(address.url + path)
    if api_key:
        request.add_header("Authorization", f"Bearer {api_key}")
    # No proxy: the server is on this machine or in this network.
    opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))
    try:
        with opener.open(request, timeout=_TIMEOUT_S) as answer:
            return json.loads(answer.read(_MAX_BYTES))
    except urllib.error.HTTPError as e:
        with e:
            text = _error_text(e.read(_MAX_BYTES))
        remedy = "; pass --api-key KEY" if e.code == 401 else ""
        raise PacelineError(f"{address.url}{path} answered {e.code}: {text}{remedy}") from e
    except (OSError, TimeoutError) as e:
        reason = getattr(e, "reason", e)
        why = getattr(reason, "strerror", None) or reason
        raise PacelineError(
            f"nothing answers at {address.url} ({why}); start it with paceline serve, or pass --host and --port"
        ) from e
    except ValueError as e:
        raise PacelineError(f"{address.url}{path} answered no JSON; is another program on that port?") from e


def _error_text(raw: bytes) -> str:
    try:
        error = json.loads(raw)["error"]
        return str(error["message"] if isinstance(error, dict) else error)[:300]
    except (ValueError, KeyError, TypeError):
        return "no reason given"
