"""The dialect of /v1/responses, and the routes to what was stored."""

from collections.abc import Callable, Sequence
from typing import Any

import msgspec
from starlette.requests import Request
from starlette.responses import Response

from ...engine.errors import InvalidRequestError
from ..messages import Admitted, TextDelta
from .errors import Problem
from .facts import CallFacts
from .gathered import AnswerHead, Gathered
from .limits import BodyDecoder
from .openai_answers import chat_logprobs
from .openai_calls import ignored_fields
from .openai_chat_calls import parse_chat
from .parsed_call import Bounds, ParsedCall
from .responses_calls import WORDS, ResponsesBody, chat_body, input_items, known_fields
from .responses_store import ResponseStore
from .service import Service
from .stream import EVENTS_TYPE, event
from .tokenization import json_response
from .wording import in_words_of


class ResponsesExchange:
    """One call."""

    def __init__(
        self, call: ParsedCall, head: AnswerHead, body: ResponsesBody, keep: Callable[[dict[str, Any]], None]
    ) -> None:
        self.call = call
        self._head = head.named(call.request_id)
        self._body = body
        self._keep = keep
        self.item_id = f"msg_{call.request_id}"

    def answer(self, admitted: Admitted, choices: Sequence[Gathered], first_texts: dict[int, str]) -> dict[str, Any]:
        """The whole response, which is kept unless the client does not want that."""
        return self.ended(admitted, choices[0])

    def writer(self, admitted: Admitted, first_texts: dict[int, str]) -> "ResponseEvents":
        """The events of a stream."""
        return ResponseEvents(self, admitted)

    def begun(self) -> dict[str, Any]:
        """The response while it is being made."""
        return self._response("in_progress", [], None)

    def ended(self, admitted: Admitted, choice: Gathered) -> dict[str, Any]:
        """The response with all its output."""
        status = "incomplete" if choice.finish_reason == "length" else "completed"
        response = self._response(status, [self.item(choice)], usage(admitted, choice))
        self._keep(response)
        return response

    def item(self, choice: Gathered) -> dict[str, Any]:
        """The one item of output."""
        status = "incomplete" if choice.finish_reason == "length" else "completed"
        part = self.part("".join(choice.text), self.logprobs(choice.logprobs))
        return {"type": "message", "id": self.item_id, "role": "assistant", "status": status, "content": [part]}

    def part(self, text: str, logprobs: list[Any]) -> dict[str, Any]:
        """The one part of the item."""
        return {"type": "output_text", "text": text, "annotations": [], "logprobs": logprobs}

    def logprobs(self, positions: Sequence[Any] | None) -> list[Any]:
        """In the shape of a chat's, without the part about refusals."""
        return chat_logprobs(positions, self.call)["content"] if positions else []

    def _response(self, status: str, output: list[Any], used: dict[str, Any] | None) -> dict[str, Any]:
        return {
            "id": self._head.id,
            "object": "response",
            "created_at": self._head.created,
            "status": status,
            "error": None,
            "incomplete_details": {"reason": "max_output_tokens"} if status == "incomplete" else None,
            "model": self._head.model,
            "output": output,
            **known_fields(self._body),
            "usage": used,
        }


class ResponseEvents:
    """A stream. Every event has a number, from 0."""

    def __init__(self, exchange: ResponsesExchange, admitted: Admitted) -> None:
        self._exchange = exchange
        self._admitted = admitted
        self._gathered = Gathered()
        self._place = {"item_id": exchange.item_id, "output_index": 0, "content_index": 0}
        self._num_events = 0

    def begin(self) -> bytes:
        """The response, its item and its part, all empty yet."""
        begun, item = self._exchange.begun(), self._exchange.item(self._gathered)
        empty = item | {"status": "in_progress", "content": []}
        return (
            self._event("response.created", response=begun)
            + self._event("response.in_progress", response=begun)
            + self._event("response.output_item.added", output_index=0, item=empty)
            + self._event("response.content_part.added", **self._place, part=self._exchange.part("", []))
        )

    def add(self, delta: TextDelta) -> bytes:
        """New text."""
        self._gathered.add(delta)
        logprobs = self._exchange.logprobs(delta.logprobs)
        if not delta.text and not logprobs:
            return b""
        return self._event("response.output_text.delta", **self._place, delta=delta.text, logprobs=logprobs)

    def last(self) -> bytes:
        """Part, item and response, now whole."""
        response = self._exchange.ended(self._admitted, self._gathered)
        [item] = response["output"]
        [part] = item["content"]
        told = {"text": part["text"], "logprobs": part["logprobs"]}
        return (
            self._event("response.output_text.done", **self._place, **told)
            + self._event("response.content_part.done", **self._place, part=part)
            + self._event("response.output_item.done", output_index=0, item=item)
            + self._event(f"response.{response['status']}", response=response)
        )

    def failed(self, problem: Problem) -> bytes:
        """The error as the last event."""
        return self._event("error", code=problem.code, message=problem.message, param=problem.param)

    def _event(self, kind: str, **fields: Any) -> bytes:
        number, self._num_events = self._num_events, self._num_events + 1
        return event(kind, {"type": kind, "sequence_number": number, **fields})


class ResponsesDialect:
    """POST /v1/responses."""

    decoder = BodyDecoder(ResponsesBody)
    id_prefix = "resp_"
    media_type = EVENTS_TYPE
    takes_any_type = False

    def __init__(self, service: Service, store: ResponseStore) -> None:
        self._service = service
        self._store = store

    def open(
        self, body: ResponsesBody, fields: dict[str, msgspec.Raw], bounds: Bounds, facts: CallFacts, head: AnswerHead
    ) -> ResponsesExchange:
        """Check a body; see ``Dialect``."""
        self._service.check_model(body.model)
        items, owner = input_items(body), facts.key_name
        if body.previous_response_id is not None:
            items = [*self._store.find(owner, body.previous_response_id, "previous_response_id").conversation, *items]

        def keep(response: dict[str, Any]) -> None:
            if body.store is not False:
                self._store.keep(owner, response, items)

        with in_words_of(WORDS):
            call = parse_chat(chat_body(body, items), {}, bounds, facts.given_id)
        call = msgspec.structs.replace(call.in_words("text.format"), ignored=ignored_fields(body, fields))
        return ResponsesExchange(call, head, body, keep)


class StoredResponses:
    """The routes to what was stored."""

    def __init__(self, store: ResponseStore) -> None:
        self._store = store

    async def one(self, request: Request) -> Response:
        """GET: a response as it was answered. DELETE: forget it."""
        owner, response_id = _key(request)
        if request.method == "DELETE":
            self._store.delete(owner, response_id)
            return json_response({"id": response_id, "object": "response", "deleted": True})
        if request.query_params.get("stream", "false") != "false":
            raise InvalidRequestError("stream: a stored response is not streamed again; leave it out", param="stream")
        return json_response(self._store.find(owner, response_id).response)

    async def input_items(self, request: Request) -> Response:
        """What went into a response, the oldest first."""
        items = self._store.find(*_key(request)).items
        return json_response({"object": "list", "data": items, "has_more": False})

    async def cancel(self, request: Request) -> Response:
        """Nothing runs without its client, so there is nothing to cancel."""
        self._store.find(*_key(request))
        raise InvalidRequestError("only a background response can be cancelled; close the connection of others")


def _key(request: Request) -> tuple[str, str]:
    return CallFacts.of(request.scope).key_name, request.path_params["id"]


def usage(admitted: Admitted, choice: Gathered) -> dict[str, Any]:
    """Counts in the words of this route."""
    num_prompt = sum(p.num_tokens for p in admitted.prompts)
    return {
        "input_tokens": num_prompt,
        "input_tokens_details": {"cached_tokens": choice.num_cached, "cache_write_tokens": 0},
        "output_tokens": choice.num_tokens,
        "output_tokens_details": {"reasoning_tokens": 0},
        "total_tokens": num_prompt + choice.num_tokens,
    }
