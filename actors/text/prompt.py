"""A call's prompts to ids: rendered, encoded with bos once, cut if asked, and checked against the model's sizes.

All that costs time here is in the ``tokenizers`` package, which lets other threads run meanwhile.
"""

from functools import cached_property
from typing import Any, NamedTuple

from tokenizers import Tokenizer

from ...engine.errors import InvalidRequestError
from ...engine.store.located import ModelCard
from ..messages import Chat, Detokenize, Generate, Tokenize
from .chat_template import ChatTemplate, Rendered, Renderer, message_text
from .control_text import ControlText
from .model_defaults import with_opening

MAX_END_CHARS = 32_768
"""Of ``Prompt.end``."""


class Prompt(NamedTuple):
    """What one prompt became."""

    token_ids: list[int]
    text: str | None
    """What ``echo`` shows; None unless asked for."""
    prediction_ids: list[int] = []
    """What the client expects as the answer."""
    end: str = ""
    """Of a conversation: the end of its rendered text, in which the answer may have begun."""


class PromptEncoder:
    """Turns text and conversations into ids for one model. Holds no call; safe to use from several threads."""

    def __init__(self, tokenizer: Tokenizer, card: ModelCard, run_template: Renderer | None = None) -> None:
        """``run_template`` runs the card's template; None = here, without bounds on time and memory."""
        self._tokenizer = tokenizer
        self._card = card
        self._control = ControlText(tokenizer)
        template = card.chat_template
        special = card.special_tokens
        self._template = ChatTemplate(template, special, self._control, run_template) if template else None

    def encode_call(self, call: Generate, max_model_len: int) -> list[Prompt]:
        """The prompts of a call, in order.

        Raises:
            InvalidRequestError: nothing to encode, an id outside the embedding, or longer than the context.
        """
        if call.chat is not None:
            rendered = self._rendered(call.chat)
            ids = self._encoded(rendered, call.add_special_tokens)
            text = _echoed_message(call.chat) if call.echo else None
            finished = self._finish(ids, call, max_model_len, "messages")
            predicted = self._predicted(call.prediction, max_model_len)
            return [Prompt(finished, text, predicted, rendered.text[-MAX_END_CHARS:])]
        prompts = call.prompts or []
        if not prompts:
            raise InvalidRequestError("prompt is empty; send text or token ids", param="prompt")
        return [self._encode_one(p, call, max_model_len, param_of(call, i)) for i, p in enumerate(prompts)]

    def encode_text(self, text: str, add_special_tokens: bool) -> list[int]:
        """Ids of raw text, in which control texts are control tokens: clients render templates themselves."""
        ids = self._tokenizer.encode(text, add_special_tokens=add_special_tokens).ids
        return self._with_one_bos(ids) if add_special_tokens else ids

    def encode_chat(self, chat: Chat, add_special_tokens: bool) -> list[int]:
        """Ids of a conversation. The rendered text holds bos where the model wants one, so none is added to it."""
        return self._encoded(self._rendered(chat), add_special_tokens)

    def _rendered(self, chat: Chat) -> Rendered:
        if self._template is None:
            what = f"{self._card.name} has no chat template"
            raise InvalidRequestError(f"{what}; send a rendered prompt to /v1/completions", param="messages")
        return self._template.render(with_opening(chat, self._card))

    def _encoded(self, rendered: Rendered, add_special_tokens: bool) -> list[int]:
        ids = self._control.encode(rendered.text, rendered.mark)
        return self._with_one_bos(ids) if add_special_tokens else ids

    def warm_up(self) -> None:
        """Do the set-up that only some prompts need."""
        self._control.twin  # noqa: B018
        self._longest_token  # noqa: B018

    def _encode_one(self, prompt: str | list[int], call: Generate, max_model_len: int, param: str) -> Prompt:
        if isinstance(prompt, str):
            if call.truncate_prompt_tokens is None:
                self._check_length_of_text(prompt, max_model_len, param)
            ids, text = self.encode_text(prompt, call.add_special_tokens), prompt
        else:
            ids, text = prompt, None
            rows = self._card.model.vocab_size
            if ids and (min(ids) < 0 or max(ids) >= rows):
                index = next(i for i, token in enumerate(ids) if not 0 <= token < rows)
                what = f"{param}[{index}] is {ids[index]}: token ids must be 0 to {rows - 1}"
                raise InvalidRequestError(f"{what}, the rows of the embedding", param=param)
        finished = self._finish(ids, call, max_model_len, param)
        if not call.echo:
            return Prompt(finished, None)
        if text is None or len(finished) < len(ids):
            text = self._tokenizer.decode(finished, skip_special_tokens=False)
        return Prompt(finished, text)

    def _predicted(self, text: str, max_model_len: int) -> list[int]:
        """A guess that is longer than any answer is cut: it is a hint, and no reason to refuse a call."""
        if not text:
            return []
        text = text[: max_model_len * self._longest_token]
        return self._tokenizer.encode(text, add_special_tokens=False).ids[:max_model_len]

    def _finish(self, ids: list[int], call: Generate, max_model_len: int, param: str) -> list[int]:
        limit = call.truncate_prompt_tokens
        if limit is not None:
            # -1 leaves room for the output that was asked for, or else for one token; a vector needs none.
            room = 0 if call.embed is not None else call.sampling.max_tokens or 1
            limit = limit if limit >= 0 else max_model_len - room
            ids = ids[:limit] if call.truncation_side == "right" else ids[max(0, len(ids) - limit) :]
        if not ids:
            raise InvalidRequestError(f"{param} is empty: it must have at least 1 token", param=param)
        return ids

    def _check_length_of_text(self, text: str, max_model_len: int, param: str) -> None:
        """Refuse a hopelessly long text before the seconds that encoding it would cost."""
        least = len(text) // self._longest_token
        if least > max_model_len:
            what = f"{param} has at least {least} tokens: the context is {max_model_len}"
            raise InvalidRequestError(f"{what}; shorten it", param=param, code="context_length_exceeded")

    @cached_property
    def _longest_token(self) -> int:
        """Most characters of text that one token can stand for, allowing for a normaliser that composes some."""
        return 4 * max((len(t) for t in self._tokenizer.get_vocab()), default=1)

    def _with_one_bos(self, ids: list[int]) -> list[int]:
        """Bos in front once: the text may spell it, the tokenizer may add it, and the card may want it."""
        bos = self._card.bos_id
        if bos is None:
            return ids
        if ids[:2] == [bos, bos]:
            return ids[1:]
        return [bos, *ids] if self._card.add_bos and ids[:1] != [bos] else ids


def param_of(call: Generate, index: int) -> str:
    """What the client calls the prompt ``index``: ``prompt``, ``prompt.2``, or ``input`` where it wants vectors."""
    word = "prompt" if call.embed is None else "input"
    return word if len(call.prompts or ()) == 1 else f"{word}.{index}"


def num_chars_to_encode(message: Generate | Tokenize | Detokenize) -> int:
    """How much work a message is for the tokenizer, in characters; an id counts as one."""
    match message:
        case Detokenize():
            return num_chars(message.token_ids)
        case Tokenize():
            what = message.chat or message.prompt
        case _:
            what = message.chat or message.prompts
    if isinstance(what, Chat):
        what = [what.messages, what.tools, what.documents, what.template_kwargs]
    return num_chars(what)


def num_chars(value: Any) -> int:
    """Characters of all texts in plain JSON, an id counting as one: how much there is to encode."""
    if isinstance(value, str):
        return len(value)
    if isinstance(value, dict):
        return sum(len(k) + num_chars(v) for k, v in value.items())
    if isinstance(value, list):
        return len(value) if value and isinstance(value[0], int) else sum(map(num_chars, value))
    return 0


def _echoed_message(chat: Chat) -> str:
    """The start of the answer, when the client wrote it."""
    last = chat.messages[-1] if chat.messages else {}
    return message_text(last.get("content")) if last.get("role") == "assistant" else ""
