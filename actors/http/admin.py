"""Routes that change how the server runs. Only where its owner allows it: ``--enable-admin``."""

from starlette.requests import Request
from starlette.responses import Response

from ...engine.errors import InvalidRequestError
from .errors import HttpError
from .service import Service
from .tokenization import json_response

_UNSUPPORTED = {
    "/v1/load_lora_adapter": "adapters are not supported in this version; merge the adapter into the model",
    "/v1/unload_lora_adapter": "adapters are not supported in this version; merge the adapter into the model",
    "/sleep": "the engine cannot sleep in this version; stop the server to free its memory",
    "/wake_up": "the engine cannot sleep in this version, so it is always awake",
}


class AdminRoutes:
    """The handlers."""

    def __init__(self, service: Service) -> None:
        self._service = service

    async def reset_prefix_cache(self, request: Request) -> Response:
        """Have later calls compute their prompts anew. Calls that run keep what they have."""
        self._check_may()
        self._service.bounds()  # nobody answers before the model is loaded
        return json_response({"num_blocks": await self._service.engine.reset_prefix_cache()})

    async def unsupported(self, request: Request) -> Response:
        """A route of vLLM's for which the engine has nothing."""
        self._check_may()
        raise InvalidRequestError(_UNSUPPORTED[request.scope["path"]], code="route_unsupported")

    def _check_may(self) -> None:
        """Refuse, unless the server's owner allows it.

        Raises:
            HttpError: 403.
        """
        if not self._service.config.server.admin:
            raise HttpError(403, "clients may not change how this server runs; serve with --enable-admin",
                            code="route_disabled", type="permission_error")  # fmt: skip
