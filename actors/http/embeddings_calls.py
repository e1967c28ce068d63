"""A body that asks for vectors, of /v1/embeddings or of Ollama's routes, to a ``ParsedCall``."""

from typing import Any, Literal
from uuid import uuid4

import msgspec

from ...engine.errors import InvalidRequestError
from ..messages import Embed, Generate, Sampling
from .errors import describe
from .openai_calls import (
    check_prompts,
    check_range,
    check_request_id,
    check_salt,
    check_side,
    ignored_fields,
)
from .parsed_call import Bounds, ParsedCall

MAX_INPUTS = 2048
"""As many as OpenAI takes."""


class EmbeddingsBody(msgspec.Struct, frozen=True, kw_only=True):
    """POST /v1/embeddings."""

    model: str | None = None
    input: Any = None
    encoding_format: str | None = None
    dimensions: int | None = None
    truncate_prompt_tokens: int | None = None
    truncation_side: str | None = None
    add_special_tokens: bool | None = None
    cache_salt: str | None = None
    request_id: str | None = None
    user: str | None = None


def parse_embeddings(
    body: EmbeddingsBody, fields: dict[str, msgspec.Raw], bounds: Bounds, request_id: str | None
) -> tuple[ParsedCall, Literal["float", "base64"]]:
    """The call, and how its numbers are written.

    Raises:
        InvalidRequestError: naming the parameter.
    """
    encoding = body.encoding_format or "float"
    if encoding != "float" and encoding != "base64":
        what = f"encoding_format is {describe(body.encoding_format)}"
        raise InvalidRequestError(f"{what}: must be float or base64", param="encoding_format")
    call = embed_call(
        body.input,
        bounds,
        dimensions=body.dimensions,
        truncate_prompt_tokens=body.truncate_prompt_tokens,
        truncation_side=body.truncation_side,
        add_special_tokens=body.add_special_tokens is not False,
        cache_salt=body.cache_salt,
        request_id=request_id or check_request_id(body.request_id),
    )
    return msgspec.structs.replace(call, ignored=ignored_fields(body, fields)), encoding


def embed_call(
    given: Any,
    bounds: Bounds,
    *,
    request_id: str | None,
    dimensions: int | None = None,
    truncate_prompt_tokens: int | None = None,
    truncation_side: str | None = None,
    add_special_tokens: bool = True,
    cache_salt: str | None = None,
) -> ParsedCall:
    """A checked call for the vectors of ``given``: a text, ids, or a list of either.

    Raises:
        InvalidRequestError: naming the parameter; the inputs are ``input``.
    """
    prompts = check_prompts(given, truncate_prompt_tokens, bounds, param="input", most=MAX_INPUTS)
    check_range("dimensions", dimensions, 1, 2**31 - 1)
    return ParsedCall(
        generate=Generate(
            call_id=uuid4().hex,
            sampling=Sampling(max_tokens=0),
            prompts=prompts,
            add_special_tokens=add_special_tokens,
            truncate_prompt_tokens=truncate_prompt_tokens,
            truncation_side=check_side(truncation_side),
            cache_salt=check_salt(cache_salt),
            timeout_s=bounds.timeout_s,
            embed=Embed(dimensions or 0),
        ),
        request_id=request_id or uuid4().hex,
    )
