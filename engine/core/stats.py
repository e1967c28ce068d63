"""What the core counts. Plain ints, cumulative unless said; turned into metrics elsewhere."""

import msgspec


class CoreStats(msgspec.Struct, frozen=True, kw_only=True):
    """A snapshot of a ``Scheduler``."""

    num_running: int
    """Now."""
    num_waiting: int
    """Now, forks that wait for their prompt included."""
    num_queued_tokens: int
    """Now: known tokens of those who wait."""
    num_in_flight: int
    """Now: unanswered plans."""
    num_free_blocks: int
    """Now: worthless content, next to be taken."""
    num_cached_blocks: int
    """Now: unreferenced, content kept; free as well when it comes to it."""
    num_used_blocks: int
    """Now: held by requests or unanswered plans."""
    num_allocated_slots: int
    """Now: slots of all used blocks."""
    num_filled_slots: int
    """Now: those in which a token is stored or about to be; waste = 1 - filled / allocated."""
    num_preemptions: int
    num_steps: int
    prefix_query_tokens: int
    """Prompt and recomputed tokens looked up in the prefix index or shared by a fork."""
    prefix_hit_tokens: int
    num_drafts: int
    """Rows with at least one draft, answered."""
    num_draft_tokens: int
    num_accepted_tokens: int
    num_accepted_by_position: list[int]
    """Element i: rows in which draft i was accepted."""
    num_stale_drafts: dict[str, int]
    """Dropped unverified, by reason: unknown, epoch, diverged, fault, quarantined."""


class Counters:
    """The cumulative part, written by the scheduler."""

    __slots__ = (
        "accepted_by_position", "num_draft_tokens", "num_drafts", "num_preemptions", "prefix_hit_tokens",
        "prefix_query_tokens", "stale_drafts",
    )  # fmt: skip

    def __init__(self) -> None:
        self.num_preemptions = 0
        self.prefix_query_tokens = 0
        self.prefix_hit_tokens = 0
        self.num_drafts = 0
        self.num_draft_tokens = 0
        self.accepted_by_position: list[int] = []
        self.stale_drafts: dict[str, int] = {}

    def verified(self, num_drafts: int, num_accepted: int) -> None:
        """One row's drafts were answered."""
        self.num_drafts += 1
        self.num_draft_tokens += num_drafts
        by_position = self.accepted_by_position
        while len(by_position) < num_drafts:
            by_position.append(0)
        for position in range(num_accepted):
            by_position[position] += 1

    def stale(self, reason: str) -> None:
        """Drafts were dropped unverified."""
        self.stale_drafts[reason] = self.stale_drafts.get(reason, 0) + 1
