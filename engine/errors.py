"""The error tree. A user's mistake or a known shortage is one of these; anything else is a bug.

    PacelineError
    ├── ConfigError            a TOML file, flag or environment variable is wrong
    ├── StoreError             finding, fetching or checking model files
    │   ├── UnknownModelError  no source knows the name
    │   └── DownloadError      no network, no space, bad checksum
    ├── BadModelFileError      a weight file is truncated, hostile or of a kind we cannot read
    ├── InvalidRequestError    the request itself is wrong (HTTP 400, or 404 with kind ``not_found``)
    ├── UnavailableError       try again later: queue full, starting, draining (HTTP 503)
    ├── DeadlineError          the call's time is over (HTTP 504)
    ├── WireError              a message could not be decoded
    └── ActorError             an actor failed; carries its root cause

Every message names what, where, the bound, and one thing to do, in one line.
"""

from .types import ErrorInfo


class PacelineError(Exception):
    """Base of all errors that are shown to a person as one line without a traceback."""

    def info(self) -> ErrorInfo:
        """The wire form of this error."""
        return ErrorInfo(kind="internal", message=str(self), code="internal_error")


class ConfigError(PacelineError):
    """Bad configuration; the message starts with ``file:line:`` where known."""


class StoreError(PacelineError):
    """Model files could not be found, fetched or verified."""


class UnknownModelError(StoreError):
    """No source knows this model name."""


class DownloadError(StoreError):
    """A fetch failed: network, disk space or checksum."""


class BadModelFileError(PacelineError):
    """A model file is damaged, hostile or unsupported; names file and place."""


class InvalidRequestError(PacelineError):
    """The client's request is wrong; ``param`` is a dotted path into its body."""

    def __init__(
        self, message: str, *, param: str | None = None, code: str | None = None, not_found: bool = False
    ) -> None:
        super().__init__(message)
        self.param = param
        self.code = code
        self.not_found = not_found

    def info(self) -> ErrorInfo:
        kind = "not_found" if self.not_found else "invalid"
        return ErrorInfo(kind=kind, message=str(self), code=self.code, param=self.param)


class UnavailableError(PacelineError):
    """The engine cannot take the request now; ``retry_after_s`` is our best estimate."""

    def __init__(self, message: str, *, code: str, retry_after_s: float = 1.0) -> None:
        super().__init__(message)
        self.code = code
        self.retry_after_s = retry_after_s

    def info(self) -> ErrorInfo:
        return ErrorInfo(kind="unavailable", message=str(self), code=self.code, retry_after_s=self.retry_after_s)


class DeadlineError(PacelineError):
    """The call was not finished within its time."""

    def info(self) -> ErrorInfo:
        return ErrorInfo(kind="deadline", message=str(self), code="deadline_exceeded")


class WireError(PacelineError):
    """Bytes from a peer are not a message of ours."""


class ActorError(PacelineError):
    """An actor failed; the text is its root cause."""

    def __init__(self, message: str, *, code: str = "internal_error") -> None:
        super().__init__(message)
        self.code = code

    def info(self) -> ErrorInfo:
        return ErrorInfo(kind="internal", message=str(self), code=self.code)
