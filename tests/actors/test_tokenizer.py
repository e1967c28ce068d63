"""The tokenizer actor over a memory network: real message bytes, a scheduler and a gateway played by the test."""

import asyncio
import contextlib
from collections.abc import AsyncIterator, Awaitable, Callable
from pathlib import Path
from typing import Any

import anyio
import msgspec
import pytest
from tiny_cards import setup
from tiny_tokenizers import byte_level

from paceline.actors import tokenizer as tokenizer_module
from paceline.actors.choice import Choice
from paceline.actors.memory_mailbox import MemoryNetwork
from paceline.actors.messages import (
    Abort,
    AbortCall,
    ActorLost,
    Add,
    Added,
    Admitted,
    Again,
    CallFailed,
    Chat,
    Detokenize,
    Drain,
    Embed,
    EngineState,
    Generate,
    Hello,
    Refused,
    Sampling,
    TextDelta,
    Tokenize,
    Tokenized,
)
from paceline.actors.text.sampling import choice_seed
from paceline.actors.tokenizer import Tokenizer
from paceline.engine.core.plan import RequestOutput, TokenLogprobs
from paceline.engine.types import ErrorInfo, Pooling, SpeculationControl, SpeculationStats

END = 2


def ids_of(text: str) -> list[int]:
    return byte_level().encode(text).ids


class Bench:
    """The actor with its neighbours in our hands."""

    def __init__(self, folder: Path, high_water_mark: int, **card: Any) -> None:
        self.network = MemoryNetwork(high_water_mark=high_water_mark)
        self.gateway = self.network.mailbox("gateway")
        self.scheduler = self.network.mailbox("scheduler")
        self.supervisor = self.network.mailbox("supervisor")
        self.actor = Tokenizer(setup(folder, "tokenizer", **card), self.network.mailbox("tokenizer"))

    async def from_actor(self, mailbox: Any) -> Any:
        with anyio.fail_after(10):
            while True:
                _, message = await mailbox.receive()
                is_hello = isinstance(message, Hello) and mailbox is not self.supervisor
                if not is_hello and type(message).__name__ not in ("Stats", "Heartbeat"):
                    return message

    async def reply(self) -> Any:
        """The next message to the gateway."""
        return await self.from_actor(self.gateway)

    async def asked(self) -> Any:
        """The next message to the scheduler."""
        return await self.from_actor(self.scheduler)

    async def quiet(self) -> None:
        """Nothing is on its way to the gateway or the scheduler."""
        for _ in range(20):
            await asyncio.sleep(0)
        stats = {b"Stats", b"Hello"}
        for mailbox in (self.gateway, self.scheduler):
            waiting = self.network.inbox(mailbox.address)
            assert not [frame for _, frame in waiting if not any(s in frame for s in stats)]

    def call(self, call_id: str = "c", **fields: Any) -> None:
        fields = {"sampling": Sampling(max_tokens=50)} | fields
        self.gateway.send("tokenizer", Generate(call_id, **fields))

    async def admit(self, call_id: str = "c", **fields: Any) -> list[Add]:
        """Send a call, take all its requests and see it admitted."""
        self.call(call_id, **fields)
        adds = [await self.asked() for _ in range(fields.get("n", 1) * len(fields.get("prompts") or "1"))]
        for add in adds:
            self.scheduler.send("tokenizer", Added(add.request_id))
        assert isinstance(await self.reply(), Admitted)
        return adds

    def output(self, request_id: str, offset: int, token_ids: list[int], **fields: Any) -> None:
        self.scheduler.send("tokenizer", RequestOutput(request_id, offset, token_ids, **fields))

    async def deltas(self) -> list[TextDelta]:
        """Deltas up to the first that ends a choice."""
        found: list[TextDelta] = []
        while True:
            delta = await self.reply()
            assert isinstance(delta, TextDelta), delta
            found.append(delta)
            if delta.finish_reason is not None:
                return found

    def check_nothing_stays(self) -> None:
        assert not self.actor._calls
        assert not self.actor._call_of
        assert self.actor._outbox.is_empty


@contextlib.asynccontextmanager
async def bench(folder: Path, high_water_mark: int = 1000, **card: Any) -> AsyncIterator[Bench]:
    made = Bench(folder, high_water_mark, **card)
    async with anyio.create_task_group() as tasks:
        tasks.start_soon(made.actor.run)
        hello = await made.from_actor(made.supervisor)
        assert isinstance(hello, Hello), hello
        yield made
        made.actor.finish()


def play(folder: Path, scene: Callable[[Bench], Awaitable[None]], **fields: Any) -> None:
    async def main() -> None:
        async with bench(folder, **fields) as made:
            await scene(made)
            made.check_nothing_stays()

    anyio.run(main)


# --- the way in ------------------------------------------------------------------------------------------------------


def test_a_completion_from_prompt_to_text(tmp_path: Path) -> None:
    async def scene(b: Bench) -> None:
        b.call(prompts=["the fox"], priority=3, cache_salt="s", timeout_s=9.0, return_token_ids=True)
        add = await b.asked()
        assert add.prompt_ids == ids_of("the fox")
        assert (add.request_id, add.priority, add.cache_salt, add.fork_of) == ("c-0", 3, "s", None)
        assert (add.params.max_tokens, add.params.end_ids) == (50, [END, 0])
        assert 8.0 < add.deadline_s <= 9.0
        await b.quiet()
        b.scheduler.send("tokenizer", Added("c-0"))
        admitted = await b.reply()
        assert (admitted.prompts[0].num_tokens, admitted.prompts[0].text) == (len(add.prompt_ids), None)
        ids = ids_of(" jumps over")
        b.output("c-0", 0, ids[:1], num_cached=2, queue_s=0.5)
        b.output("c-0", 1, ids[1:])
        b.output("c-0", len(ids), [END], finish_reason="stop")
        deltas = await b.deltas()
        assert "".join(d.text for d in deltas) == " jumps over"
        assert [d.offset for d in deltas] == [len("".join(d.text for d in deltas[:i])) for i in range(3)]
        assert [i for d in deltas for i in d.token_ids] == [*ids, END]
        assert (deltas[0].num_cached, deltas[0].queue_s) == (2, 0.5)
        assert (deltas[-1].finish_reason, deltas[-1].num_tokens) == ("stop", len(ids) + 1)

    play(tmp_path, scene)


def test_a_conversation_may_fill_the_context(tmp_path: Path) -> None:
    async def scene(b: Bench) -> None:
        chat = Chat(messages=[{"role": "user", "content": "hi"}])
        add = (await b.admit(chat=chat, sampling=Sampling()))[0]
        assert add.prompt_ids == ids_of("<|im_start|>user\nhi<|im_end|>\n<|im_start|>assistant\n")
        assert add.params.max_tokens == 200 - len(add.prompt_ids)
        b.output("c-0", 0, [END], finish_reason="stop")
        assert (await b.deltas())[0].text == ""

    play(tmp_path, scene)


def test_choices_fork_and_have_seeds_of_their_own(tmp_path: Path) -> None:
    async def scene(b: Bench) -> None:
        adds = await b.admit(prompts=["the", "fox"], n=3, sampling=Sampling(max_tokens=2, seed=42))
        assert [a.request_id for a in adds] == [f"c-{i}" for i in range(6)]
        assert [a.fork_of for a in adds] == [None, "c-0", "c-0", None, "c-3", "c-3"]
        assert [a.params.seed for a in adds] == [choice_seed(42, i) for i in range(6)]
        for i in reversed(range(6)):
            b.output(f"c-{i}", 0, [300], finish_reason="length")
            assert [d.index for d in await b.deltas()] == [i]

    play(tmp_path, scene)


def test_a_call_for_vectors(tmp_path: Path) -> None:
    async def scene(b: Bench) -> None:
        adds = await b.admit(prompts=["the fox", [5, 6]], embed=Embed(), cache_salt="s")
        assert [a.prompt_ids for a in adds] == [ids_of("the fox"), [5, 6]]
        for add in adds:
            assert (add.params.max_tokens, add.params.pooling) == (0, Pooling("mean"))
            assert add.speculation == SpeculationControl(enabled=False) and add.cache_salt == "s"
        b.output("c-1", 0, [], finish_reason="stop", embedding=b"vector", num_cached=1, queue_s=0.5)
        [delta] = await b.deltas()
        assert (delta.index, delta.text, delta.num_tokens, delta.embedding) == (1, "", 0, b"vector")
        assert (delta.num_cached, delta.queue_s, delta.finish_reason) == (1, 0.5, "stop")
        b.output("c-0", 0, [], finish_reason="stop", embedding=b"other")
        assert (await b.deltas())[0].embedding == b"other"

    play(tmp_path, scene, pooling="mean")


def test_many_inputs_go_to_the_scheduler_a_few_at_a_time(tmp_path: Path) -> None:
    async def scene(b: Bench) -> None:
        num, seats = 300, b.actor.setup.config.scheduler.max_num_seqs
        b.call(prompts=[[i] for i in range(num)], embed=Embed())
        out = [await b.asked() for _ in range(seats)]
        await b.quiet()
        for add in out:
            b.scheduler.send("tokenizer", Added(add.request_id))
        assert len((await b.reply()).prompts) == num
        for i in range(num):
            b.output(f"c-{i}", 0, [], finish_reason="stop", embedding=b"v")
            if i + seats < num:
                add = await b.asked()
                assert add.request_id == f"c-{i + seats}"
                b.scheduler.send("tokenizer", Added(add.request_id))
            assert (await b.deltas())[0].index == i

    play(tmp_path, scene)


def test_long_inputs_go_to_the_scheduler_a_few_steps_at_a_time(tmp_path: Path) -> None:
    async def scene(b: Bench) -> None:
        b.call(prompts=[[5] * 199] * 9, embed=Embed())
        assert [len((await b.asked()).prompt_ids) for _ in range(6)] == [199] * 6  # 4 steps of 256
        await b.quiet()
        b.gateway.send("tokenizer", AbortCall("c"))
        assert [(await b.asked()).request_id for _ in range(6)] == [f"c-{i}" for i in range(6)]
        await b.quiet()

    play(tmp_path, scene)


@pytest.mark.parametrize(
    ("fields", "param", "code"),
    [
        ({"prompts": [""]}, "input", None),
        ({"prompts": ["x", [5] * 201]}, "input.1", "context_length_exceeded"),
        ({"prompts": ["x", "y" * 300]}, "input.1", "context_length_exceeded"),
        ({"embed": Embed(4)}, "dimensions", "unsupported_parameter"),
    ],
)
def test_bad_calls_for_vectors_are_refused(tmp_path: Path, fields: Any, param: str, code: str | None) -> None:
    async def scene(b: Bench) -> None:
        b.call(**({"prompts": ["x"], "embed": Embed()} | fields))
        failed = await b.reply()
        assert isinstance(failed, CallFailed)
        assert (failed.error.kind, failed.error.param, failed.error.code) == ("invalid", param, code)
        await b.quiet()

    play(tmp_path, scene)


def test_deltas_wait_until_the_call_is_admitted(tmp_path: Path) -> None:
    async def scene(b: Bench) -> None:
        b.call(prompts=["the"], n=2)
        assert [(await b.asked()).request_id for _ in range(2)] == ["c-0", "c-1"]
        b.scheduler.send("tokenizer", Added("c-0"))
        b.output("c-0", 0, ids_of(" fox"), finish_reason="length")
        await b.quiet()
        b.scheduler.send("tokenizer", Added("c-1"))
        assert isinstance(await b.reply(), Admitted)
        assert (await b.deltas())[0].text == " fox"
        b.output("c-1", 0, [], finish_reason="length")
        assert (await b.deltas())[0].index == 1

    play(tmp_path, scene)


@pytest.mark.parametrize(
    ("fields", "param", "code"),
    [
        ({"prompts": [""]}, "prompt", None),
        ({"prompts": [[512]]}, "prompt", None),
        ({"prompts": ["x"], "sampling": Sampling(max_tokens=200)}, "max_tokens", "context_length_exceeded"),
        ({"prompts": [[5] * 200], "sampling": Sampling()}, "prompt", "context_length_exceeded"),
        ({"prompts": ["x", "y" * 300], "sampling": Sampling(max_tokens=1)}, "prompt", "context_length_exceeded"),
        ({"prompts": ["x"], "sampling": Sampling(stop_token_ids=[512])}, "stop_token_ids", None),
        ({"prompts": ["x"], "n": 0}, "n", None),
        ({"prompts": ["x"], "n": 10**12}, "n", None),
        ({"prompts": [[1]] * 1025, "n": 2}, "n", None),
        ({"chat": Chat(messages=[])}, "messages", None),
        ({"chat": Chat(messages=[{"role": "user", "content": 3}])}, "messages.0.content", None),
    ],
)
def test_bad_calls_are_refused_and_nothing_is_added(tmp_path: Path, fields: Any, param: str, code: str | None) -> None:
    async def scene(b: Bench) -> None:
        b.call(**fields)
        failed = await b.reply()
        assert isinstance(failed, CallFailed)
        assert (failed.error.kind, failed.error.code) == ("invalid", code)
        assert failed.error.param == param
        await b.quiet()

    play(tmp_path, scene)


def test_the_targets_sizes_replace_the_cards(tmp_path: Path) -> None:
    async def scene(b: Bench) -> None:
        hello = Hello("target", 1, 0, logits_width=400, max_model_len=60)
        b.supervisor.send("tokenizer", EngineState("ok", [], hello=hello))
        b.call(prompts=["x"], sampling=Sampling(max_tokens=60))
        assert "exceeds the context of 60" in (await b.reply()).error.message
        b.call(prompts=["x"], sampling=Sampling(stop_token_ids=[400]))
        assert "ids must be 0 to 399" in (await b.reply()).error.message

    play(tmp_path, scene)


def test_one_refusal_ends_the_whole_call(tmp_path: Path) -> None:
    async def scene(b: Bench) -> None:
        b.call(prompts=["the"], n=3)
        adds = [await b.asked() for _ in range(3)]
        b.scheduler.send("tokenizer", Added(adds[0].request_id))
        error = ErrorInfo("unavailable", "queue is full", code="queue_full", retry_after_s=2.0)
        b.scheduler.send("tokenizer", Refused(adds[1].request_id, error))
        b.scheduler.send("tokenizer", Refused(adds[2].request_id, error))
        assert await b.reply() == CallFailed("c", error)
        assert [await b.asked() for _ in range(3)] == [Abort(f"c-{i}") for i in range(3)]
        await b.quiet()

    play(tmp_path, scene)


def test_long_prompts_do_not_hold_up_other_calls(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tokenizer_module, "_INLINE_CHARS", 100)

    async def scene(b: Bench) -> None:
        b.call("long", prompts=["the fox " * 5000], truncate_prompt_tokens=50)
        b.call("short", prompts=["the fox"])
        adds = [await b.asked(), await b.asked()]
        assert [a.request_id for a in adds] == ["short-0", "long-0"]
        assert len(adds[1].prompt_ids) == 50
        b.call("bad", prompts=["x" * 300, [999]])
        assert (await b.reply()).call_id == "bad"
        b.gateway.send("tokenizer", Tokenize("t", prompt="the fox " * 100))
        assert len((await b.reply()).token_ids) > 100
        for call_id in ("short", "long"):
            b.gateway.send("tokenizer", AbortCall(call_id))
            assert isinstance(await b.asked(), Abort)

    play(tmp_path, scene)


def test_a_call_aborted_while_it_is_encoded_never_reaches_the_scheduler(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(tokenizer_module, "_INLINE_CHARS", 100)

    async def scene(b: Bench) -> None:
        b.call(prompts=["the fox " * 5000], truncate_prompt_tokens=50)
        b.gateway.send("tokenizer", AbortCall("c"))
        await asyncio.sleep(0.3)
        await b.quiet()

    play(tmp_path, scene)


# --- the way out -----------------------------------------------------------------------------------------------------


def test_a_stop_string_cuts_text_tokens_and_request(tmp_path: Path) -> None:
    async def scene(b: Bench) -> None:
        sampling = Sampling(max_tokens=50, stop=["over", "zzz"], logprobs=0)
        await b.admit(prompts=["the fox"], sampling=sampling, return_token_ids=True)
        ids = ids_of(" jumps over the dog")
        at = [TokenLogprobs(i, -1.0, 1, [], []) for i in ids]
        b.output("c-0", 0, ids[:2], logprobs=at[:2])
        b.output("c-0", 2, ids[2:], logprobs=at[2:])
        deltas = await b.deltas()
        text = "".join(d.text for d in deltas)
        assert text == " jumps "
        assert (deltas[-1].finish_reason, deltas[-1].stop_reason) == ("stop", "over")
        shown = [i for d in deltas for i in d.token_ids]
        assert shown == ids[: len(shown)]
        assert byte_level().decode(shown).endswith("over")
        assert [p.chosen.token_id for d in deltas for p in d.logprobs or []] == shown
        assert deltas[-1].num_tokens == len(shown)
        assert await b.asked() == Abort("c-0")
        b.output("c-0", len(ids), [300])  # was on its way
        await b.quiet()

    play(tmp_path, scene)


@pytest.mark.parametrize("stops", [[], ["over"]])
def test_speculation_is_asked_for_and_told_with_the_last_delta(tmp_path: Path, stops: list[str]) -> None:
    """With a stop string the scheduler must tell with every output: which one is last is found out here."""
    stats = SpeculationStats(4, [0, 1, 0, 0, 0], 2, {"suffix": 2}, {"suffix": 1})

    async def scene(b: Bench) -> None:
        wish = SpeculationControl(methods=["suffix"])
        sampling = Sampling(max_tokens=50, stop=stops)
        [add] = await b.admit(prompts=["x"], sampling=sampling, speculation=wish)
        assert add.speculation == msgspec.structs.replace(wish, always_report=bool(stops))
        b.output("c-0", 0, ids_of("the fox"), speculation=stats if stops else None)
        ids = ids_of(" jumps over it")
        b.output("c-0", len(ids_of("the fox")), ids, finish_reason=None if stops else "length", speculation=stats)
        deltas = await b.deltas()
        assert [d.speculation for d in deltas] == [*[None] * (len(deltas) - 1), stats]
        if stops:
            assert isinstance(await b.asked(), Abort)

    play(tmp_path, scene)


def test_a_stop_string_in_the_last_output_needs_no_abort(tmp_path: Path) -> None:
    async def scene(b: Bench) -> None:
        await b.admit(prompts=["x"], sampling=Sampling(max_tokens=50, stop=["dog"], include_stop_str_in_output=True))
        b.output("c-0", 0, ids_of(" the dog sleeps"), finish_reason="length")
        deltas = await b.deltas()
        assert deltas[-1].text == " the dog"
        assert (deltas[-1].finish_reason, deltas[-1].stop_reason) == ("stop", "dog")
        await b.quiet()

    play(tmp_path, scene)


def test_text_that_may_become_a_stop_string_is_held_back_to_the_end(tmp_path: Path) -> None:
    async def scene(b: Bench) -> None:
        await b.admit(prompts=["x"], sampling=Sampling(max_tokens=50, stop=["foxes"]))
        b.output("c-0", 0, ids_of(" the fox"))
        assert (await b.reply()).text == " the "
        b.output("c-0", len(ids_of(" the fox")), [], finish_reason="length")
        assert [(d.offset, d.text) for d in await b.deltas()] == [(5, "fox")]

    play(tmp_path, scene)


def test_stop_strings_are_not_searched_in_the_first_min_tokens(tmp_path: Path) -> None:
    async def scene(b: Bench) -> None:
        num = len(ids_of(" the dog"))
        await b.admit(prompts=["x"], sampling=Sampling(max_tokens=50, min_tokens=num, stop=["dog"]))
        b.output("c-0", 0, ids_of(" the dog the dog"), finish_reason="length")
        assert (await b.deltas())[-1].text == " the dog the "

    play(tmp_path, scene)


@pytest.mark.parametrize(
    ("sampling", "text"),
    [
        (Sampling(max_tokens=50), " fox"),
        (Sampling(max_tokens=50, skip_special_tokens=False), " fox"),
        (Sampling(max_tokens=50, skip_special_tokens=False, include_stop_str_in_output=True), " fox<|im_end|>"),
    ],
)
def test_the_token_that_ended_the_request_is_counted_but_is_no_text(
    tmp_path: Path, sampling: Sampling, text: str
) -> None:
    async def scene(b: Bench) -> None:
        await b.admit(prompts=["x"], sampling=sampling, return_token_ids=True)
        b.output("c-0", 0, [*ids_of(" fox"), END], finish_reason="stop", stop_reason=END)
        deltas = await b.deltas()
        assert deltas[-1].text == text
        assert deltas[-1].token_ids[-1] == END
        assert (deltas[-1].num_tokens, deltas[-1].stop_reason) == (len(ids_of(" fox")) + 1, END)

    play(tmp_path, scene)


def test_no_delta_without_news_but_the_first_comes_at_once(tmp_path: Path) -> None:
    async def scene(b: Bench) -> None:
        await b.admit(prompts=["x"])
        swan = [i for byte in "\U0001f9a2".encode() for i in [_id_of_byte(byte)]]
        b.output("c-0", 0, swan[:1])
        assert ((await b.reply()).text, b.actor._calls["c"].choices["c-0"]._num_tokens) == ("", 1)
        b.output("c-0", 1, swan[1:2])
        b.output("c-0", 2, swan[2:])
        delta = await b.reply()
        assert (delta.text, delta.num_tokens) == ("\U0001f9a2", 4)
        b.output("c-0", 4, swan[:2], finish_reason="length")
        assert (await b.deltas())[0].text == "\ufffd"

    play(tmp_path, scene)


def _id_of_byte(byte: int) -> int:
    from paceline.actors.text.token_bytes import byte_alphabet

    found = byte_level().token_to_id({b: c for c, b in byte_alphabet().items()}[byte])
    assert found is not None
    return found


def test_outputs_that_came_before_are_dropped_by_offset(tmp_path: Path) -> None:
    async def scene(b: Bench) -> None:
        await b.admit(prompts=["x"], return_token_ids=True)
        ids = ids_of(" jumps over the dog")
        assert len(ids) >= 3
        b.output("c-0", 0, ids[:2])
        b.output("c-0", 0, ids[:2])
        b.output("c-0", 1, ids[1:], finish_reason="length")
        deltas = await b.deltas()
        assert "".join(d.text for d in deltas) == " jumps over the dog"
        assert [i for d in deltas for i in d.token_ids] == ids

    play(tmp_path, scene)


def test_a_gap_ends_the_call_with_an_error(tmp_path: Path) -> None:
    async def scene(b: Bench) -> None:
        await b.admit(prompts=["x"])
        b.output("c-0", 5, [300])
        failed = await b.reply()
        assert failed.error.kind == "internal"
        assert "token 0 of request c-0 never came" in failed.error.message
        assert await b.asked() == Abort("c-0")

    play(tmp_path, scene)


def test_logprobs_of_output_and_echoed_prompt(tmp_path: Path) -> None:
    async def scene(b: Bench) -> None:
        prompt = ids_of("the fox")
        sampling = Sampling(max_tokens=50, logprobs=1)
        add = (await b.admit(prompts=["the fox"], sampling=sampling, echo=True))[0]
        assert (add.params.logprobs, add.params.prompt_logprobs) == (1, 1)
        byte = _id_of_byte(0xF0)
        at = TokenLogprobs(byte, -2.0, 2, [300, byte], [-0.5, -2.0])
        of_prompt = [TokenLogprobs(i, -1.0, 1, [i], [-1.0]) for i in prompt[1:]]
        b.output("c-0", 0, [byte], finish_reason="length", logprobs=[at], prompt_logprobs=of_prompt)
        delta = (await b.deltas())[0]
        assert delta.logprobs is not None and delta.prompt_logprobs is not None
        chosen, top = delta.logprobs[0].chosen, delta.logprobs[0].top
        assert (chosen.text, chosen.raw, chosen.logprob, chosen.rank) == ("\ufffd", b"\xf0", -2.0, 2)
        assert [(t.token_id, t.rank) for t in top] == [(300, 1), (byte, 2)]
        assert delta.prompt_logprobs[0] is None
        shown = [p.chosen.token_id for p in delta.prompt_logprobs[1:] if p is not None]
        assert shown == prompt[1:]

    play(tmp_path, scene)


def test_choices_do_not_fork_when_each_needs_its_prompts_logprobs(tmp_path: Path) -> None:
    async def scene(b: Bench) -> None:
        adds = await b.admit(prompts=["the fox"], n=2, sampling=Sampling(max_tokens=1, prompt_logprobs=0))
        assert [a.fork_of for a in adds] == [None, None]
        for add in adds:
            b.output(add.request_id, 0, [300], finish_reason="length")
            assert (await b.deltas())[0].prompt_logprobs == [None]

    play(tmp_path, scene)


def test_chosen_logprob_ids_come_most_likely_first_without_ranks(tmp_path: Path) -> None:
    async def scene(b: Bench) -> None:
        await b.admit(prompts=["x"], sampling=Sampling(max_tokens=1, logprobs=0, logprob_token_ids=[300, 301]))
        at = TokenLogprobs(300, -2.0, 2, [300, 301], [-2.0, -0.5])
        b.output("c-0", 0, [300], finish_reason="length", logprobs=[at])
        logprobs = (await b.deltas())[0].logprobs
        assert logprobs is not None
        assert [(t.token_id, t.rank) for t in logprobs[0].top] == [(301, 0), (300, 0)]

    play(tmp_path, scene)


def test_echo_shows_the_prompt(tmp_path: Path) -> None:
    async def scene(b: Bench) -> None:
        b.call(prompts=["the  fox"], echo=True, sampling=Sampling(max_tokens=0))
        b.scheduler.send("tokenizer", Added((await b.asked()).request_id))
        assert (await b.reply()).prompts[0].text == "the  fox"
        b.output("c-0", 0, [], finish_reason="length")
        assert [(d.text, d.num_tokens) for d in await b.deltas()] == [("", 0)]

    play(tmp_path, scene)


# --- ends ------------------------------------------------------------------------------------------------------------


def test_an_aborted_call_leaves_nothing(tmp_path: Path) -> None:
    async def scene(b: Bench) -> None:
        await b.admit(prompts=["x"], n=2)
        b.output("c-0", 0, [300], finish_reason="length")
        await b.deltas()
        b.gateway.send("tokenizer", AbortCall("c"))
        assert await b.asked() == Abort("c-1")
        b.output("c-1", 0, [300])
        b.gateway.send("tokenizer", AbortCall("c"))
        await b.quiet()

    play(tmp_path, scene)


def test_a_request_that_fails_ends_its_call(tmp_path: Path) -> None:
    async def scene(b: Bench) -> None:
        await b.admit(prompts=["x"], n=2)
        error = ErrorInfo("deadline", "not finished within 600 s; ask for less", code="deadline_exceeded")
        b.output("c-1", 0, [], finish_reason="error", error=error)
        assert await b.reply() == CallFailed("c", error)
        assert [await b.asked(), await b.asked()] == [Abort("c-0"), Abort("c-1")]

    play(tmp_path, scene)


def test_a_request_ended_by_the_engine_is_an_error_not_a_finish(tmp_path: Path) -> None:
    async def scene(b: Bench) -> None:
        await b.admit(prompts=["x"])
        b.output("c-0", 0, [], finish_reason="abort")
        failed = await b.reply()
        assert (failed.error.kind, failed.error.code) == ("unavailable", "engine_unavailable")
        assert await b.asked() == Abort("c-0")

    play(tmp_path, scene)


def test_another_scheduler_gets_what_is_open_behind_the_output_so_far(tmp_path: Path) -> None:
    async def scene(b: Bench) -> None:
        [first] = await b.admit("one", prompts=["x"], sampling=Sampling(max_tokens=9, seed=5, logprobs=0))
        b.output("one-0", 0, [300, 301], logprobs=[TokenLogprobs(t, -1.0, 1, [], []) for t in (300, 301)])
        await b.reply()
        b.call("two", prompts=["y"])
        second = await b.asked()
        b.supervisor.send("tokenizer", ActorLost("scheduler", 0))
        await b.quiet()
        b.call("three", prompts=["z"])
        b.call("left", prompts=["z"])
        b.gateway.send("tokenizer", AbortCall("left"))
        b.output("one-0", 2, [302])  # of the dead one: it counts for nothing
        await b.quiet()

        b.scheduler = b.network.mailbox("scheduler", 1)
        b.scheduler.send("tokenizer", Hello("scheduler", 1, 1))
        b.scheduler.send("tokenizer", Hello("scheduler", 1, 1))  # as after the tokenizer's own restart
        adds = [await b.asked() for _ in range(3)]
        assert adds[0] == msgspec.structs.replace(
            first, output_ids=[300, 301], is_again=True, deadline_s=adds[0].deadline_s
        )
        assert 0 < adds[0].deadline_s < first.deadline_s
        assert adds[1] == msgspec.structs.replace(second, deadline_s=adds[1].deadline_s)  # it had not been taken yet
        assert adds[2].request_id == "three-0" and not adds[2].is_again
        for add in adds:
            b.scheduler.send("tokenizer", Added(add.request_id))
        assert [(await b.reply()).call_id for _ in range(2)] == ["two", "three"]
        b.output("one-0", 2, [302], finish_reason="length", logprobs=[TokenLogprobs(302, -1.0, 1, [], [])])
        [last] = await b.deltas()
        assert last.num_tokens == 3 and last.logprobs is not None and len(last.logprobs) == 1
        for call_id in ("two", "three"):
            b.output(f"{call_id}-0", 0, [300], finish_reason="length")
            await b.deltas()

    play(tmp_path, scene)


@pytest.mark.parametrize("told_first", [True, False])
def test_what_found_no_room_at_the_dead_scheduler_is_sent_once(tmp_path: Path, told_first: bool) -> None:
    """Word of the death may come before the Hello of another, or behind it."""

    async def scene(b: Bench) -> None:
        lost = ActorLost("scheduler", 0)
        for call_id in ("one", "two"):
            b.call(call_id, prompts=["x"])
        await anyio.sleep(0.02)
        assert len(b.network.inbox(b.scheduler.address)) == 2 and not b.actor._outbox.is_empty
        b.scheduler = b.network.mailbox("scheduler", 1)
        if told_first:
            b.supervisor.send("tokenizer", lost)
            await anyio.sleep(0.02)
            await b.quiet()
        b.scheduler.send("tokenizer", Hello("scheduler", 1, 1))
        adds = [await b.asked() for _ in range(2)]
        assert {add.request_id for add in adds} == {"one-0", "two-0"}
        if not told_first:
            b.supervisor.send("tokenizer", lost)
        await anyio.sleep(0.02)
        await b.quiet()
        for add in adds:
            b.scheduler.send("tokenizer", Added(add.request_id))
            assert isinstance(await b.reply(), Admitted)
            b.output(add.request_id, 0, [300], finish_reason="length")
            await b.deltas()

    play(tmp_path, scene, high_water_mark=2)


def test_choices_that_the_caller_has_whole_are_not_asked_for_again(tmp_path: Path) -> None:
    async def scene(b: Bench) -> None:
        b.call(prompts=["x", "y"], n=2, again=Again(1, True, [0, 3]))
        adds = [await b.asked() for _ in range(2)]
        assert [(a.request_id, a.is_again, a.fork_of) for a in adds] == [("c-1", True, None), ("c-2", True, None)]
        assert adds[0].params.seed == choice_seed(0, 1)
        for add in adds:
            b.scheduler.send("tokenizer", Added(add.request_id))
        admitted = await b.reply()
        assert len(admitted.prompts) == 2
        for add in adds:
            b.output(add.request_id, 0, [300], finish_reason="length")
            await b.deltas()

    play(tmp_path, scene)


def test_a_lost_target_ends_no_call(tmp_path: Path) -> None:
    async def scene(b: Bench) -> None:
        await b.admit(prompts=["x"])
        b.supervisor.send("tokenizer", ActorLost("target", 0))
        b.output("c-0", 0, [300], finish_reason="length")
        await b.deltas()

    play(tmp_path, scene)


def test_a_lost_gateway_takes_its_calls_along(tmp_path: Path) -> None:
    async def scene(b: Bench) -> None:
        await b.admit(prompts=["x"])
        b.supervisor.send("tokenizer", ActorLost("gateway", 0))
        assert await b.asked() == Abort("c-0")

    play(tmp_path, scene)


def test_a_failed_engine_refuses_calls_with_its_cause(tmp_path: Path) -> None:
    async def scene(b: Bench) -> None:
        await b.admit(prompts=["x"])
        b.supervisor.send("tokenizer", EngineState("failed", [], error="out of memory"))
        assert (await b.reply()).error.message == "out of memory"
        assert await b.asked() == Abort("c-0")
        b.call(prompts=["x"])
        assert (await b.reply()).error.message == "out of memory"
        b.supervisor.send("tokenizer", EngineState("ok", []))
        await b.admit(prompts=["x"])
        b.output("c-0", 0, [300], finish_reason="length")
        await b.deltas()

    play(tmp_path, scene)


def test_draining_finishes_what_runs_and_takes_nothing_new(tmp_path: Path) -> None:
    async def main() -> None:
        made = Bench(tmp_path, 1000)
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(made.actor.run)
            await made.from_actor(made.supervisor)
            await made.admit(prompts=["x"])
            made.supervisor.send("tokenizer", Drain())
            await made.quiet()
            made.call("new", prompts=["x"])
            failed = await made.reply()
            assert (failed.call_id, failed.error.code) == ("new", "draining")
            made.output("c-0", 0, [300], finish_reason="length")
            await made.deltas()
            with anyio.fail_after(5):
                while made.actor._scope is not None and not made.actor._scope.cancel_called:
                    await asyncio.sleep(0.01)
        made.check_nothing_stays()

    anyio.run(main)


def test_a_full_gateway_loses_no_text(tmp_path: Path) -> None:
    """Its mailbox holds 8 messages; a hundred wait in the actor and come in order."""

    async def scene(b: Bench) -> None:
        await b.admit(prompts=["x"], return_token_ids=True, sampling=Sampling(max_tokens=150))
        for i in range(100):
            while len(b.network.inbox(b.actor.mailbox.address)) > 4:  # type: ignore[attr-defined]
                await asyncio.sleep(0)
            b.output("c-0", i, [300 + i % 50], finish_reason="length" if i == 99 else None)
        await asyncio.sleep(0.05)
        assert not b.actor._outbox.is_empty
        deltas = await b.deltas()
        assert [i for d in deltas for i in d.token_ids] == [300 + i % 50 for i in range(100)]

    play(tmp_path, scene, high_water_mark=8)


def test_a_gateway_that_never_reads_ends_its_call(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    async def scene(b: Bench) -> None:
        await b.admit(prompts=["x"], return_token_ids=True)
        b.actor._outbox._limit = 20
        for i in range(40):
            while len(b.network.inbox(b.actor.mailbox.address)) > 4:  # type: ignore[attr-defined]
                await asyncio.sleep(0)
            b.output("c-0", i, [300])
        assert await b.asked() == Abort("c-0")
        last: Any = None
        while not isinstance(last, CallFailed):
            last = await b.reply()
        assert last.error.kind == "unavailable"

    play(tmp_path, scene, high_water_mark=8)


def test_a_full_scheduler_refuses_calls(tmp_path: Path) -> None:
    async def scene(b: Bench) -> None:
        b.actor._outbox._limit = 2
        b.call(prompts=["x"], n=30)
        failed = await b.reply()
        assert (failed.error.kind, failed.error.code) == ("unavailable", "queue_full")
        asked = [await b.asked() for _ in range(32)]
        assert sorted(a.request_id for a in asked if isinstance(a, Add)) == ["c-0", "c-1"]
        assert {a.request_id for a in asked if isinstance(a, Abort)} == {f"c-{i}" for i in range(30)}

    play(tmp_path, scene)


def test_a_fault_of_ours_ends_one_call_only(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    async def scene(b: Bench) -> None:
        await b.admit("good", prompts=["x"])
        await b.admit("bad", prompts=["x"])
        real = Choice.apply

        def apply(self: Choice, output: RequestOutput) -> TextDelta | None:
            if self.request_id == "bad-0":
                raise ZeroDivisionError("a bug")
            return real(self, output)

        monkeypatch.setattr(Choice, "apply", apply)
        b.output("bad-0", 0, [300])
        failed = await b.reply()
        assert (failed.call_id, failed.error.kind) == ("bad", "internal")
        assert await b.asked() == Abort("bad-0")
        b.output("good-0", 0, [300], finish_reason="length")
        await b.deltas()

    play(tmp_path, scene)
    assert "a call failed" in caplog.text


def test_a_repeated_call_is_dropped(tmp_path: Path) -> None:
    async def scene(b: Bench) -> None:
        await b.admit(prompts=["x"])
        b.call(prompts=["x"])
        await b.quiet()
        b.output("c-0", 0, [300], finish_reason="length")
        await b.deltas()

    play(tmp_path, scene)


# --- tokenize and detokenize -----------------------------------------------------------------------------------------


def test_tokenize_and_detokenize(tmp_path: Path) -> None:
    async def scene(b: Bench) -> None:
        b.gateway.send("tokenizer", Tokenize("t", prompt="the fox"))
        ids = ids_of("the fox")
        assert await b.reply() == Tokenized("t", ids, byte_level().encode("the fox").tokens, "the fox")
        chat = Chat(messages=[{"role": "user", "content": "x"}])
        b.gateway.send("tokenizer", Tokenize("t", chat=chat, add_special_tokens=False))
        assert (await b.reply()).token_ids[0] == 1
        b.gateway.send("tokenizer", Detokenize("d", [*ids, END]))
        assert (await b.reply()).text == "the fox<|im_end|>"
        b.gateway.send("tokenizer", Detokenize("d", [1, 512]))
        failed = await b.reply()
        assert (failed.error.kind, failed.error.param) == ("invalid", "tokens")
        b.gateway.send("tokenizer", Tokenize("t", chat=Chat(messages=[])))
        assert isinstance(await b.reply(), CallFailed)

    play(tmp_path, scene)


def test_stats_count_repairs(tmp_path: Path) -> None:
    async def scene(b: Bench) -> None:
        stats = b.actor.stats()
        assert stats is not None
        assert stats.values == {"detokenize_repairs": 0}

    play(tmp_path, scene)


def test_what_a_model_comes_with_applies_where_the_client_says_nothing(tmp_path: Path) -> None:
    async def scene(b: Bench) -> None:
        chat = Chat(messages=[{"role": "user", "content": "hi"}])
        [add] = await b.admit(chat=chat, sampling=Sampling())
        opened = "<|im_start|>system\na fox<|im_end|>\n<|im_start|>user\nhi<|im_end|>\n<|im_start|>assistant\n"
        assert add.prompt_ids == ids_of(opened)
        assert add.params.max_tokens == 7 and add.speculation is not None and add.speculation.always_report
        b.output("c-0", 0, ids_of("go, stop, go"))
        deltas = await b.deltas()
        assert "".join(d.text for d in deltas) == "go, " and deltas[-1].stop_reason == "stop"
        assert isinstance(await b.asked(), Abort)
        [own] = await b.admit("d", chat=chat, sampling=Sampling(stop=["go"], max_tokens=50))
        assert own.params.max_tokens == 50
        b.output("d-0", 0, ids_of("1 stop go"))
        assert "".join(d.text for d in await b.deltas()) == "1 stop "
        assert isinstance(await b.asked(), Abort)
        b.gateway.send("tokenizer", Tokenize("t", chat=chat, add_special_tokens=False))
        assert (await b.reply()).token_ids == ids_of(opened), "counted as it is generated from"

    play(tmp_path, scene, system="a fox", defaults={"stop": ["stop"], "max_tokens": 7})
