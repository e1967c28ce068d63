"""From the config to a head beside the target that has run once. In the target's process only, off its event loop."""

from dataclasses import dataclass
from typing import TYPE_CHECKING

from ..engine import plugins
from ..engine.config import Config, method_config
from ..engine.errors import BadModelFileError, ConfigError, StoreError
from ..engine.store import resolve
from ..engine.store.located import Located
from ..spec_decode.base import TargetContext
from ..spec_decode.heads import head
from .head_link import head_method

if TYPE_CHECKING:
    from .target_load import Pages


@dataclass(slots=True)
class LoadedHead:
    """A head for the runner, and what others must know of it."""

    observer: head.Guarded
    costs: list[tuple[int, float]]
    """Requests, seconds of one draft for each."""


def load_head(config: Config, pages: "Pages") -> LoadedHead | None:
    """The head of the method that is placed beside the target; None where there is none.

    Raises:
        ConfigError: its files are damaged, or of a head for another target.
    """
    name = head_method(config)
    if name is None:
        return None
    section = config.speculation
    settings = method_config(section, name)
    device, model = pages.device, pages.model
    dtype = getattr(settings, "dtype", "auto")
    located = _locate(name, getattr(settings, "model", ""))
    context = TargetContext(
        vocab_size=model.config.vocab_size,
        max_model_len=pages.sizes.max_model_len,
        max_num_seqs=config.scheduler.max_num_seqs,
        max_draft_tokens=section.max_draft_tokens,
        model=model,
        folder=located.folder,
        files=located.files,
        dtype=dtype if dtype != "auto" else "int8" if device.type == "cpu" else "bfloat16",
        device=str(device),
        num_blocks=pages.sizes.num_blocks,
        block_size=config.cache.block_size,
        rule=section.rule,
    )
    try:
        built = plugins.load("spec_decode.speculators", name).build(settings, context)
    except BadModelFileError as e:
        raise ConfigError(f"speculation.{name}.model: {e}") from e
    most = max(1, min(config.scheduler.max_num_seqs, pages.sizes.num_blocks))
    costs = head.measure(built, hidden_size=model.config.hidden_size, most=most, device=device)
    return LoadedHead(head.Guarded(built, name), costs)


def _locate(name: str, model: str) -> Located:
    try:
        located = resolve.locate(model, download=False)
    except (StoreError, BadModelFileError) as e:
        raise ConfigError(f"speculation.{name}.model: {e}") from e
    if located.kind != "safetensors":
        raise ConfigError(f"speculation.{name}.model: {model} is a {located.kind} file; name a folder of safetensors")
    return located
