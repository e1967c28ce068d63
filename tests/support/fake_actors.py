"""Small stand-ins for the roles around the scheduler, used in one process (``simulation.py``) and in spawned ones.

A target whose token is a function of prefix and seed, a tokenizer whose text is numbers, a gateway that speaks lines.
"""

import asyncio
import atexit
import contextlib
import hashlib
import itertools
import os
import signal
import socket
import tempfile
import time
from pathlib import Path
from typing import Any

import anyio
import msgspec
import tokenizers
from anyio.abc import TaskStatus
from tokenizers import decoders, models, normalizers, pre_tokenizers

from paceline.actors.actor import Actor
from paceline.actors.client import EngineClient
from paceline.actors.messages import ActorLost, Compile, Compiled, Generate, Hello, Sampling, TextDelta
from paceline.actors.tokenizer import Tokenizer
from paceline.engine.config import Config
from paceline.engine.core.plan import NewRequest, RowResult, StepPlan, StepResult, TokenLogprobs
from paceline.engine.errors import BadModelFileError, PacelineError
from paceline.engine.store.located import Located, ModelCard, TokenizerSource
from paceline.engine.types import ModelConfig

WIDTH = 1000
LOCATED = Located(name="fake", kind="gguf", folder="/nowhere", files=[], sizes=[], digests=[])
CARD = ModelCard(
    name="fake",
    model=ModelConfig(
        architecture="Fake", vocab_size=WIDTH, hidden_size=8, num_layers=1, num_heads=1, num_kv_heads=1, head_dim=8,
        intermediate_size=8, max_position=4096,
    ),
    tokenizer=TokenizerSource(kind="json", path="/nowhere"),
    chat_template=None,
)  # fmt: skip
ENTRIES = {
    "gateway": "fake_actors:LineGateway",
    "tokenizer": "fake_actors:FakeTokenizer",
    "target": "fake_actors:FakeTarget",
}


def next_token(tokens: list[int], seed: int = 0) -> int:
    """The fake model: a token that depends on the whole prefix and the seed."""
    digest = hashlib.blake2b(repr((seed, tokens)).encode(), digest_size=4).digest()
    return int.from_bytes(digest, "little") % WIDTH


def logprobs_of(token: int) -> TokenLogprobs:
    """What the fake model thinks of a token."""
    return TokenLogprobs(token, -token / WIDTH, 1, [token, 0], [-token / WIDTH, -5.0])


def expected(prompt: list[int], num: int, seed: int = 0) -> list[int]:
    """What an undisturbed engine answers."""
    tokens = list(prompt)
    for _ in range(num):
        tokens.append(next_token(tokens, seed))
    return tokens[len(prompt) :]


def text_of(ids: list[int]) -> str:
    """Ids as the fake tokenizer prints them."""
    return "".join(f"{i} " for i in ids)


class FakeTarget(Actor):
    """Answers plans in order, after ``delay_s`` each. Checks what the scheduler sends."""

    greets = ("supervisor", "scheduler")
    delay_s = 0.0
    num_blocks = 64
    block_size = 4
    max_model_len = 200

    async def start(self) -> None:
        self.delay_s = float(os.environ.get("FAKE_STEP_S", self.delay_s))
        fault = os.environ.get("FAKE_TARGET_FAULT", "")
        if flag := os.environ.get("FAKE_EXIT_FLAG"):
            atexit.register(Path(flag).touch)
        if fault == "bad file":
            raise BadModelFileError("model.gguf: ends at byte 7 of 4096; pull the model again")
        if fault == "crash":
            raise RuntimeError("boom")
        if fault == "kill":
            os.kill(os.getpid(), signal.SIGKILL)
        if fault == "slow":
            await anyio.sleep(60)
        self.tokens: dict[str, list[int]] = {}
        self.opened: dict[str, NewRequest] = {}
        self.epochs: dict[str, int] = {}
        self.last_step = -1
        self.lives = 0
        self.steps: asyncio.Queue[StepPlan] = asyncio.Queue()

    def hello(self) -> Hello:
        shrunk = self.epoch if "FAKE_SHRINKS" in os.environ else 0
        return msgspec.structs.replace(
            super().hello(),
            logits_width=WIDTH,
            num_blocks=self.setup.config.cache.num_blocks or self.num_blocks - shrunk,
            block_size=self.block_size,
            max_model_len=self.max_model_len,
        )

    async def handle(self, sender: str, message: Any) -> None:
        match message:
            case StepPlan():
                await self.steps.put(message)
            case Compile():
                self.mailbox.send(sender, Compiled(message.key, "it is none" if message.grammar == "none" else ""))
            case ActorLost() if message.actor == "scheduler":
                while not self.steps.empty():
                    self.steps.get_nowait()
                self.tokens.clear()
                self.last_step = -1
                self.lives += 1
            case _:
                pass

    async def serve(self, *, task_status: TaskStatus[None]) -> None:
        task_status.started()
        while True:
            plan = await self.steps.get()
            life = self.lives
            self.progress.begin(plan.step)
            if (flag := os.environ.get("FAKE_HANG_FLAG")) and os.path.exists(flag):
                os.unlink(flag)
                time.sleep(60)  # a device call that never returns
            if self.delay_s:
                await anyio.sleep(self.delay_s)
            result = self.step(plan) if life == self.lives else None
            self.progress.end()
            if result is not None:
                self.mailbox.send("scheduler", result)

    def step(self, plan: StepPlan) -> StepResult:
        """The whole model."""
        assert plan.step > self.last_step, (plan.step, self.last_step)
        self.last_step = plan.step
        for request_id in plan.closed:
            del self.tokens[request_id]
        for new in plan.new:
            assert new.request_id not in self.tokens
            self.tokens[new.request_id] = list(new.token_ids)
            self.opened[new.request_id] = new
            self.epochs[new.request_id] = new.epoch
        rows: list[RowResult] = []
        for row in plan.rows:
            tokens = self.tokens[row.request_id]
            assert row.epoch == self.epochs[row.request_id]
            opened, ids, logprobs, prompt_logprobs = self.opened[row.request_id], list[int](), None, None
            if opened.params.prompt_logprobs is not None:
                end = min(row.start + row.num_tokens, opened.num_prompt - 1)
                prompt_logprobs = [logprobs_of(t) for t in tokens[row.start + 1 : end + 1]] or None
            if row.yields:
                assert row.start + row.num_tokens == len(tokens)
                ids = [next_token(tokens, opened.params.seed)]
                tokens += ids
                logprobs = None if opened.params.logprobs is None else [logprobs_of(ids[0])]
            rows.append(RowResult(row.request_id, row.epoch, ids, 0, logprobs, prompt_logprobs))
        return StepResult(plan.step, rows, 0.001)


class FakeTokenizer(Tokenizer):
    """The real actor around a made-up vocabulary: text is the ids' numbers, see ``text_of``."""

    async def start(self) -> None:
        with tempfile.TemporaryDirectory() as folder:
            source = TokenizerSource(kind="json", path=f"{folder}/tokenizer.json")
            numbers().save(source.path)
            self.setup = msgspec.structs.replace(self.setup, card=msgspec.structs.replace(CARD, tokenizer=source))
            await super().start()

    async def serve(self, *, task_status: TaskStatus[None]) -> None:
        """No threads: a virtual clock does not wait for them."""
        task_status.started()
        await anyio.sleep_forever()


def numbers() -> tokenizers.Tokenizer:
    """Id 17 is "17 "."""
    made = tokenizers.Tokenizer(models.WordLevel({f"{i}_": i for i in range(WIDTH)}, unk_token="0_"))
    made.normalizer = normalizers.Replace(" ", "_")  # pyright: ignore
    made.pre_tokenizer = pre_tokenizers.Split("_", "merged_with_previous")  # pyright: ignore
    made.decoder = decoders.Replace("_", " ")  # pyright: ignore
    return made


class LineGateway(Actor):
    """One line in: ``<prompt id> <num tokens>``; lines out: text, then ``done``, or ``error <code>``.

    The line ``state`` gives the engine's state and each actor's pid.
    """

    async def start(self) -> None:
        self.client = EngineClient(self.mailbox)
        self.ids = itertools.count()

    async def handle(self, sender: str, message: Any) -> None:
        self.client.handle(sender, message)

    async def serve(self, *, task_status: TaskStatus[None]) -> None:
        server = await asyncio.start_server(self._talk, sock=socket.socket(fileno=self.setup.socket_fd))
        task_status.started()
        try:
            await anyio.sleep_forever()
        finally:
            server.close()

    async def drain(self) -> None:
        await self.client.drained()
        await anyio.sleep(0.05)

    async def _talk(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with contextlib.suppress(ConnectionError):
            while line := (await reader.readline()).decode().split():
                if line == ["state"]:
                    while (state := self.client.state) is None:
                        await anyio.sleep(0.01)
                    writer.write(msgspec.json.encode(state) + b"\n")
                    continue
                call = Generate(
                    f"{self.epoch}.{next(self.ids)}", Sampling(max_tokens=int(line[1])), prompts=[[int(line[0])]]
                )
                try:
                    async with contextlib.aclosing(self.client.generate(call)) as items:
                        async for item in items:
                            if isinstance(item, TextDelta) and item.text:
                                writer.write(item.text.encode() + b"\n")
                                await writer.drain()
                    writer.write(b"done\n")
                except PacelineError as e:
                    writer.write(f"error {e.info().code}\n".encode())
        writer.close()


def config(**scheduler: Any) -> Config:
    """The default config on a free port, with some scheduler keys replaced."""
    base = Config()
    return msgspec.structs.replace(
        base,
        server=msgspec.structs.replace(base.server, port=0, shutdown_timeout_s=10.0),
        scheduler=msgspec.structs.replace(base.scheduler, **scheduler),
    )


SUPPORT = str(Path(__file__).resolve().parent)
