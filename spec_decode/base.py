"""What an acceptance rule's plug-in file provides. No torch here: the batch a rule reads is named, not imported.

Speculators come in behind the same file when they are built; the runner needs the rule only.
"""

from typing import TYPE_CHECKING, Any, Protocol

if TYPE_CHECKING:
    from ..engine.execution.acceptance import Rule


class RulePlugin(Protocol):
    """A module ``spec_decode/rules/<name>.py``."""

    LOSSLESS: bool
    """Whether the output law is the target's own, whatever is drafted. False needs an opt-in by name."""

    def build(self, config: Any) -> "Rule":
        """The rule, from its own table of the config (None = its defaults)."""
        ...
