"""The dialect of /v1/responses, and the routes to what was stored."""

from collections.abc import Callable, Sequence
from typing import Any

import msgspec
from starlette.requests import Request
from starlette.responses import Response

from ...engine.errors import InvalidRequestError
from ..messages import Admitted, Part, TextDelta
from .errors import Problem
from .facts import CallFacts
from .gathered import AnswerHead, Block, Gathered
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
        response = self._response(status, self.items(choice), usage(admitted, choice))
        self._keep(response)
        return response

    def items(self, choice: Gathered) -> list[dict[str, Any]]:
        """The items of output: one for each block, and a message without text where there is none."""
        blocks = choice.blocks or [Block("content")]
        ends = ["completed"] * (len(blocks) - 1) + ["incomplete" if choice.finish_reason == "length" else "completed"]
        first = next((i for i, block in enumerate(blocks) if block.kind == "content"), -1)
        return [
            self.item(block, i, status, self.logprobs(choice.logprobs) if i == first else [])
            for i, (block, status) in enumerate(zip(blocks, ends, strict=True))
        ]

    def item(self, block: Block, index: int, status: str, logprobs: list[Any]) -> dict[str, Any]:
        """One item of output, at place ``index``."""
        text, suffix = block.text, f"-{index}" if index else ""
        match block.kind:
            case "content":
                head = {"type": "message", "id": f"msg_{self.call.request_id}{suffix}", "role": "assistant"}
                return head | {"status": status, "content": [self.part(text, logprobs)]}
            case "reasoning":
                head = {"type": "reasoning", "id": f"rs_{self.call.request_id}{suffix}", "summary": []}
                return head | {"status": status, "content": [{"type": "reasoning_text", "text": text}]}
            case _:
                return {
                    "type": "function_call",
                    "id": f"fc_{self.call.request_id}{suffix}",
                    "call_id": self.call.tool_call_id(0, block.index),
                    "name": block.name,
                    "arguments": text,
                    "status": status,
                }

    def part(self, text: str, logprobs: list[Any]) -> dict[str, Any]:
        """The one part of a message."""
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
    """A stream. Every event has a number, from 0; an item of output begins with its first piece."""

    def __init__(self, exchange: ResponsesExchange, admitted: Admitted) -> None:
        self._exchange = exchange
        self._admitted = admitted
        self._gathered = Gathered()
        self._num_items = 0  # that were opened
        self._item_id = ""
        self._num_events = 0

    def begin(self) -> bytes:
        """The response, of which there is nothing yet."""
        begun = self._exchange.begun()
        return self._event("response.created", response=begun) + self._event("response.in_progress", response=begun)

    def add(self, delta: TextDelta) -> bytes:
        """What is new in each item."""
        events: list[bytes] = []
        logprobs = self._exchange.logprobs(delta.logprobs)
        pieces = delta.pieces or ([Part("content", "")] if logprobs and not delta.parts else [])
        for part in pieces:
            self._gathered.put(part)
            if len(self._gathered.blocks) > self._num_items:
                if self._num_items:
                    events.append(self._close(self._num_items - 1))
                events.append(self._open())
            match part.kind:
                case "content":
                    told = {"content_index": 0, "delta": part.text, "logprobs": logprobs}
                    events.append(self._event("response.output_text.delta", **self._place, **told))
                    logprobs = []
                case "reasoning":
                    told = {"content_index": 0, "delta": part.text}
                    events.append(self._event("response.reasoning_text.delta", **self._place, **told))
                case "arguments":
                    events.append(
                        self._event("response.function_call_arguments.delta", **self._place, delta=part.text)
                    )
                case _:
                    pass
        self._gathered.note(delta)
        return b"".join(events)

    def last(self) -> bytes:
        """The last item and the response, now whole."""
        head = b""
        if not self._num_items:
            self._gathered.put(Part("content", ""))
            head = self._open()
        response = self._exchange.ended(self._admitted, self._gathered)
        end = self._close(self._num_items - 1, response["output"][-1])
        return head + end + self._event(f"response.{response['status']}", response=response)

    @property
    def _place(self) -> dict[str, Any]:
        return {"item_id": self._item_id, "output_index": self._num_items - 1}

    def _open(self) -> bytes:
        block = self._gathered.blocks[-1]
        empty = Block(block.kind, block.index, block.name)
        item = self._exchange.item(empty, self._num_items, "in_progress", [])
        self._num_items += 1
        self._item_id = item["id"]
        opened = item if block.kind == "call" else item | {"content": []}
        told = self._event("response.output_item.added", output_index=self._num_items - 1, item=opened)
        if block.kind == "call":
            return told
        part = item["content"][0]
        return told + self._event("response.content_part.added", **self._place, content_index=0, part=part)

    def _close(self, index: int, whole: dict[str, Any] | None = None) -> bytes:
        item = whole or self._exchange.items(self._gathered)[index]
        done = self._event
        match item:
            case {"type": "function_call"}:
                named = {"name": item["name"], "arguments": item["arguments"]}
                told = done("response.function_call_arguments.done", **self._place, **named)
            case {"type": "reasoning", "content": [part]}:
                told = done("response.reasoning_text.done", **self._place, content_index=0, text=part["text"])
                told += done("response.content_part.done", **self._place, content_index=0, part=part)
            case _:
                [part] = item["content"]
                text = {"text": part["text"], "logprobs": part["logprobs"]}
                told = done("response.output_text.done", **self._place, content_index=0, **text)
                told += done("response.content_part.done", **self._place, content_index=0, part=part)
        return told + done("response.output_item.done", output_index=index, item=item)

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
        "output_tokens_details": {"reasoning_tokens": choice.num_reasoning},
        "total_tokens": num_prompt + choice.num_tokens,
    }
