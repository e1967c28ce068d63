"""Prompts as long as the model takes, one behind the other, beside streams: does anybody take that for a hang?"""

import asyncio
import random
import time

from fault_kinds.judge import Outcome
from fault_kinds.rig import Rig, serving
from load import Call

_BESIDE = 4
_ANSWER = 8


async def prefills(rig: Rig) -> list[Outcome]:
    """For as many seconds as told; no actor may be restarted, no call fail."""
    async with serving(rig.settings, "server.request_timeout_s=3600", right=rig.right) as own:
        before = await own.state()
        rng = random.Random(5)
        models = await own.target.get("/v1/models")
        max_len = int(models[1].partition(b'"max_model_len":')[2].split(b",")[0].strip(b" }]"))
        until_s = time.monotonic() + own.settings.prefill_s
        num_long = num_beside = 0
        failed: list[str] = []

        async def long() -> None:
            nonlocal num_long
            while time.monotonic() < until_s:
                ids = [rng.randrange(100, 1000) for _ in range(max_len - 2 * _ANSWER)]
                reply = await own.ids(ids, _ANSWER)
                failed.extend([reply] if reply else [])
                num_long += 1

        async def beside(number: int) -> None:
            nonlocal num_beside
            while time.monotonic() < until_s:
                reply = await own.target.stream(Call(f"{number}: tell me a story.", {"max_tokens": 64}))
                failed.extend([reply.error] if reply.error else [])
                num_beside += 1

        await asyncio.gather(long(), *(beside(i) for i in range(_BESIDE)))
        _, body = await own.ready()
        restarts = {name: actor["restarts"] for name, actor in body.get("actors", {}).items() if actor["restarts"]}
        outcome = Outcome(f"prompts of {max_len} tokens for {own.settings.prefill_s:g} s", 1 + _BESIDE, len(failed))
        outcome.note = f"{num_long} long prompts, {num_beside} calls beside them; restarts: {restarts or 'none'}"
        outcome.want(not failed, f"calls failed: {failed[:1]}")
        outcome.want(not restarts, "an actor was taken for dead")
        await own.judge(outcome, [], before)
        return [outcome]
