"""/tokenize, /detokenize and /tokenizer_info: how this server's tokenizer reads, for those who count and debug."""

from typing import Any
from uuid import uuid4

import msgspec
from starlette.requests import Request
from starlette.responses import Response

from ...engine.errors import InvalidRequestError
from ..messages import Chat, Detokenize, Tokenize
from .limits import BodyDecoder, check_content_type, read_body
from .openai_calls import check_ids
from .openai_chat_calls import parse_conversation
from .openai_fields import ChatBody
from .parsed_call import Bounds
from .service import Service


class TokenizeBody(msgspec.Struct, frozen=True, kw_only=True):
    """Text, or a conversation."""

    model: str | None = None
    prompt: str | None = None
    messages: list[Any] | None = None
    add_special_tokens: bool | None = None
    add_generation_prompt: bool | None = None
    continue_final_message: bool | None = None
    tools: list[Any] | None = None
    chat_template_kwargs: dict[str, Any] | None = None
    return_token_strs: bool | None = None


class DetokenizeBody(msgspec.Struct, frozen=True, kw_only=True):
    """Ids."""

    model: str | None = None
    tokens: list[int] | None = None


class TokenRoutes:
    """The handlers."""

    def __init__(self, service: Service) -> None:
        self._service = service
        self._texts = BodyDecoder(TokenizeBody)
        self._ids = BodyDecoder(DetokenizeBody)

    async def tokenize(self, request: Request) -> Response:
        """Ids of a text or of a conversation as the chat template renders it."""
        body, bounds = await self._read(request, self._texts)
        if (body.prompt is None) == (body.messages is None):
            raise InvalidRequestError("send either prompt or messages", param="prompt")
        chat = None if body.messages is None else _chat(body, bounds)
        special = chat is None if body.add_special_tokens is None else body.add_special_tokens
        asked = Tokenize(uuid4().hex, body.prompt, chat, special)
        told = await self._service.engine.tokenize(asked)
        return json_response(
            {
                "count": len(told.token_ids),
                "max_model_len": bounds.max_model_len,
                "tokens": told.token_ids,
                "token_strs": told.token_strs if body.return_token_strs else None,
            }
        )

    async def detokenize(self, request: Request) -> Response:
        """The text of ids, control tokens included."""
        body, bounds = await self._read(request, self._ids)
        if body.tokens is None:
            raise InvalidRequestError("tokens is missing; send a list of token ids", param="tokens")
        check_ids("tokens", body.tokens, bounds.logits_width, None)
        told = await self._service.engine.detokenize(Detokenize(uuid4().hex, body.tokens))
        return json_response({"prompt": told.text})

    async def info(self, request: Request) -> Response:
        """What evaluation harnesses ask before they send ids; named as in a ``tokenizer_config.json``."""
        card = self._service.card
        names = ("bos_token", "eos_token", "unk_token", "pad_token")
        return json_response(
            {
                "tokenizer_class": "PreTrainedTokenizerFast",
                **{name: card.special_tokens.get(name) for name in names},
                "add_bos_token": card.add_bos,
                "chat_template": card.chat_template,
                "model_max_length": self._service.max_model_len,
            }
        )

    async def _read(self, request: Request, decoder: BodyDecoder) -> tuple[Any, Bounds]:
        check_content_type(request.scope)
        raw = await read_body(request.receive)
        bounds = self._service.bounds()
        body, _ = decoder.decode(raw)
        self._service.check_model(body.model)
        return body, bounds


def _chat(body: TokenizeBody, bounds: Bounds) -> Chat:
    asked = ChatBody(
        messages=body.messages,
        tools=body.tools,
        tool_choice=None if body.tools is None else "none",
        add_generation_prompt=body.add_generation_prompt,
        continue_final_message=body.continue_final_message,
        chat_template_kwargs=body.chat_template_kwargs,
    )
    return parse_conversation(asked, bounds)


def json_response(content: object, status: int = 200, headers: dict[str, str] | None = None) -> Response:
    """A whole JSON answer of a route that Starlette calls."""
    return Response(msgspec.json.encode(content), status, (headers or {}) | {"content-type": "application/json"})
