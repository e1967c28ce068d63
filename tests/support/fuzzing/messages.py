"""Messages of every inbox with most of their fields set."""

from typing import Any

from paceline.actors.messages import (
    Abort,
    AbortCall,
    ActorLost,
    ActorState,
    Add,
    Admitted,
    CallFailed,
    Chat,
    Commit,
    Compile,
    Compiled,
    Detokenize,
    DraftAsk,
    Embed,
    EngineState,
    Failed,
    Generate,
    Heartbeat,
    Hello,
    Open,
    Part,
    PositionLogprobs,
    PromptInfo,
    Propose,
    Reading,
    Sampling,
    Stats,
    Stop,
    TextDelta,
    TextLogprob,
    Tokenize,
)
from paceline.engine.core.plan import (
    Drafts,
    NewRequest,
    RequestOutput,
    Row,
    RowResult,
    StepPlan,
    StepResult,
    TokenLogprobs,
)
from paceline.engine.types import ErrorInfo, Pooling, SamplingParams, SpeculationControl, SpeculationStats

ERROR = ErrorInfo("invalid", "no", "code", "param", 2.0)
PARAMS = SamplingParams(
    max_tokens=5, min_tokens=1, temperature=0.5, top_p=0.9, top_k=4, min_p=0.1, presence_penalty=0.5, seed=7,
    frequency_penalty=-0.5, repetition_penalty=1.1, logit_bias={7: -1.5, 3: 2.0}, allowed_token_ids=[1, 2, 3, 7],
    bad_words=[[1, 2], [3]], end_ids=[0], stop_token_ids=[4], logprobs=2, logprob_token_ids=[1], prompt_logprobs=1,
)  # fmt: skip
_LOGPROBS = [TokenLogprobs(3, -0.5, 1, [3, 4], [-0.5, -1.5])]
_HELLO = Hello(
    "target", 9, 1, vocab_hash="ab", logits_width=32, num_blocks=64, block_size=4, max_model_len=64,
    detail={"device": "cpu"}, step_costs=[(1, 0.01)], draft_costs=[(1, 0.001)],
)  # fmt: skip
_DRAFTS = Drafts("a-0", 0, 3, [1, 2], [-1, 0], "suffix", [0.5, 0.25], [([1, 2], [0.5, 0.5]), ([2], [1.0])])
_TEXTS = [PositionLogprobs(TextLogprob(1, "a", b"a", -0.5, 1), [TextLogprob(2, "b", b"\xff", -1.5, 2)])]
_SPENT = SpeculationStats(2, [1, 0, 2], 6, {"suffix": 6}, {"suffix": 4}, off_reason="policy")

EXAMPLES: dict[str, list[Any]] = {
    "scheduler": [
        Add("a-0", [1, 2, 3], PARAMS, 0, "salt", None, [9], 30.0, SpeculationControl(True, ["suffix"], 2), [5, 6]),
        Add("a-1", [1, 2, 3], SamplingParams(max_tokens=0, pooling=Pooling("mean", 4)), fork_of="a-0"),
        Add("a-2", [1], SamplingParams(max_tokens=3, grammar="start: /a/")), Abort("a-0"), Compiled("k", "bad"),
        _DRAFTS,
        StepResult(3, [RowResult("a-0", 0, [1, 2], 1, _LOGPROBS, _LOGPROBS, ERROR, [0], b"\x00" * 8)], 0.25, [_DRAFTS]),
        _HELLO, ActorLost("target", 1), Stop(),
    ],
    "tokenizer": [
        Generate("c", Sampling(stop=["\n"], logit_bias={3: 1.0}, bad_words=["x"], max_tokens=4), ["hi", [1, 2]], n=2,
                 echo=True, truncate_prompt_tokens=3, truncation_side="left", return_token_ids=True),
        Generate("d", Sampling(), chat=Chat(messages=[{"role": "user", "content": "hi"}], tools=[{"type": "function"}]),
                 reading=Reading(tools=[{"type": "function"}], max_calls=1), embed=Embed(3)),
        AbortCall("c"), Tokenize("t", "text"), Detokenize("t", [1, 2]),
        RequestOutput("a-0", 0, [1, 2], "stop", 4, 2, 0.5, _LOGPROBS, _LOGPROBS, ERROR, _SPENT, b"\x00" * 8),
        EngineState("ok", [ActorState("target", "ok", 1, 0, 0.0, None)], None, _HELLO),
    ],
    "target": [
        StepPlan(1, ["x"], [NewRequest("a-0", 0, [1, 2, 3], 2, [0, 1], PARAMS)],
                 [Row("a-0", 0, 0, 3, 1, [4], True, 2, [5, 6], [-1, 0], [([5], [1.0]), ([6], [1.0])])], [2]),
        Compile("k", "start: /a/"),
    ],
    "draft": [Open("a-0", 0, [1, 2], PARAMS), Propose([DraftAsk("a-0", 0, 2, [1], 3)], 0.1), Commit("a-0", 0, 2, [4])],
    "gateway": [
        Admitted("c", [PromptInfo(2, [1, 2], "hi")]), CallFailed("c", ERROR),
        TextDelta("c", 0, 0, "hi", 1, [1], _TEXTS, [None, *_TEXTS], "stop", "halt", 2, 0.5, _SPENT, b"\x00" * 8,
                  [Part("call", "f", 0), Part("arguments", "{}", 0)], 1),
        Stats("target", 0, {"steps": 1.0}, {"step_time": [0.1]}),
    ],
    "supervisor": [_HELLO, Heartbeat("target", 1, 5, True, 0.5), Failed("target", 2, ERROR)],
}  # fmt: skip
ROLES = sorted(EXAMPLES)
