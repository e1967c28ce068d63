"""From the config to a ``Proposer``: load the methods placed in the scheduler process and the policy. No torch."""

from ..engine import plugins
from ..engine.config import Config, method_config
from ..engine.core.limits import CoreConfig
from ..spec_decode.adapt import Fixed, Goodput, Policy, Table
from ..spec_decode.base import Context
from ..spec_decode.live import Method
from ..spec_decode.proposer import Proposer
from ..spec_decode.step_costs import StepCosts

_FOLDER = "spec_decode.speculators"


def build(config: Config, sizes: CoreConfig, step_costs: list[tuple[int, float]]) -> Proposer | None:
    """None where no method is configured: then nothing of speculation runs.

    Raises:
        ConfigError: a method's table does not fit.
        LookupError: a method's module is gone since the config was checked.
    """
    section = config.speculation
    if not section.methods or not section.max_draft_tokens:
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
    costs = StepCosts(step_costs)
    return Proposer(methods, _policy(config, costs), costs, section.max_draft_tokens)


def _policy(config: Config, costs: StepCosts) -> Policy:
    section = config.speculation
    match section.policy:
        case "fixed":
            return Fixed(section.max_draft_tokens)
        case "table":
            return Table(section.table)
        case "goodput":
            return Goodput(costs)
