"""Requests under a grammar wait for the target to compile it, and nobody waits with them."""

import asyncio
from types import SimpleNamespace
from typing import Any, cast

import anyio
import llguidance
import tiny_tokenizers
from fake_actors import CARD, LOCATED, FakeTarget, config, expected
from simulation import Simulation, simulate

from paceline.actors.actor import Setup
from paceline.actors.grammar_gate import GrammarGate
from paceline.actors.messages import Abort, ActorLost, Add, Added, Compile, Compiled, Refused
from paceline.actors.scheduler import SchedulerActor
from paceline.actors.target import Target
from paceline.engine.core.plan import RequestOutput
from paceline.engine.execution.grammar import Grammars
from paceline.engine.types import SamplingParams


def asked(name: str, grammar: str) -> Add:
    return Add(name, [1, 2, 3], SamplingParams(max_tokens=5, grammar=grammar))


# --- the gate ---------------------------------------------------------------------------------------------------------


def test_one_question_a_grammar_and_one_answer_for_all_who_wait() -> None:
    gate = GrammarGate()
    first = gate.hold("t", asked("a", "x"), 1.0)
    assert first is not None and first.grammar == "x"
    assert gate.hold("t", asked("b", "x"), 2.0) is None and len(gate) == 2
    other = gate.hold("t", asked("c", "y"), 3.0)
    assert other is not None and other.key != first.key
    gate.drop("a")
    assert [held.add.request_id for held in gate.passed(Compiled(first.key))] == ["b"]
    assert gate.passed(Compiled(first.key)) == [] and len(gate) == 1
    assert gate.hold("t", asked("d", "x"), 4.0) is not None, "its answer is not remembered: the target may forget it"


def test_another_target_is_asked_again_and_late_answers_of_the_first_are_none() -> None:
    gate = GrammarGate()
    first = gate.hold("t", asked("a", "x"), 1.0)
    assert first is not None
    (again,) = gate.ask_again()
    assert again.grammar == "x" and gate.passed(Compiled(first.key)) == []
    assert [held.arrived_s for held in gate.passed(Compiled(again.key))] == [1.0]
    gate.hold("t", asked("b", "y"), 1.0)
    assert [held.add.request_id for held in gate.take_all()] == ["b"] and not gate and not gate.ask_again()


# --- the scheduler's shell --------------------------------------------------------------------------------------------


class SlowCompiler(FakeTarget):
    """Takes its time over grammars named slow, and tells what it was asked."""

    async def start(self) -> None:
        await super().start()
        self.asked: list[str] = []

    async def handle(self, sender: str, message: Any) -> None:
        if isinstance(message, Compile):
            self.asked.append(message.grammar)
            if message.grammar == "slow":
                asyncio.get_running_loop().call_later(30.0, self.mailbox.send, sender, Compiled(message.key))
                return
        await super().handle(sender, message)


class Shell(Simulation):
    """Scheduler and target; the test is the tokenizer."""

    def __init__(self) -> None:
        super().__init__()
        self.roles = {"scheduler": SchedulerActor, "target": SlowCompiler}
        self.tokenizer = self.network.mailbox("tokenizer")

    async def __aenter__(self) -> "Shell":
        await super().__aenter__()
        return self

    def add(self, name: str, grammar: str = "") -> None:
        self.tokenizer.send("scheduler", asked(name, grammar))

    async def next_of(self, kind: type, seconds: float) -> Any:
        with anyio.fail_after(seconds):
            while True:
                _, message = await self.tokenizer.receive()
                if isinstance(message, kind):
                    return message

    async def text_of(self, name: str, seconds: float) -> list[int]:
        tokens: list[int] = []
        while True:
            output = await self.next_of(RequestOutput, seconds)
            if output.request_id == name:
                tokens += output.token_ids
                if output.finish_reason:
                    return tokens


def test_nobody_else_waits_for_a_slow_grammar() -> None:
    async def main() -> None:
        async with Shell() as shell:
            shell.add("slow", "slow")
            shell.add("twin", "slow")
            shell.add("quick", "quick")
            shell.add("free")
            assert {(await shell.next_of(Added, 1)).request_id for _ in range(2)} == {"quick", "free"}
            assert await shell.text_of("free", 5) == expected([1, 2, 3], 5)
            shell.tokenizer.send("scheduler", Abort("twin"))
            assert (await shell.next_of(Added, 40)).request_id == "slow"
            assert await shell.text_of("slow", 5) == expected([1, 2, 3], 5)
            target = shell.actors["target"]
            assert isinstance(target, SlowCompiler) and target.asked == ["slow", "quick"]
            assert not shell.scheduler._gate

    simulate(main)


def test_one_that_does_not_compile_is_refused() -> None:
    async def main() -> None:
        async with Shell() as shell:
            shell.add("bad", "none")
            refused = await shell.next_of(Refused, 1)
            assert refused.request_id == "bad" and refused.error.kind == "invalid"
            assert refused.error.message == "it is none" and not shell.scheduler._live

    simulate(main)


def test_a_target_that_dies_over_it_is_replaced_and_asked_again() -> None:
    async def main() -> None:
        async with Shell() as shell:
            shell.add("slow", "slow")
            await anyio.sleep(1.0)
            await shell.kill("target")
            assert (await shell.next_of(Added, 60)).request_id == "slow"
            assert await shell.text_of("slow", 5) == expected([1, 2, 3], 5)

    simulate(main)


# --- the target -------------------------------------------------------------------------------------------------------


class Mailbox:
    """Keeps what is sent."""

    def __init__(self) -> None:
        self.sent: list[Compiled] = []

    def send(self, to: str, message: Compiled) -> None:
        self.sent.append(message)


def test_the_target_compiles_beside_its_steps() -> None:
    text = tiny_tokenizers.byte_level().to_str()
    grammars = Grammars(lambda: llguidance.LLTokenizer(text, n_vocab=448, eos_token=[2]))
    regex = llguidance.LLMatcher.grammar_from_regex

    async def main() -> None:
        mailbox = Mailbox()
        setup = Setup(actor="target", epoch=0, folder="", config=config(), located=LOCATED, card=CARD)
        target = Target(setup, cast(Any, mailbox))
        target._loaded = cast(Any, SimpleNamespace(grammars=grammars))
        await target.handle("scheduler", Compile("1", regex("[0-9]+")))
        assert not mailbox.sent, "not on the event loop"
        with anyio.fail_after(20):
            while not mailbox.sent:
                await anyio.sleep(0.005)
        await target.handle("scheduler", Compile("2", regex("[0-9]+")))
        assert mailbox.sent == [Compiled("1"), Compiled("2")], "known now"
        await target.handle("scheduler", Compile("3", regex("(")))
        with anyio.fail_after(20):
            while len(mailbox.sent) < 3:
                await anyio.sleep(0.005)
        assert mailbox.sent[2].key == "3" and "does not compile" in mailbox.sent[2].error
        await target.handle("scheduler", Compile("1", regex("[a-z]+")))
        await target.handle("supervisor", ActorLost("scheduler", 0))
        assert target._compilers is not None
        await anyio.to_thread.run_sync(target._compilers.shutdown)
        await anyio.sleep(0.05)
        assert len(mailbox.sent) == 3, "another scheduler asks under the same keys, for other grammars"
        await target.stop()

    anyio.run(main)
