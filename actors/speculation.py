"""What the scheduler's shell needs to speculate: a ``Proposer`` from the config, and the core's counts. No torch."""

import logging
from collections.abc import Callable, Mapping
from typing import cast

from ..engine import plugins
from ..engine.config import Config, Speculation, method_config
from ..engine.core.limits import CoreConfig
from ..engine.core.stats import CoreStats
from ..engine.errors import ConfigError
from ..engine.execution.grammar import Grammars
from ..spec_decode.adapt import Fixed, Policy, Table
from ..spec_decode.base import Context
from ..spec_decode.goodput import Goodput
from ..spec_decode.grammar_drafts import GrammarDrafts
from ..spec_decode.live import Method
from ..spec_decode.proposer import Proposer
from ..spec_decode.speculators import draft_model
from ..spec_decode.step_costs import StepCosts
from .draft_link import DraftLink
from .head_link import HeadLink
from .mailbox import Mailbox

log = logging.getLogger(__name__)

_FOLDER, _RULES = "spec_decode.speculators", "spec_decode.rules"


def build(
    config: Config,
    sizes: CoreConfig,
    step_costs: list[tuple[int, float]],
    link: DraftLink | None = None,
    head: HeadLink | None = None,
    grammars: Grammars | None = None,
) -> Proposer | None:
    """None where no method is configured and nothing is forced: then nothing of speculation runs.

    ``link`` leads to the draft actor, ``head`` to what drafts beside the target; ``grammars`` force and cut drafts of
    requests that stand under one.

    Raises:
        ConfigError: a method's table does not fit.
        LookupError: a method's module is gone since the config was checked.
    """
    section = config.speculation
    is_forcing = section.forced_tokens and grammars is not None
    if not section.max_draft_tokens or not (section.methods or is_forcing):
        return None
    context = Context(
        vocab_size=sizes.vocab_size,
        max_model_len=sizes.max_model_len,
        max_num_seqs=sizes.max_num_seqs,
        max_draft_tokens=section.max_draft_tokens,
    )
    methods: list[Method] = []
    for name in section.methods:
        plugin = plugins.load(_FOLDER, name)
        if plugin.PLACEMENT == "scheduler":
            speculator = plugin.build(method_config(section, name), context)
            speculator.warmup()
            methods.append(Method(name, speculator))
        elif link is not None and name == draft_model.NAME:
            methods.append(Method(name, link))
        elif head is not None and name == head.name:
            methods.append(Method(name, head))
        else:
            raise ConfigError(
                f"speculation.methods: {name} runs in a {plugin.PLACEMENT} of its own, for which there is only "
                f"{draft_model.NAME}; leave it out"
            )
    costs = StepCosts(step_costs)
    proposer = Proposer(
        methods,
        _policy(config, costs),
        costs,
        section.max_draft_tokens,
        grammars=GrammarDrafts(grammars) if grammars is not None else None,
        forced_tokens=section.forced_tokens,
    )
    _name_rule(proposer, section.rule)
    return proposer


def _name_rule(proposer: Proposer, name: str) -> None:
    """Show in the metrics which rule decides, and say it where the text is not the target's own."""
    is_lossless = plugins.load(_RULES, name).LOSSLESS
    proposer.tally.values[f"spec_rule/{name}/{'yes' if is_lossless else 'no'}"] = 1
    if not is_lossless:
        log.warning(
            "speculation.rule = %s is lossy: texts are not the target model's own; use coupled to keep them", name
        )


def make_link(config: Config, mailbox: Mailbox, clock: Callable[[], float]) -> DraftLink | None:
    """The way to the draft actor; None where none is configured."""
    section = config.speculation
    if draft_model.NAME not in section.methods or not section.max_draft_tokens:
        return None
    settings = cast(draft_model.Config, method_config(section, draft_model.NAME))
    return DraftLink(
        mailbox,
        draft_model.NAME,
        max_draft_tokens=section.max_draft_tokens,
        clock=clock,
        is_ahead=settings.mode != "sync",
        q=settings.q,
        timeout_s=settings.timeout_ms / 1000,
    )


def _policy(config: Config, costs: StepCosts) -> Policy:
    section = config.speculation
    match section.policy:
        case "fixed":
            return Fixed(section.max_draft_tokens)
        case "table":
            return Table(section.table)
        case "goodput":
            return Goodput(costs)


def sound_ids(token_ids: list[int], sizes: CoreConfig) -> list[int]:
    """A client's guess at its answer, as far as one can be so long; [] where it holds what no answer can."""
    ids = token_ids[: sizes.max_model_len]
    return ids if not ids or (min(ids) >= 0 and max(ids) < sizes.vocab_size) else []


def counts(core: CoreStats, tally: Mapping[str, float], section: Speculation) -> dict[str, float]:
    """The counts of drafts that outside tools read, over all configured methods, and the core's of those it dropped.

    Tokens that grammars force are in ``tally`` alone: they would make any method look good.
    """
    values = {f"spec_stale_drafts/{reason}": float(num) for reason, num in core.num_stale_drafts.items()}
    if not section.methods:
        return values
    sums = {
        "spec_decode_num_drafts": "spec_drafts/{}",
        "spec_decode_num_draft_tokens": "spec_draft_tokens/{}",
        "spec_decode_num_accepted_tokens": "spec_accepted_tokens/{}",
    } | {
        f"spec_decode_num_accepted_tokens_per_pos/{position}": f"spec_accepted_per_pos/{{}}/{position}"
        for position in range(section.max_draft_tokens)
    }
    return values | {name: sum(tally.get(of.format(m), 0) for m in section.methods) for name, of in sums.items()}
