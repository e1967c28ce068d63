"""The chat page at ``/``: one file without outside parts, and a policy under which a browser would not fetch any."""

from base64 import b64encode
from hashlib import sha256
from importlib.resources import files

_NAME = "page.html"


class Page:
    """The file and the headers it is served with."""

    def __init__(self) -> None:
        self.html = files(__package__ or "").joinpath(_NAME).read_bytes()
        self.headers = {
            "content-type": "text/html; charset=utf-8",
            "cache-control": "no-cache",
            "content-security-policy": self._policy(),
            "x-content-type-options": "nosniff",
            "referrer-policy": "no-referrer",
        }

    def _policy(self) -> str:
        """Only this file's own script runs, and only this server is talked to."""
        script = self.html.split(b"<script>")[1].split(b"</script>")[0]
        digest = b64encode(sha256(script).digest()).decode()
        return (
            f"default-src 'none'; script-src 'sha256-{digest}'; style-src 'unsafe-inline'; connect-src 'self'; "
            "img-src data:; base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
        )
