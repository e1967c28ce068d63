"""A conversation with one model: its messages, the parameters of the next answer, and what each answer cost.

Knows no terminal and starts nothing: it builds calls and reads their answers.
"""

import random
import time
import uuid
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

import msgspec

from ..engine.errors import ConfigError
from ..engine.store import created
from ..engine.store.preset import Preset
from ..engine.types import SpeculationStats
from .messages import Admitted, Chat, Generate, Sampling, TextDelta

# Ollama's names for what we call otherwise.
_ALIASES = {"num_predict": "max_tokens", "repeat_penalty": "repetition_penalty"}
_SETTABLE = (
    "max_tokens", "temperature", "top_p", "top_k", "min_p", "seed", "presence_penalty", "frequency_penalty",
    "repetition_penalty", "min_tokens", "stop",
)  # fmt: skip


class Costs(msgspec.Struct):
    """Times of one answer, in seconds from when it was asked for."""

    prompt_tokens: int = 0
    output_tokens: int = 0
    queue_s: float = 0.0
    first_s: float = 0.0
    """First output token."""
    total_s: float = 0.0
    speculation: SpeculationStats | None = None

    def lines(self) -> str:
        """As text; rates count from the end of the queue and from the first token."""
        reading = max(self.first_s - self.queue_s, 1e-9)
        writing = self.total_s - self.first_s
        rate = f", {(self.output_tokens - 1) / writing:.1f} tok/s" if self.output_tokens > 1 and writing > 0 else ""
        return (
            f"total   {self.total_s:.2f} s\n"
            f"prompt  {self.prompt_tokens} tokens in {reading:.2f} s, {self.prompt_tokens / reading:.1f} tok/s\n"
            f"output  {self.output_tokens} tokens{rate}\n"
            f"{self._drafts()}"
        )

    def _drafts(self) -> str:
        told = self.speculation
        if told is None:
            return ""
        length = 1 + told.num_accepted / told.num_steps
        methods = ", ".join(f"{m} {told.accepted.get(m, 0)} of {num}" for m, num in told.drafted.items())
        return f"drafts  accepted {methods}; {length:.2f} tokens a step in {told.num_steps} steps with drafts\n"


class Conversation:
    """Messages so far and the parameters of the next answer."""

    def __init__(
        self, *, chat: bool, system: str | None = None, sampling: dict[str, Any] | None = None,
        opening: list[dict[str, str]] | None = None,
    ) -> None:  # fmt: skip
        """``chat=False``: the model has no template, so each prompt is continued as it is and nothing is remembered.

        ``opening``: messages that the engine puts in front of each call, because the model comes with them.
        """
        self.chat = chat
        self.system = system
        self.sampling: dict[str, Any] = dict(sampling or {})
        self.messages: list[dict[str, Any]] = []
        self.opening: list[dict[str, Any]] = list(opening or [])

    def set(self, name: str, text: str) -> None:
        """Set a sampling parameter from text, under its name or Ollama's.

        Raises:
            ConfigError: unknown name, or no value of its type.
        """
        name = _ALIASES.get(name, name)
        if name not in _SETTABLE:
            raise ConfigError(f"no parameter {name!r}; there are {', '.join(_SETTABLE)}")
        if name == "stop":
            self.sampling["stop"] = [*self.sampling.get("stop", []), text]
            return
        kind = next(f.type for f in msgspec.structs.fields(Sampling) if f.name == name)
        try:
            value = msgspec.convert(text, kind, strict=False)
        except msgspec.ValidationError as e:
            raise ConfigError(
                f"{name} {text}: {str(e)[0].lower()}{str(e)[1:]}; such as: /set parameter {name} 1"
            ) from e
        self.sampling[name] = value

    def ask(self, prompt: str) -> Generate:
        """The call for the next answer; ``answered`` or ``dropped`` must follow."""
        values: dict[str, Any] = {"seed": random.getrandbits(63), **self.sampling}
        sampling = Sampling(**values)
        call_id = f"run-{uuid.uuid4().hex[:12]}"
        if not self.chat:
            return Generate(call_id=call_id, sampling=sampling, prompts=[prompt])
        self.messages.append({"role": "user", "content": prompt})
        first = [{"role": "system", "content": self.system}] if self.system else []
        return Generate(call_id=call_id, sampling=sampling, chat=Chat(messages=[*first, *self.messages]))

    def answered(self, text: str) -> None:
        """Remember the answer, also one that was cut short."""
        if self.chat:
            self.messages.append({"role": "assistant", "content": text})

    def dropped(self) -> None:
        """Forget the last prompt: it failed."""
        if self.chat and self.messages:
            self.messages.pop()

    def save(self, path: str) -> None:
        """Write messages and system text as JSON.

        Raises:
            ConfigError: the file cannot be written.
        """
        raw = msgspec.json.format(msgspec.json.encode({"system": self.system, "messages": self.messages}))
        write_text(path, raw.decode() + "\n")

    def load(self, path: str) -> None:
        """Take up what ``save`` wrote, or what a Modelfile says; the model stays the same.

        Raises:
            ConfigError: no such file, or it holds something else.
        """
        if is_modelfile(path):
            self._take(created.read(Path(path).expanduser(), path)[0].preset)
            return
        try:
            saved = msgspec.json.decode(Path(path).expanduser().read_bytes(), type=_Saved)
        except OSError as e:
            raise ConfigError(f"{path}: cannot be read ({e.strerror or e}); name a file that /save wrote") from e
        except (msgspec.DecodeError, UnicodeDecodeError) as e:
            raise ConfigError(f"{path}: is no saved conversation ({e}); name a file that /save wrote") from e
        self.system = saved.system
        self.messages = saved.messages

    def _take(self, preset: Preset) -> None:
        said = preset.messages
        self.messages = [*(said[len(self.opening) :] if said[: len(self.opening)] == self.opening else said)]
        self.system = self.system if preset.system is None else preset.system or None
        self.sampling |= {name: value for name, value in preset.sampling.items() if value is not None}


def is_modelfile(path: str) -> bool:
    """Whether a file is called one, as ``run`` and ``serve`` know them."""
    return "modelfile" in Path(path).name.lower()


def write_text(path: str, text: str) -> None:
    """Write a file that the user named.

    Raises:
        ConfigError: it cannot be written.
    """
    try:
        Path(path).expanduser().write_text(text, encoding="utf-8")
    except OSError as e:
        raise ConfigError(f"{path}: cannot be written ({e.strerror or e}); name another file") from e


class _Saved(msgspec.Struct):
    messages: list[dict[str, Any]]
    system: str | None = None


def read_answer(items: Iterable[Admitted | TextDelta], write: Callable[[str], None], costs: Costs) -> None:
    """Pass the text on as it comes and fill in ``costs``; an exception leaves what was counted until then."""
    begun_s = time.monotonic()
    for item in items:
        now_s = time.monotonic() - begun_s
        costs.total_s = now_s
        if isinstance(item, Admitted):
            costs.prompt_tokens = sum(p.num_tokens for p in item.prompts)
            continue
        if costs.output_tokens == 0:
            costs.first_s = now_s
            costs.queue_s = item.queue_s
        costs.output_tokens = item.num_tokens
        costs.speculation = item.speculation or costs.speculation
        if item.text:
            write(item.text)
