"""A KV pool for a few of the streams only: they take turns, and the texts are the same."""

from fault_kinds.judge import Outcome
from fault_kinds.rig import Rig, serving

_NUM_BLOCKS = 64
_MODEL_LEN = 512


async def pool(rig: Rig) -> list[Outcome]:
    """All streams on a server of its own."""
    small = (f"cache.num_blocks={_NUM_BLOCKS}", f"target.max_model_len={_MODEL_LEN}")
    async with serving(rig.settings, *small, right=rig.right) as own:
        before = await own.state()
        crowd = own.crowd()
        await crowd.reached(0.02)
        outcome = Outcome(f"KV pool of {before.total_blocks} blocks", crowd.in_flight)
        replies = await crowd.ended()
        outcome.back_s = await own.eventually(lambda s: s.free_blocks == s.total_blocks)
        await own.judge(outcome, replies, before)
        preempted = await own.metric("vllm:num_preemptions_total")
        outcome.note = f"{preempted:.0f} preemptions; back = blocks free after the last end"
        outcome.want(preempted > 0, "nobody was preempted: the pool is too large to say anything; give more clients")
        outcome.want(not outcome.failed, f"calls failed: {next((r.error for r in replies if r.error), '')}")
        return [outcome]
