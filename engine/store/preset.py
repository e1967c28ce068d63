"""The name behind a model may say more than its weights do: sampling defaults, a system message, a draft model.

Written by people in a Modelfile, or read from the small layers of Ollama's store; kept in our own names. Plain values.
"""

from collections.abc import Iterable
from typing import Any

import msgspec

from . import parameters


class Preset(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """All of it optional. It is part of a ``Located``; a card takes over what a client may override."""

    base: str = ""
    """The name that the weights come from."""
    sampling: dict[str, Any] = {}
    """Defaults by our names: those of generation_config, and max_tokens, seed, stop and the two other penalties. None
    takes back what the base says."""
    max_model_len: int = 0
    """0 = not said."""
    max_draft_tokens: int | None = None
    draft_model: str = ""
    system: str | None = None
    """The system message of conversations without one."""
    messages: list[dict[str, str]] = []
    """What was said before each conversation."""
    chat_template: str | None = None
    """Jinja."""
    go_template: str = ""
    """Of Ollama's kind; never run."""
    license: str = ""
    notes: list[str] = []
    """What of it has no effect here, in whole lines."""

    def over(self, base: "Preset") -> "Preset":
        """This one where it says something, ``base`` elsewhere; licenses and notes of both."""
        return Preset(
            base=self.base,
            sampling=base.sampling | self.sampling,
            max_model_len=self.max_model_len or base.max_model_len,
            max_draft_tokens=base.max_draft_tokens if self.max_draft_tokens is None else self.max_draft_tokens,
            draft_model=self.draft_model or base.draft_model,
            system=base.system if self.system is None else self.system,
            messages=self.messages or base.messages,
            chat_template=self.chat_template or base.chat_template,
            go_template=self.go_template or base.go_template,
            license="\n".join(dict.fromkeys(filter(None, (base.license, self.license)))),
            notes=[*base.notes, *self.notes],
        )

    @property
    def needs_template(self) -> bool:
        """Whether conversations were meant to be written by a template that is not run here."""
        return bool(self.go_template) and not is_plain(self.go_template)

    def parameter_lines(self) -> list[tuple[str, Any]]:
        """(Ollama's name, value) of what PARAMETER lines would say."""
        sizes = {"max_model_len": self.max_model_len or None, "max_draft_tokens": self.max_draft_tokens}
        return parameters.in_ollamas_words(self.sampling | sizes)

    def config_keys(self) -> dict[str, Any]:
        """Config keys it sets where nothing else does."""
        found: dict[str, Any] = {}
        if self.max_model_len:
            found["target.max_model_len"] = self.max_model_len
        if self.max_draft_tokens is not None:
            found["speculation.max_draft_tokens"] = self.max_draft_tokens
        if self.draft_model:
            found["speculation.methods"] = ["suffix", "draft_model"]
            found["speculation.draft_model.model"] = self.draft_model
        return found


def of_parameters(pairs: Iterable[tuple[str, Any]]) -> Preset:
    """The preset that (our name, value) pairs make; a later one wins, stops add up.

    Raises:
        ValueError: too many stops.
    """
    sampling: dict[str, Any] = {}
    sizes: dict[str, Any] = {}
    for name, value in pairs:
        if name == "stop":
            stops = sampling.setdefault("stop", [])
            if len(stops) == parameters.MAX_STOPS:
                raise ValueError(f"more than {parameters.MAX_STOPS} stop parameters; leave some out")
            stops.append(value)
        elif name in ("max_model_len", "max_draft_tokens"):
            sizes[name] = value
        else:
            sampling[name] = value
    return Preset(sampling=sampling, **sizes)


def is_plain(template: str) -> bool:
    """Whether a Go template only repeats the prompt, as those of base models do."""
    return "".join(template.split()) in ("{{.Prompt}}", "{{-.Prompt-}}", "{{-.Prompt}}", "{{.Prompt-}}")
