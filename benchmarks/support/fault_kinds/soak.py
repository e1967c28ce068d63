"""Many calls of all kinds, good and bad: what has grown afterwards?"""

import asyncio
import itertools
import random
from collections import Counter

from fault_kinds.bodies import answer
from fault_kinds.judge import Outcome
from fault_kinds.leavers import leave
from fault_kinds.rig import Rig, serving
from load import Call, Reply
from malformed import is_refusal, requests

_AT_ONCE = 32
_GROWTH = 0.05
_WARM_UP = 5
"""One call in so many is played before memory is looked at: caches and allocators have a size that they grow to."""
_LEAST_WARM_UP = 100
_POOL = ("cache.num_blocks=320", "target.max_model_len=1024")
"""So small that all of it is in use before memory is looked at: memory is given to a block when it is first written."""


async def soak(rig: Rig) -> list[Outcome]:
    """As many calls as told: seven in ten are ordinary and compared, two leave, one is malformed."""
    num = rig.settings.soak
    if not num:
        raise SystemExit("--faults soak: say how many calls, such as --soak 2000")
    async with serving(rig.settings, *_POOL, right=rig.right) as own:
        return [await _soak(own, num)]


async def _soak(rig: Rig, num: int) -> Outcome:
    model = await rig.target.find_model()
    bad = list(requests(rig.target, model).values())
    await _mixed(rig, max(_LEAST_WARM_UP, num // _WARM_UP), bad, random.Random(3))
    await rig.eventually(lambda s: s.running == s.waiting == 0)
    before = await rig.state(memory=True)
    replies, kinds, wrong = await _mixed(rig, num, bad, random.Random(4))
    outcome = Outcome(f"soak of {num}", _AT_ONCE)
    outcome.back_s = await rig.eventually(lambda s: not (s.running or s.waiting) and s.free_blocks == s.total_blocks)
    after = await rig.state(memory=True)
    begun, grown = sum(before.memory.values()), sum(after.memory.values())
    growth = grown / begun - 1
    most = max(after.memory, key=lambda name: after.memory[name] - before.memory.get(name, 0))
    more = after.memory[most] - before.memory.get(most, 0)
    fds = sum(after.fds.values()) - sum(before.fds.values())
    outcome.note = (
        f"{kinds['stays']} whole, {kinds['leaves']} left, {kinds['malformed']} malformed; memory "
        f"{begun >> 20} to {grown >> 20} MiB ({growth:+.1%}; most: {most} {more >> 20:+d}), descriptors {fds:+d}, "
        f"processes {after.num_processes - before.num_processes:+d}, blocks {after.free_blocks - before.free_blocks:+d}"
    )
    outcome.faults += wrong[:3]
    outcome.want(growth < _GROWTH, f"memory grew by more than {_GROWTH:.0%}")
    await rig.judge(outcome, replies, before)
    outcome.want(not outcome.failed, f"calls failed: {next((r.error for r in replies if r.error), '')}")
    return outcome


async def _mixed(
    rig: Rig, num: int, bad: list[bytes], rng: random.Random
) -> tuple[list[Reply], Counter[str], list[str]]:
    calls, numbers = rig.calls(), itertools.count()
    replies: list[Reply] = []
    kinds: Counter[str] = Counter()
    wrong: list[str] = []

    async def client() -> None:
        while (number := next(numbers)) < num:
            kind = rng.choices(("stays", "leaves", "malformed"), (7, 2, 1))[0]
            kinds[kind] += 1
            if kind == "stays":
                replies.append(await rig.target.stream(calls[number % len(calls)]))
            elif kind == "leaves":
                call = Call(f"{number}: tell me a story.", {"max_tokens": 500, "ignore_eos": True, "n": 1 + number % 3})
                try:
                    await leave(rig.target, call, rng.randrange(12), is_reset=rng.random() < 0.5)
                except (OSError, TimeoutError) as e:
                    wrong.append(f"one that leaves: {type(e).__name__} {e}")
            else:
                status, _, _ = await answer(rig, rng.choice(bad))
                if not is_refusal(status):
                    wrong.append(f"a malformed request: status {status}")

    await asyncio.gather(*(client() for _ in range(_AT_ONCE)))
    return replies, kinds, wrong
