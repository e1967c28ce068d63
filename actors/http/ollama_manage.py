"""Ollama's routes that change which models are on this machine: create, copy, delete.

None of them moves weights. A model that is made or copied is a Modelfile that names another one; only where
``server.model_management`` is on.
"""

import anyio.to_thread
from starlette.requests import Request
from starlette.responses import Response

from ...engine.errors import InvalidRequestError
from ..model_store import Wish
from .limits import BodyDecoder
from .ollama import is_same, json_line
from .ollama_fields import CopyBody, CreateBody
from .ollama_models import check_may_manage, model_name, read_body_as, read_model_body
from .openai_calls import unsupported
from .service import Service
from .stream import LINES_TYPE
from .tokenization import json_response

_COPY, _CREATE = BodyDecoder(CopyBody), BodyDecoder(CreateBody)
_UNSUPPORTED = ("files", "adapters", "quantize", "modelfile")
_NO_EFFECT = ("renderer", "parser")


class OllamaManage:
    """The routes."""

    def __init__(self, service: Service) -> None:
        self._service = service

    async def create(self, request: Request) -> Response:
        """Make a model of one that is here. It is done at once; a stream's lines come together."""
        check_may_manage(self._service)
        body: CreateBody = await read_body_as(_CREATE, request.scope, request.receive)
        name = model_name(body)
        for field in _UNSUPPORTED:
            if getattr(body, field):
                raise unsupported(field)
        if not body.source:
            raise InvalidRequestError("from is missing; name the model to start from", param="from")
        if body.template and "{%" not in body.template:
            what = "template is in Go's language, which is not run here"
            raise InvalidRequestError(f"{what}; leave it out to use the model's own, or send Jinja", param="template")
        license_ = body.license if isinstance(body.license, list) else [body.license or ""]
        base, is_served = self._base(body.source)
        wish = Wish(
            base=base, is_served=is_served, system=body.system, template=body.template or "",
            parameters=body.parameters or {}, messages=body.messages or [], license="\n".join(license_),
            draft=body.draft or "",
        )  # fmt: skip
        ignored = await anyio.to_thread.run_sync(self._service.store.create, name, wish)
        ignored += [field for field in _NO_EFFECT if getattr(body, field)]
        headers = {"x-paceline-ignored": ", ".join(ignored[:10])} if ignored else {}
        if body.stream is False:
            return json_response({"status": "success"}, 200, headers)
        steps = ("reading model metadata", "writing manifest", "success")
        lines = b"".join(json_line({"status": step}) for step in steps)
        return Response(lines, headers=headers, media_type=LINES_TYPE.decode())

    async def copy(self, request: Request) -> Response:
        """Give a model a second name."""
        check_may_manage(self._service)
        body: CopyBody = await read_body_as(_COPY, request.scope, request.receive)
        if not body.source or not body.destination:
            missing = "destination" if body.source else "source"
            raise InvalidRequestError(f"{missing} is missing; name a model", param=missing)
        base, is_served = self._base(body.source)
        await anyio.to_thread.run_sync(self._service.store.copy, base, body.destination, is_served)
        return Response(status_code=200)

    async def delete(self, request: Request) -> Response:
        """Delete a model that is not the served one."""
        check_may_manage(self._service)
        name = model_name(await read_model_body(request.scope, request.receive))
        if is_same(name, self._service.model_name):
            raise InvalidRequestError(f"{name} is being served; stop the server first", param="model")
        await anyio.to_thread.run_sync(self._service.store.remove, name)
        return Response(status_code=200)

    def _base(self, name: str) -> tuple[str, bool]:
        """The name of a model to build on, and whether the server's owner gave it: that one may be a path."""
        is_served = is_same(name, self._service.model_name)
        return self._service.config.model if is_served else name, is_served
