"""The default rule: keep drafts while they equal the target's own draw (house.md section 5, arXiv 2408.07978).

The target's token at position i is ``argmax(log p_i + g(seed, i))``, a function of the prefix and the seed alone. So no
draft can change the text: it can only save a step. With no drafts this is plain sampling; at temperature 0, greedy.
"""

from typing import TYPE_CHECKING, Any

from .. import tree

if TYPE_CHECKING:
    from ...engine.execution.acceptance import Accepted, VerifyBatch

LOSSLESS = True


class Coupled:
    """Stateless: every draw is keyed by seed and position."""

    def accept(self, batch: "VerifyBatch") -> "list[Accepted]":
        """Draw at every position; commit up to and with the first draw that no draft foretold."""
        from ...engine.execution.acceptance import Accepted
        from ...kernels import ops

        drawn = ops.sample(batch.logits, batch.temperatures, batch.seeds, batch.positions).tolist()
        answers: list[Accepted] = []
        for row, (start, drafts) in enumerate(zip(batch.starts, batch.draft_ids, strict=False)):
            parents = batch.parents[row] if batch.parents else None
            if parents is not None:
                own = drawn[start : start + len(drafts) + 1]
                path = tree.follow(parents, drafts, own)
                answers.append(Accepted([own[0], *(own[1 + node] for node in path)], len(path), path))
                continue
            count = 0
            while count < len(drafts) and drafts[count] == drawn[start + count]:
                count += 1
            answers.append(Accepted(drawn[start : start + count + 1], count))
        return answers


def build(config: Any = None) -> Coupled:
    """The rule takes no settings."""
    return Coupled()
