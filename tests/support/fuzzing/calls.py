"""Every generating route of the gateway, and a service that has bounds but no engine."""

import json
from functools import cache
from random import Random
from typing import Any

import msgspec
from fake_engine import FakeEngine
from fuzzing.bodies import BODIES
from http_app import service

from paceline.actors.http.anthropic import MessagesDialect
from paceline.actors.http.embeddings import EmbeddingsDialect, OllamaEmbedDialect, OllamaEmbeddingsDialect
from paceline.actors.http.facts import CallFacts
from paceline.actors.http.gathered import AnswerHead
from paceline.actors.http.ollama import GenerateDialect, OllamaChatDialect
from paceline.actors.http.openai import ChatDialect, CompletionsDialect
from paceline.actors.http.parsed_call import Bounds
from paceline.actors.http.responses import ResponsesDialect
from paceline.actors.http.responses_store import ResponseStore
from paceline.actors.http.service import Service

PATHS = ["/v1/chat/completions", "/v1/completions", "/v1/responses", "/v1/embeddings", "/v1/messages", "/api/chat",
         "/api/generate", "/api/embed", "/api/embeddings"]  # fmt: skip


def seeds() -> list[bytes]:
    """A byte that picks the route, and a body."""
    return [bytes([i]) + json.dumps(body).encode() for i, path in enumerate(PATHS) for body in BODIES[path]]


class Gateway:
    """Bodies to exchanges, as ``Generation`` does it, without HTTP around."""

    def __init__(self) -> None:
        self.service: Service = service(FakeEngine())
        self.bounds: Bounds = self.service.bounds()
        self._facts = CallFacts.__new__(CallFacts)  # its constructor asks a running loop for the time
        self._facts.given_id, self._facts.request_id, self._facts.key_name = None, "r", "-"
        s = self.service
        self.dialects: list[Any] = [
            ChatDialect(s), CompletionsDialect(s), ResponsesDialect(s, ResponseStore()), EmbeddingsDialect(s),
            MessagesDialect(s), OllamaChatDialect(s), GenerateDialect(s), OllamaEmbedDialect(s),
            OllamaEmbeddingsDialect(s),
        ]  # fmt: skip

    def open(self, route: int, body: bytes) -> Any:
        """An ``Exchange`` or what is ``Told``.

        Raises:
            InvalidRequestError: the body is wrong.
        """
        dialect = self.dialects[route]
        typed, fields = dialect.decoder.decode(body)
        head = AnswerHead(dialect.id_prefix, 1, "tiny", "paceline", 0.0)
        return dialect.open(typed, fields, self.bounds, self._facts, head)


@cache
def gateway() -> Gateway:
    """One a process."""
    return Gateway()


def with_duplicates(data: bytes, rng: Random) -> bytes:
    """A body in which one key comes twice, which no tree can express."""
    try:
        tree = msgspec.json.decode(data[1:])
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
        return data
    if not isinstance(tree, dict) or not tree:
        return data
    key = rng.choice(list(tree))
    again = json.dumps({key: rng.choice([None, 0, "", [], {}])})[1:-1].encode()
    return data[:1] + b"{" + again + b"," + data[2:].lstrip(b"{")
