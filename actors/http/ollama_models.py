"""Ollama's routes that tell of models: tags, ps, show, version.

Listed is what a client can use: the served model. Where ``server.model_management`` is on, all models of this machine
are listed, and may be fetched (``ollama_pull.py``), made and deleted (``ollama_manage.py``).
"""

from typing import Any

import anyio.to_thread
import msgspec
from starlette.requests import Request
from starlette.responses import Response
from starlette.types import Receive, Scope

from ... import __version__
from ...engine.errors import InvalidRequestError
from ...engine.store.located import ModelCard
from ..messages import EngineState
from ..model_store import LocalModel, describe
from ..text.response.formats import resolve
from .access import header
from .errors import HttpError
from .limits import BodyDecoder, check_content_type, read_body
from .ollama import is_same, not_found, time_text
from .ollama_fields import ModelBody
from .service import Service
from .tokenization import json_response

_FOREVER = "9999-12-31T23:59:59Z"
"""When the served model will be unloaded."""
_MODELS = BodyDecoder(ModelBody)


class OllamaModels:
    """The routes that answer at once."""

    def __init__(self, service: Service) -> None:
        self._service = service

    async def version(self, request: Request) -> Response:
        """Ours; clients expect three integers."""
        return json_response({"version": __version__})

    async def tags(self, request: Request) -> Response:
        """The models that are here."""
        served = self._served()
        found = [served]
        if self._service.config.server.model_management:
            here = await anyio.to_thread.run_sync(self._service.store.models)
            found += [model for model in here if not is_same(model.name, served.name)]
        return json_response({"models": [_listed(model) for model in found]})

    async def ps(self, request: Request) -> Response:
        """The model that is loaded."""
        served, state = self._served(), self._service.engine.state
        more = {
            "expires_at": _FOREVER,
            "size_vram": 0 if _is_on_cpu(state) else served.size_bytes,
            "context_length": self._service.max_model_len,
        }
        return json_response({"models": [_listed(served) | more]})

    async def show(self, request: Request) -> Response:
        """What is known of a model."""
        name = model_name(await read_model_body(request.scope, request.receive))
        model = await self._find(name)
        if model.card is None:
            raise InvalidRequestError(f"model {name} is damaged here; pull it again", param="model")
        card = model.card
        told = {
            "license": card.license,
            "modelfile": model.modelfile,
            "parameters": "\n".join(f"{k:<30} {_quoted(v)}" for k, v in model.parameters),
            "template": card.chat_template or "",
            "details": _details(model),
            "model_info": _model_info(model),
            "capabilities": self._capabilities(card),
            "modified_at": time_text(model.modified_s),
        }
        # Ollama leaves these out where there is nothing to tell.
        more = {"system": card.system, "messages": card.messages}
        return json_response(told | {name: value for name, value in more.items() if value})

    def _capabilities(self, card: ModelCard) -> list[str]:
        """What clients look at before they offer tools or show reasoning. Each model here completes and embeds."""
        is_served = card is self._service.card
        known = self._service.format if is_served else resolve(card.chat_template or "", card.response_template)
        more = [("tools", known.knows_tools and known.reads_calls), ("thinking", known.reads_reasoning)]
        return ["completion", "embedding", *(name for name, has in more if has)]

    def _served(self) -> LocalModel:
        service = self._service
        if service.located is None:
            raise HttpError(404, "the served model has no files; see GET /v1/models", code="model_not_found")
        return describe(service.located, service.card, service.created, service.model_name)

    async def _find(self, name: str) -> LocalModel:
        served = self._served()
        if is_same(name, served.name):
            return served
        if self._service.config.server.model_management:
            for model in await anyio.to_thread.run_sync(self._service.store.models):
                if is_same(name, model.name):
                    return model
        raise not_found(name, served.name)


async def read_model_body(scope: Scope, receive: Receive) -> ModelBody:
    """The body of a route about one model."""
    return await read_body_as(_MODELS, scope, receive)


async def read_body_as(decoder: BodyDecoder, scope: Scope, receive: Receive) -> Any:
    """A body under any content type, as long as no page of a browser sends it."""
    if header(scope, b"origin"):
        check_content_type(scope)
    body, _ = decoder.decode(await read_body(receive))
    return body


def model_name(body: ModelBody) -> str:
    """The model that a body names.

    Raises:
        InvalidRequestError: none.
    """
    name = body.model or body.name
    if not name:
        raise InvalidRequestError("model is missing; name one", param="model")
    return name


def check_may_manage(service: Service) -> None:
    """Refuse to change what is on this machine, unless its owner allows it.

    Raises:
        HttpError: 403.
    """
    if not service.config.server.model_management:
        what = "clients may not manage this server's models"
        raise HttpError(403, f"{what}; serve with -s server.model_management=true", code="route_disabled",
                        type="permission_error")  # fmt: skip


def _is_on_cpu(state: EngineState | None) -> bool:
    return state is None or state.hello is None or state.hello.detail.get("device", "cpu").startswith("cpu")


def _listed(model: LocalModel) -> dict[str, Any]:
    return {
        "name": model.name,
        "model": model.name,
        "modified_at": time_text(model.modified_s),
        "size": model.size_bytes,
        "digest": model.digest,
        "details": _details(model),
    }


def _details(model: LocalModel) -> dict[str, Any]:
    family = _family(model)
    return {
        "parent_model": model.parent,
        "format": model.format,
        "family": family,
        "families": [family] if family else [],
        "parameter_size": _size_text(model.num_parameters) if model.card is not None else "",
        "quantization_level": model.card.quantization if model.card is not None else "",
    }


def _model_info(model: LocalModel) -> dict[str, Any]:
    """In the names of GGUF's metadata, whatever the format."""
    assert model.card is not None
    sizes, family = model.card.model, _family(model)
    return {
        "general.architecture": family,
        "general.parameter_count": model.num_parameters,
        f"{family}.context_length": sizes.max_position,
        f"{family}.embedding_length": sizes.hidden_size,
        f"{family}.block_count": sizes.num_layers,
        f"{family}.feed_forward_length": sizes.intermediate_size,
        f"{family}.attention.head_count": sizes.num_heads,
        f"{family}.attention.head_count_kv": sizes.num_kv_heads,
        f"{family}.vocab_size": sizes.vocab_size,
    }


def _family(model: LocalModel) -> str:
    return model.card.model.architecture.removesuffix("ForCausalLM").lower() if model.card is not None else ""


def _quoted(value: object) -> str:
    """A parameter's value as Ollama shows it: texts in quotation marks."""
    return msgspec.json.encode(value).decode() if isinstance(value, str) else str(value)


def _size_text(count: int) -> str:
    """``134.52M``, ``1.54B``, as Ollama writes it."""
    return f"{count / 1e9:.2f}B" if count >= 1e9 else f"{count / 1e6:.2f}M" if count >= 1e6 else f"{count / 1e3:.2f}K"
