"""The files of the draft model, where one is configured. No torch."""

from typing import cast

from ..engine.config import Config, method_config
from ..engine.store import card, resolve
from ..engine.store.located import Located, ModelCard
from ..spec_decode.speculators import draft_model
from . import terminal


def find_drafter(config: Config) -> tuple[Located, ModelCard] | None:
    """Files and card of ``[speculation.draft_model]``, fetched where needed with progress on stderr; None = no use.

    Raises:
        PacelineError: drafts that do not fit the rule, no such model, a failed fetch, a damaged file; one line with
            the remedy.
    """
    section = config.speculation
    if draft_model.NAME not in section.methods or not section.max_draft_tokens:
        return None
    settings = cast(draft_model.Config, method_config(section, draft_model.NAME))
    draft_model.check_rule(settings, section.rule)
    with terminal.progress() as report:
        located = resolve.locate(settings.model, progress=report)
    return located, card.read(located)
