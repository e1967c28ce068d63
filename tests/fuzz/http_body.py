"""HTTP body -> request, in every dialect. What is taken crosses the wire unchanged; what is refused is a short 4xx."""

from random import Random

import msgspec
from fake_engine import LOGITS_WIDTH, VOCAB_SIZE
from fuzzing.calls import PATHS, gateway, seeds, with_duplicates
from fuzzing.target import Target
from fuzzing.tree_mutator import json_mutator

from paceline.actors import wire
from paceline.actors.http.envelopes import reply
from paceline.actors.http.errors import problem_of
from paceline.actors.http.generation import Told
from paceline.actors.messages import Generate
from paceline.engine.errors import PacelineError

_tokenizer = wire.decoder("tokenizer")
_json = json_mutator(head=1)


def run(data: bytes) -> None:
    route = data[0] % len(PATHS) if data else 0
    try:
        exchange = gateway().open(route, data[1:])
    except PacelineError as e:
        problem = problem_of(e)
        _, body = reply(problem, PATHS[route], "r")
        assert 400 <= problem.status < 500, (problem.status, e)
        assert len(body) < 10_000, len(body)
        msgspec.json.decode(body.decode())
        raise
    if isinstance(exchange, Told):
        msgspec.json.encode(exchange.body)
        return
    call = exchange.call.generate
    check_ids(call)
    assert _tokenizer.decode(bytes(wire.encode(call))) == call
    for name in exchange.call.ignored:
        name.encode("ascii")


def check_ids(call: Generate) -> None:
    """No id that is beyond the model, in any field."""
    sampling = call.sampling
    for ids in (sampling.stop_token_ids, sampling.logit_bias, sampling.allowed_token_ids, sampling.logprob_token_ids):
        assert all(0 <= i < LOGITS_WIDTH for i in ids or ()), ids
    for prompt in call.prompts or ():
        assert isinstance(prompt, str) or all(0 <= i < VOCAB_SIZE for i in prompt), prompt


def _mutate(data: bytes, rng: Random) -> bytes:
    return with_duplicates(data, rng) if rng.random() < 0.05 else _json(data, rng)


TARGET = Target(run=run, seeds=seeds(), mutate=_mutate)
