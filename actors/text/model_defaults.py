"""What a model's maker wants where a client says nothing: a system message, a beginning of every talk, stop strings.

Such wishes come from a Modelfile or Ollama's store, by way of the model's card. Defaults of single numbers are
``sampling.py``'s.
"""

import msgspec

from ...engine.store.located import ModelCard
from ..messages import Chat, Generate

_SYSTEM_ROLES = ("system", "developer")


def with_opening(chat: Chat, card: ModelCard) -> Chat:
    """The conversation behind the card's system message, unless it has its own, and the card's first messages."""
    if not card.system and not card.messages:
        return chat
    head, rest = [], chat.messages
    if rest and rest[0].get("role") in _SYSTEM_ROLES:
        head, rest = rest[:1], rest[1:]
    elif card.system:
        head = [{"role": "system", "content": card.system}]
    return msgspec.structs.replace(chat, messages=[*head, *card.messages, *rest])


def with_stops(call: Generate, card: ModelCard) -> Generate:
    """The call with the card's stop strings, unless it has its own."""
    stops = card.defaults.get("stop")
    if not stops or call.sampling.stop:
        return call
    return msgspec.structs.replace(call, sampling=msgspec.structs.replace(call.sampling, stop=stops))
