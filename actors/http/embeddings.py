"""The dialects that answer with vectors: /v1/embeddings, and Ollama's /api/embed and /api/embeddings.

They travel the path of every other call; a choice is one vector, and nothing is streamed.
"""

import struct
import time
from base64 import b64encode
from collections.abc import Sequence
from typing import Any, NoReturn

import msgspec

from ...engine.errors import ActorError
from ..messages import Admitted
from .embeddings_calls import EmbeddingsBody, embed_call, parse_embeddings
from .facts import CallFacts
from .gathered import AnswerHead, Gathered
from .generation import Told
from .limits import BodyDecoder
from .ollama import OllamaDialect
from .ollama_fields import EmbedBody, OldEmbedBody
from .openai_calls import ignored_fields
from .parsed_call import Bounds, ParsedCall
from .service import Service
from .stream import EVENTS_TYPE


class Vectors:
    """What the exchanges of all routes share."""

    def __init__(self, call: ParsedCall, head: AnswerHead) -> None:
        self.call = call
        self._head = head

    def writer(self, admitted: Admitted, first_texts: dict[int, str]) -> NoReturn:
        """Never asked for: no body of these routes makes a call that streams."""
        raise AssertionError("vectors are not streamed")


class EmbeddingsExchange(Vectors):
    """One call of /v1/embeddings."""

    def __init__(self, call: ParsedCall, head: AnswerHead, encoding: str) -> None:
        super().__init__(call, head.named(call.request_id))
        self._write = as_base64 if encoding == "base64" else as_floats

    def answer(self, admitted: Admitted, choices: Sequence[Gathered], first_texts: dict[int, str]) -> dict[str, Any]:
        """All vectors, in the order of the inputs."""
        num_tokens = _num_tokens(admitted)
        return {
            "id": self._head.id,
            "object": "list",
            "created": self._head.created,
            "model": self._head.model,
            "data": [
                {"index": i, "object": "embedding", "embedding": self._write(vector)}
                for i, vector in enumerate(_vectors(choices))
            ],
            "usage": {"prompt_tokens": num_tokens, "total_tokens": num_tokens},
        }


class EmbeddingsDialect:
    """POST /v1/embeddings."""

    decoder = BodyDecoder(EmbeddingsBody)
    id_prefix = "embd-"
    media_type = EVENTS_TYPE
    takes_any_type = False

    def __init__(self, service: Service) -> None:
        self._service = service

    def open(
        self, body: EmbeddingsBody, fields: dict[str, msgspec.Raw], bounds: Bounds, facts: CallFacts, head: AnswerHead
    ) -> EmbeddingsExchange:
        """Check a body; see ``Dialect``."""
        self._service.check_model(body.model)
        call, encoding = parse_embeddings(body, fields, bounds, facts.given_id)
        return EmbeddingsExchange(call, head, encoding)


class OllamaVectors(Vectors):
    """One call of /api/embed."""

    def answer(self, admitted: Admitted, choices: Sequence[Gathered], first_texts: dict[int, str]) -> dict[str, Any]:
        """All vectors, with times in nanoseconds."""
        return {
            "model": self._head.model,
            "embeddings": [as_floats(vector) for vector in _vectors(choices)],
            "total_duration": max(0, int((time.monotonic() - self._head.began_s) * 1e9)),
            "load_duration": 0,
            "prompt_eval_count": _num_tokens(admitted),
        }


class OneOllamaVector(Vectors):
    """One call of /api/embeddings."""

    def answer(self, admitted: Admitted, choices: Sequence[Gathered], first_texts: dict[int, str]) -> dict[str, Any]:
        """The vector."""
        return {"embedding": as_floats(_vectors(choices)[0])}


class OllamaEmbedDialect(OllamaDialect):
    """POST /api/embed. A body without input only asks to load the model."""

    decoder = BodyDecoder(EmbedBody)

    def open(
        self, body: EmbedBody, fields: dict[str, msgspec.Raw], bounds: Bounds, facts: CallFacts, head: AnswerHead
    ) -> OllamaVectors | Told:
        """Check a body; see ``Dialect``."""
        head = self._check_model(body.model, head)
        if not body.input:
            return Told({"model": head.model, "embeddings": []})
        cut = _cut(body.truncate, bounds)
        call = embed_call(body.input, bounds, request_id=facts.given_id, dimensions=body.dimensions, **cut)
        return OllamaVectors(_with_ignored(call, body, fields), head)


class OllamaEmbeddingsDialect(OllamaDialect):
    """POST /api/embeddings, which takes one text and is what older clients call."""

    decoder = BodyDecoder(OldEmbedBody)

    def open(
        self, body: OldEmbedBody, fields: dict[str, msgspec.Raw], bounds: Bounds, facts: CallFacts, head: AnswerHead
    ) -> OneOllamaVector | Told:
        """Check a body; see ``Dialect``."""
        head = self._check_model(body.model, head)
        if not body.prompt:
            return Told({"embedding": []})
        call = embed_call(body.prompt, bounds, request_id=facts.given_id, **_cut(True, bounds))
        return OneOllamaVector(_with_ignored(call, body, fields), head)


def as_floats(vector: bytes) -> list[float]:
    """Numbers, each exactly as it was computed."""
    return list(struct.unpack(f"<{len(vector) // 4}f", vector))


def as_base64(vector: bytes) -> str:
    """fp32, little-endian, as OpenAI's clients ask for it."""
    return b64encode(vector).decode()


def _vectors(choices: Sequence[Gathered]) -> list[bytes]:
    vectors = [choice.embedding for choice in choices if choice.embedding is not None]
    if len(vectors) != len(choices):
        raise ActorError(f"the engine made {len(vectors)} of {len(choices)} vectors; send the call again")
    return vectors


def _num_tokens(admitted: Admitted) -> int:
    return sum(prompt.num_tokens for prompt in admitted.prompts)


def _cut(truncate: bool | None, bounds: Bounds) -> dict[str, Any]:
    """Unless told otherwise, Ollama leaves out what the context does not hold, at the end of the text."""
    if truncate is False:
        return {}
    return {"truncate_prompt_tokens": bounds.max_model_len, "truncation_side": "right"}


def _with_ignored(call: ParsedCall, body: msgspec.Struct, fields: dict[str, msgspec.Raw]) -> ParsedCall:
    return msgspec.structs.replace(call, ignored=ignored_fields(body, fields))
