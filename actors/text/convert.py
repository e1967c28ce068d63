"""Answers to Tokenize and Detokenize: text and conversations to ids, ids to text, for whoever wants to see them."""

from tokenizers import Tokenizer

from ...engine.errors import InvalidRequestError
from ..messages import Detokenize, Tokenize, Tokenized
from .prompt import PromptEncoder


class Converter:
    """Converts for one model; safe to use from several threads."""

    def __init__(self, tokenizer: Tokenizer, encoder: PromptEncoder) -> None:
        self._tokenizer = tokenizer
        self._encoder = encoder

    def convert(self, message: Tokenize | Detokenize, logits_width: int) -> Tokenized:
        """The answer.

        Raises:
            InvalidRequestError: an id outside the logits, or a conversation that cannot be rendered.
        """
        return self._tokenize(message) if isinstance(message, Tokenize) else self._detokenize(message, logits_width)

    def _tokenize(self, message: Tokenize) -> Tokenized:
        if message.chat is not None:
            ids = self._encoder.encode_chat(message.chat, message.add_special_tokens)
        else:
            ids = self._encoder.encode_text(message.prompt or "", message.add_special_tokens)
        return Tokenized(message.call_id, ids, self._strings(ids), message.prompt or "")

    def _detokenize(self, message: Detokenize, logits_width: int) -> Tokenized:
        ids = message.token_ids
        wrong = next((i for i, token in enumerate(ids) if not 0 <= token < logits_width), None)
        if wrong is not None:
            what = f"tokens[{wrong}] is {ids[wrong]}: token ids must be 0 to {logits_width - 1}"
            raise InvalidRequestError(what, param="tokens")
        text = self._tokenizer.decode(ids, skip_special_tokens=False)
        return Tokenized(message.call_id, ids, self._strings(ids), text)

    def _strings(self, ids: list[int]) -> list[str]:
        return [self._tokenizer.id_to_token(i) or "" for i in ids]
