"""A body of OpenAI's dialect to a ``ParsedCall``: every range checked, with the parameter's name in the message.

The scheduler checks again what could hurt it; here the message is for a person.
"""

import re
import secrets
from collections.abc import Iterable
from math import isfinite
from typing import Any
from uuid import uuid4

import msgspec

from ...engine.errors import InvalidRequestError
from ..messages import Chat, Generate, Sampling
from .errors import describe
from .grammar_wish import wish_of
from .openai_fields import UNSUPPORTED, Body, CompletionBody
from .openai_speculation import control
from .parsed_call import Bounds, ParsedCall

MAX_PROMPTS = 1024
MAX_N = 128
MAX_CHOICES = 1024
MAX_STOPS = 4
MAX_STOP_IDS = 128
MAX_BIASES = 1024
MAX_BAD_WORDS = 128
MAX_LOGPROB_IDS = 128
MAX_IGNORED = 10
_MAX_SALT = 128
_INT64 = 2**63
_FLOAT32_MAX = 3.4e38
_SALT_FORBIDS = frozenset("@/\\\0")
_REQUEST_ID = re.compile(r"[\x21-\x7e]{1,128}")
_FIELD_NAME = re.compile(r"[A-Za-z0-9_.-]{1,40}")


def parse_completion(
    body: CompletionBody, fields: dict[str, msgspec.Raw], bounds: Bounds, request_id: str | None
) -> ParsedCall:
    """Check a body of /v1/completions.

    Raises:
        InvalidRequestError: naming the parameter.
    """
    refuse_unsupported(body, fields)
    prompts = check_prompts(body.prompt, body.truncate_prompt_tokens, bounds)
    echo = bool(body.echo)
    logprobs = check_logprobs("logprobs", body.logprobs, bounds)
    if body.max_tokens == 0 and not echo:
        raise InvalidRequestError("max_tokens is 0: must be at least 1; 0 needs echo", param="max_tokens")
    sampling = check_sampling(body, bounds, logprobs=logprobs, max_tokens=body.max_tokens)
    if echo and logprobs is not None and sampling.prompt_logprobs is not None:
        # One number serves both shapes; -1, the whole vocabulary, is the most.
        most = -1 if -1 in (logprobs, sampling.prompt_logprobs) else max(logprobs, sampling.prompt_logprobs)
        sampling = msgspec.structs.replace(sampling, prompt_logprobs=most)
    return build_call(
        body,
        fields,
        bounds,
        request_id,
        sampling,
        prompts=prompts,
        add_special_tokens=body.add_special_tokens is not False,
    )


def build_call(
    body: Body,
    fields: dict[str, msgspec.Raw],
    bounds: Bounds,
    request_id: str | None,
    sampling: Sampling,
    *,
    prompts: list[str | list[int]] | None = None,
    chat: Chat | None = None,
    add_special_tokens: bool = True,
    predicted: str = "",
) -> ParsedCall:
    """The checks and values that do not depend on the route."""
    n = 1 if body.n is None else body.n
    check_range("n", n, 1, MAX_N)
    num_prompts = 1 if prompts is None else len(prompts)
    if num_prompts * n > MAX_CHOICES:
        raise InvalidRequestError(
            f"{num_prompts} prompts with n = {n} make {num_prompts * n} choices: at most {MAX_CHOICES}; send fewer",
            param="n",
        )
    stream = bool(body.stream)
    if body.stream_options is not None and not stream:
        raise InvalidRequestError("stream_options needs stream to be true; set it or leave the options out",
                                  param="stream_options")  # fmt: skip
    if stream and body.prompt_logprobs:
        raise InvalidRequestError(
            f"prompt_logprobs is {body.prompt_logprobs}: with stream it can only be 0; do not stream",
            param="prompt_logprobs",
        )
    options = body.stream_options
    check_range("stream_interval", body.stream_interval, 1, bounds.max_model_len)
    return ParsedCall(
        generate=Generate(
            call_id=uuid4().hex,
            sampling=sampling,
            n=n,
            echo=bool(body.echo),
            truncate_prompt_tokens=body.truncate_prompt_tokens,
            truncation_side=check_side(body.truncation_side),
            priority=_priority(body.priority, bounds),
            cache_salt=check_salt(body.cache_salt),
            timeout_s=bounds.timeout_s,
            return_token_ids=bool(body.return_token_ids),
            prompts=prompts,
            chat=chat,
            add_special_tokens=add_special_tokens,
            speculation=control(body.speculation, bounds.speculators, bounds.max_draft_tokens),
            prediction=predicted if bounds.speculators else "",
        ),
        request_id=request_id or check_request_id(body.request_id),
        stream=stream,
        include_usage=options is not None and bool(options.include_usage),
        continuous_usage=options is not None and bool(options.continuous_usage_stats),
        stream_interval=body.stream_interval or 1,
        wants_logprobs=sampling.logprobs is not None,
        wants_prompt_logprobs=sampling.prompt_logprobs is not None,
        tokens_as_ids=bool(body.return_tokens_as_token_ids),
        wish=wish_of(body),
        has_short_ids=bounds.format.wants_short_ids,
        ignored=ignored_fields(body, fields),
    )


# --- groups of fields -------------------------------------------------------------------------------------------------


def check_sampling(body: Body, bounds: Bounds, *, logprobs: int | None, max_tokens: int | None) -> Sampling:
    """The sampling fields, which both routes share."""
    check_range("max_tokens", max_tokens, 0, bounds.max_model_len, why="the context")
    most = bounds.max_model_len if max_tokens is None else max_tokens
    check_range("min_tokens", body.min_tokens, 0, most, why="max_tokens")
    check_range("temperature", body.temperature, 0, 2)
    check_range("top_p", body.top_p, 0, 1, above=True)
    check_range("top_k", body.top_k, -1, 2**31 - 1)
    check_range("min_p", body.min_p, 0, 1)
    check_range("presence_penalty", body.presence_penalty, -2, 2)
    check_range("frequency_penalty", body.frequency_penalty, -2, 2)
    check_range("repetition_penalty", body.repetition_penalty, 0, _FLOAT32_MAX, above=True)
    check_range("seed", body.seed, -_INT64, _INT64 - 1)
    width = bounds.logits_width
    if body.logprob_token_ids is not None and logprobs is None:
        raise InvalidRequestError("logprob_token_ids needs logprobs; set it too", param="logprob_token_ids")
    if body.logprob_token_ids is not None and body.echo and max_tokens == 0:
        raise InvalidRequestError("logprob_token_ids has nothing to report with echo and max_tokens 0; leave it out",
                                  param="logprob_token_ids")  # fmt: skip
    if body.allowed_token_ids is not None and not body.allowed_token_ids:
        raise InvalidRequestError("allowed_token_ids is empty: allow at least 1 id", param="allowed_token_ids")
    return Sampling(
        max_tokens=max_tokens,
        min_tokens=body.min_tokens or 0,
        temperature=_raised(body.temperature),
        top_p=body.top_p,
        top_k=None if body.top_k is None else max(0, body.top_k),
        min_p=body.min_p,
        presence_penalty=body.presence_penalty,
        frequency_penalty=body.frequency_penalty,
        repetition_penalty=body.repetition_penalty,
        seed=_seed(body.seed, bounds.default_seed),
        stop=_stops(body.stop),
        include_stop_str_in_output=bool(body.include_stop_str_in_output),
        stop_token_ids=check_ids("stop_token_ids", body.stop_token_ids, width, MAX_STOP_IDS) or [],
        ignore_eos=bool(body.ignore_eos),
        logit_bias=_biases(body.logit_bias, width),
        allowed_token_ids=check_ids("allowed_token_ids", body.allowed_token_ids, width, width),
        bad_words=_bad_words(body.bad_words),
        logprobs=logprobs,
        logprob_token_ids=check_ids("logprob_token_ids", body.logprob_token_ids, width, MAX_LOGPROB_IDS),
        prompt_logprobs=check_logprobs("prompt_logprobs", body.prompt_logprobs, bounds),
        skip_special_tokens=body.skip_special_tokens is not False,
        spaces_between_special_tokens=body.spaces_between_special_tokens is not False,
    )


def refuse_unsupported(body: Body, fields: dict[str, msgspec.Raw]) -> None:
    """Fields of which we know that we would have to ignore them."""
    for name, harmless in UNSUPPORTED.items():
        if name in fields and bytes(fields[name]) not in harmless:
            raise unsupported(name)


def unsupported(param: str, which: str = "") -> InvalidRequestError:
    """A field that this server knows and does not offer."""
    return InvalidRequestError(
        f"{param} {which}is not supported by this server; leave it out", param=param, code="unsupported_parameter"
    )


def check_prompts(
    prompt: Any, truncates: int | None, bounds: Bounds, *, param: str = "prompt", most: int = MAX_PROMPTS
) -> list[str | list[int]]:
    """A text, ids, or a list of either, as a list of prompts; ``param`` is the field's name."""
    check_range("truncate_prompt_tokens", truncates, -1, bounds.max_model_len, why="the context")
    single = not isinstance(prompt, list) or (len(prompt) > 0 and type(prompt[0]) is int)
    prompts: list[Any] = [prompt] if single else prompt
    if len(prompts) > most:
        raise InvalidRequestError(f"{param} has {len(prompts)} {param}s: at most {most}; send fewer", param=param)
    if not prompts or prompt is None:
        raise InvalidRequestError(f"{param} is missing or empty; send text or token ids", param=param)
    for i, one in enumerate(prompts):
        _check_prompt(one, param if single else f"{param}.{i}", truncates, bounds)
    return prompts


def _check_prompt(prompt: Any, param: str, truncates: int | None, bounds: Bounds) -> None:
    if not isinstance(prompt, str | list):
        raise InvalidRequestError(f"{param} must be text or a list of token ids, not {describe(prompt)}", param=param)
    if not prompt:
        raise InvalidRequestError(f"{param} is empty: it must have at least 1 token", param=param)
    if isinstance(prompt, str):
        return
    if set(map(type, prompt)) != {int}:
        index = next(i for i, token in enumerate(prompt) if type(token) is not int)
        what = f"{param}.{index} is {describe(prompt[index])}"
        raise InvalidRequestError(f"{what}: a list of token ids holds integers only", param=f"{param}.{index}")
    check_ids(param, prompt, bounds.vocab_size, None)
    if truncates is None and len(prompt) > bounds.max_model_len:
        what = f"{param} has {len(prompt)} tokens: the context is {bounds.max_model_len}"
        raise InvalidRequestError(f"{what}; shorten it", param=param, code="context_length_exceeded")


def check_logprobs(param: str, value: int | None, bounds: Bounds) -> int | None:
    """A number of top log-probabilities; -1, the whole vocabulary, only where the server allows it."""
    if value == -1 and bounds.max_logprobs == -1:
        return -1
    most = bounds.logits_width if bounds.max_logprobs == -1 else bounds.max_logprobs
    check_range(param, value, 0, most, why="the server's max_logprobs")
    return value


def check_range(
    param: str, value: float | None, least: float, most: float, *, above: bool = False, why: str = ""
) -> None:
    """Refuse a number outside ``least`` to ``most``; ``above`` excludes ``least`` itself."""
    if value is None:
        return
    if not (isinstance(value, int) or isfinite(value)) or value > most or value < least or (above and value == least):
        bound = f"above {least:g} and at most {_shown(most)}" if above else f"{_shown(least)} to {_shown(most)}"
        because = f", {why}" if why else ""
        raise InvalidRequestError(f"{param} is {describe(value)}: must be {bound}{because}", param=param)


def check_ids(param: str, ids: list[int] | None, width: int, most: int | None) -> list[int] | None:
    """Refuse token ids outside 0 to ``width`` - 1, and more than ``most`` of them."""
    if not ids:
        return ids
    if most is not None and len(ids) > most:
        raise InvalidRequestError(f"{param} has {len(ids)} ids: at most {most}; send fewer", param=param)
    if min(ids) < 0 or max(ids) >= width:
        index = next(i for i, token in enumerate(ids) if not 0 <= token < width)
        what = f"{param}.{index} is {describe(ids[index])}"
        raise InvalidRequestError(f"{what}: token ids must be 0 to {width - 1}", param=f"{param}.{index}")
    return ids


def _shown(bound: float) -> str:
    return str(bound) if isinstance(bound, int) else f"{bound:g}"


def _raised(temperature: float | None) -> float | None:
    # Between 0 and 0.01 scaled logits overflow; such clients mean "almost greedy".
    return 0.01 if temperature is not None and 0 < temperature < 0.01 else temperature


def _seed(given: int | None, default: int | None) -> int:
    """-1 asks for another one each time, whatever the model's default."""
    seed = default if given is None else given
    return secrets.randbits(63) if seed is None or seed == -1 else seed


def _stops(stop: str | list[str] | None) -> list[str]:
    stops = [stop] if isinstance(stop, str) else stop or []
    if len(stops) > MAX_STOPS:
        raise InvalidRequestError(f"stop has {len(stops)} strings: at most {MAX_STOPS}; send fewer", param="stop")
    _check_no_empty("stop", stops)
    return stops


def _bad_words(words: list[str] | None) -> list[str] | None:
    if words is not None and len(words) > MAX_BAD_WORDS:
        what = f"bad_words has {len(words)} entries: at most {MAX_BAD_WORDS}"
        raise InvalidRequestError(f"{what}; send fewer", param="bad_words")
    _check_no_empty("bad_words", words or [])
    return words or None


def _check_no_empty(param: str, texts: Iterable[str]) -> None:
    for i, text in enumerate(texts):
        if not text:
            raise InvalidRequestError(f"{param}.{i} is empty; leave it out", param=f"{param}.{i}")


def _biases(biases: dict[str, float] | None, width: int) -> dict[int, float] | None:
    if not biases:
        return None
    if len(biases) > MAX_BIASES:
        what = f"logit_bias has {len(biases)} entries: at most {MAX_BIASES}"
        raise InvalidRequestError(f"{what}; send fewer", param="logit_bias")
    checked: dict[int, float] = {}
    for key, bias in biases.items():
        if not re.fullmatch(r"[0-9]{1,10}", key) or int(key) >= width:
            what = f"logit_bias has the key {describe(key)}"
            raise InvalidRequestError(f"{what}: keys are token ids, 0 to {width - 1}", param="logit_bias")
        checked[int(key)] = min(100.0, max(-100.0, bias))
    return checked


def check_side(side: str | None) -> Any:
    """Which end of an over-long prompt is cut off."""
    if side not in (None, "left", "right"):
        raise InvalidRequestError(
            f"truncation_side is {describe(side)}: must be left or right", param="truncation_side"
        )
    return side


def _priority(priority: int | None, bounds: Bounds) -> int:
    if priority and not bounds.has_priorities:
        what = f"priority is {describe(priority)}, but the server runs first come first served"
        raise InvalidRequestError(f'{what}; leave it 0, or serve with scheduler.policy = "priority"', param="priority")
    check_range("priority", priority, -_INT64, _INT64 - 1)
    return priority or 0


def check_salt(salt: str | None) -> str:
    """With whom prefix blocks are shared; empty = with everybody."""
    if salt is not None and (not 1 <= len(salt) <= _MAX_SALT or not _SALT_FORBIDS.isdisjoint(salt)):
        what = f"cache_salt has {len(salt)} characters" if len(salt) > _MAX_SALT else f"cache_salt is {describe(salt)}"
        raise InvalidRequestError(f"{what}: 1 to {_MAX_SALT}, none of @ / \\ and NUL", param="cache_salt")
    return salt or ""


def check_request_id(given: str | None) -> str:
    """The client's id, or a new one."""
    if given is not None and not _REQUEST_ID.fullmatch(given):
        what = f"request_id is {describe(given)}"
        raise InvalidRequestError(f"{what}: 1 to 128 printable ASCII characters without spaces", param="request_id")
    return given or uuid4().hex


def ignored_fields(body: msgspec.Struct, fields: dict[str, msgspec.Raw]) -> list[str]:
    """Names of fields that were given and not read, as far as they are fit for a header."""
    known = body.__struct_fields__
    names = (k for k, raw in fields.items() if k not in known and k not in UNSUPPORTED and bytes(raw) != b"null")
    return [name for name in names if _FIELD_NAME.fullmatch(name)][:MAX_IGNORED]
