"""The dialect of /api/generate and /api/chat: newline-delimited JSON unless the client asks for one answer."""

import time
from collections.abc import Sequence
from datetime import UTC, datetime
from typing import Any

import msgspec

from ...engine.errors import InvalidRequestError
from ..messages import Admitted, TextDelta
from .envelopes import ollama
from .errors import Problem, clean
from .facts import CallFacts
from .gathered import AnswerHead, Block, Gathered, json_object
from .generation import Told
from .limits import BodyDecoder
from .ollama_calls import WORDS, ignored_fields_of, parse_chat_body, parse_generate
from .ollama_fields import GenerateBody, OllamaBody, OllamaChatBody
from .openai_answers import chat_logprobs
from .parsed_call import Bounds, ParsedCall
from .service import Service
from .stream import LINES_TYPE
from .wording import in_words_of

_DURATIONS = ("total_duration", "load_duration", "prompt_eval_duration", "eval_duration")


class OllamaExchange:
    """One call of either route."""

    def __init__(self, call: ParsedCall, head: AnswerHead, *, is_chat: bool) -> None:
        self.call = call
        self._head = head
        self._is_chat = is_chat

    def answer(self, admitted: Admitted, choices: Sequence[Gathered], first_texts: dict[int, str]) -> dict[str, Any]:
        """All text with the figures."""
        choice = choices[0]
        told = self.line(choice.content, choice.reasoning, choice.calls) | self._logprobs(choice.logprobs)
        told |= {"done": True}
        return told | figures(choice, admitted, self._head)

    def writer(self, admitted: Admitted, first_texts: dict[int, str]) -> "OllamaLines":
        """The lines of a stream."""
        return OllamaLines(self, admitted, self._head)

    def delta(self, delta: TextDelta, calls: Sequence[Block]) -> dict[str, Any]:
        """One line with what is new; ``calls`` are now complete."""
        thinking = "".join(p.text for p in delta.parts if p.kind == "reasoning")
        return self.line(delta.text, thinking, calls) | self._logprobs(delta.logprobs or []) | {"done": False}

    def line(self, text: str, thinking: str = "", calls: Sequence[Block] = ()) -> dict[str, Any]:
        """The part of a line that both routes and all lines have."""
        more: dict[str, Any] = {"thinking": thinking} if thinking else {}
        if calls:
            more["tool_calls"] = [
                {
                    "id": self.call.tool_call_id(0, c.index),
                    "function": {"index": c.index, "name": c.name, "arguments": json_object(c.text)},
                }
                for c in calls
            ]
        message = {"role": "assistant", "content": text} | more
        told = {"message": message} if self._is_chat else {"response": text} | more
        return {"model": self._head.model, "created_at": now_text(), **told}

    def _logprobs(self, positions: Sequence[Any]) -> dict[str, Any]:
        if not self.call.wants_logprobs or not positions:
            return {}
        return {"logprobs": chat_logprobs(positions, self.call)["content"]}


class OllamaLines:
    """A stream of one call."""

    def __init__(self, exchange: OllamaExchange, admitted: Admitted, head: AnswerHead) -> None:
        self._exchange = exchange
        self._admitted = admitted
        self._head = head
        self._gathered = Gathered()
        self._num_calls = 0

    def begin(self) -> bytes:
        """Nothing yet."""
        return b""

    def add(self, delta: TextDelta) -> bytes:
        """A line for each piece of text; a call when it is complete."""
        self._gathered.add(delta)
        calls = self._complete(is_last=delta.finish_reason is not None)
        is_told = delta.text or delta.logprobs or calls or any(p.kind == "reasoning" for p in delta.parts)
        return json_line(self._exchange.delta(delta, calls)) if is_told else b""

    def _complete(self, *, is_last: bool) -> list[Block]:
        """Calls that were not told yet and that nothing more comes to."""
        blocks = self._gathered.blocks
        calls = [b for b in blocks if b.kind == "call" and (is_last or b is not blocks[-1])]
        new, self._num_calls = calls[self._num_calls :], len(calls)
        return new

    def last(self) -> bytes:
        """The line with the figures."""
        told = self._exchange.line("") | {"done": True} | figures(self._gathered, self._admitted, self._head)
        return json_line(told)

    def failed(self, problem: Problem) -> bytes:
        """The error as the last line."""
        return json_line(ollama(problem, ""))


class OllamaDialect:
    """What both routes share. A body without a prompt only asks to load or unload the model."""

    id_prefix = ""
    media_type = LINES_TYPE
    takes_any_type = True

    def __init__(self, service: Service) -> None:
        self._service = service

    def _told(self, body: OllamaBody, fields: dict[str, msgspec.Raw], head: AnswerHead, text: dict[str, Any]) -> Told:
        """The model is always loaded, and stays so: who asks to unload it (``keep_alive`` 0) is told as much."""
        told = {"model": head.model, "created_at": now_text(), **text, "done": True, "done_reason": "load"}
        return Told(told, ignored_fields_of(body, fields))

    def _check_model(self, name: str | None, head: AnswerHead) -> AnswerHead:
        """The head with the name that the client uses: ``:latest`` may be there or not."""
        served = self._service.model_name
        if name is not None and not is_same(name, served):
            raise not_found(name, served)
        return msgspec.structs.replace(head, model=name or head.model)


class GenerateDialect(OllamaDialect):
    """POST /api/generate."""

    decoder = BodyDecoder(GenerateBody)

    def open(
        self, body: GenerateBody, fields: dict[str, msgspec.Raw], bounds: Bounds, facts: CallFacts, head: AnswerHead
    ) -> OllamaExchange | Told:
        """Check a body; see ``Dialect``."""
        head = self._check_model(body.model, head)
        if not body.prompt:
            return self._told(body, fields, head, {"response": ""})
        with in_words_of(WORDS):
            call = parse_generate(body, fields, bounds, facts.given_id, self._service.card.defaults)
        return OllamaExchange(call, head, is_chat=False)


class OllamaChatDialect(OllamaDialect):
    """POST /api/chat."""

    decoder = BodyDecoder(OllamaChatBody)

    def open(
        self, body: OllamaChatBody, fields: dict[str, msgspec.Raw], bounds: Bounds, facts: CallFacts, head: AnswerHead
    ) -> OllamaExchange | Told:
        """Check a body; see ``Dialect``."""
        head = self._check_model(body.model, head)
        if not body.messages:
            return self._told(body, fields, head, {"message": {"role": "assistant", "content": ""}})
        with in_words_of(WORDS):
            call = parse_chat_body(body, fields, bounds, facts.given_id, self._service.card.defaults)
        return OllamaExchange(call, head, is_chat=True)


def figures(choice: Gathered, admitted: Admitted, head: AnswerHead) -> dict[str, Any]:
    """Why it ended, counts, and times in nanoseconds."""
    now_s = time.monotonic()
    seconds = (now_s - head.began_s, 0.0, choice.first_s - head.began_s, choice.last_s - choice.first_s)
    durations = {name: max(0, int(value * 1e9)) for name, value in zip(_DURATIONS, seconds, strict=True)}
    return {
        "done_reason": choice.finish_reason,
        **durations,
        "prompt_eval_count": sum(p.num_tokens for p in admitted.prompts),
        "eval_count": choice.num_tokens,
    }


def is_same(name: str, served: str) -> bool:
    """Whether two names are one for Ollama's clients, which may add ``:latest`` and know no ``ollama:``."""

    def plain(text: str) -> str:
        return text.removeprefix("ollama:").removesuffix(":latest")

    return plain(name) == plain(served)


def not_found(name: str, served: str) -> InvalidRequestError:
    """In the words that Ollama's clients look for."""
    what = f"model '{clean(name, 100)}' not found; this server has '{served}'"
    return InvalidRequestError(what, param="model", code="model_not_found", not_found=True)


def json_line(value: object) -> bytes:
    """One line of a stream."""
    return msgspec.json.encode(value) + b"\n"


def now_text() -> str:
    """The time as RFC 3339 has it."""
    return time_text(time.time())


def time_text(unix_s: float) -> str:
    """A Unix time in the same way."""
    return datetime.fromtimestamp(unix_s, UTC).isoformat().replace("+00:00", "Z")
