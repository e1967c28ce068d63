"""The routes that take no body: models, health, metrics, and what is at ``/``."""

from starlette.requests import Request
from starlette.responses import PlainTextResponse, Response

from ... import __version__
from ..stats import CONTENT_TYPE
from .access import Access, wants_html
from .errors import problem_of
from .page import Page
from .service import Service
from .tokenization import json_response


class PlainRoutes:
    """The routes that take no body."""

    def __init__(self, service: Service, access: Access) -> None:
        self._access = access
        self._page = Page()
        self._service = service

    async def models(self, request: Request) -> Response:
        """The served models."""
        return json_response({"object": "list", "data": [self._service.model()]})

    async def model(self, request: Request) -> Response:
        """One of them; its name may hold slashes."""
        self._service.check_model(request.path_params["id"])
        return json_response(self._service.model())

    async def health(self, request: Request) -> Response:
        """200 while every needed process makes progress."""
        if (error := self._service.health.why_not_healthy()) is not None:
            raise error
        return Response(status_code=200)

    async def ready(self, request: Request) -> Response:
        """200 while new work is taken; always with the state of the actors."""
        error = self._service.health.why_not_ready()
        report = self._service.health.report()
        if self._access.has_keys and self._access.holder(request.scope) is None:
            report = {"status": report["status"]}
        if error is None:
            return json_response(report)
        problem = problem_of(error)
        return json_response(
            report | problem.error(), problem.status, {k.decode(): v.decode() for k, v in problem.all_headers()}
        )

    async def live(self, request: Request) -> Response:
        """200 while this process answers at all."""
        return Response(status_code=200)

    async def version(self, request: Request) -> Response:
        """Our version."""
        return json_response({"version": __version__})

    async def load(self, request: Request) -> Response:
        """Requests in the engine."""
        return json_response({"server_load": self._service.calls.num_requests})

    async def metrics(self, request: Request) -> Response:
        """Prometheus text."""
        return Response(self._service.registry.render(), headers={"content-type": CONTENT_TYPE})

    async def root(self, request: Request) -> Response:
        """The chat page for a browser; for others the line that Ollama's clients look for."""
        if wants_html(request.scope):
            return Response(self._page.html, headers=self._page.headers)
        return PlainTextResponse("Ollama is running", headers={"vary": "accept"})
