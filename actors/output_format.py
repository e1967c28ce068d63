"""The format of a served model's output: what the config names, or the model's files say. For gateway and tokenizer."""

from ..engine.config import Config
from ..engine.store.located import ModelCard
from .text.response import formats


def format_of(card: ModelCard, config: Config) -> formats.Format:
    """How its output is read, and its calls are written.

    Raises:
        ConfigError: a parser of that name is not known.
    """
    server = config.server
    template = card.chat_template or ""
    return formats.resolve(template, card.response_template, server.tool_call_parser, server.reasoning_parser)
