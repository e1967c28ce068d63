"""What compiles grammars for the model's vocabulary, wherever that is needed: beside the logits, and beside drafts."""

from typing import TYPE_CHECKING

from ..engine.execution.grammar import Grammars
from ..engine.store.located import ModelCard
from .text import load_tokenizer

if TYPE_CHECKING:
    from llguidance import LLTokenizer


def load_grammars(card: ModelCard) -> Grammars | None:
    """The tokenizer is read when the first grammar comes. None where no id ends the model's answers."""
    if not card.end_ids:
        return None

    def tokenizer() -> "LLTokenizer":
        from llguidance import LLTokenizer

        text = load_tokenizer.load(card.tokenizer).to_str()
        return LLTokenizer(text, n_vocab=card.model.vocab_size, eos_token=card.end_ids)

    return Grammars(tokenizer)
