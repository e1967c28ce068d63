"""OpenAI's answer shapes with vLLM's extension keys: usage, log-probabilities, whole answers. Pure functions."""

from collections.abc import Sequence
from typing import Any

from ..messages import Admitted, PositionLogprobs, TextLogprob
from .gathered import AnswerHead, Gathered
from .openai_speculation import metrics
from .parsed_call import ParsedCall

_LEAST_LOGPROB = -9999.0
"""How -inf is written: JSON has none."""


def usage(admitted: Admitted, num_output: int, num_cached: int, num_reasoning: int = 0) -> dict[str, Any]:
    """Token counts of a call; each prompt counts once, whatever n is."""
    num_prompt = sum(p.num_tokens for p in admitted.prompts)
    return {
        "prompt_tokens": num_prompt,
        "completion_tokens": num_output,
        "total_tokens": num_prompt + num_output,
        "prompt_tokens_details": {"cached_tokens": num_cached},
        "completion_tokens_details": {"reasoning_tokens": num_reasoning},
    }


def whole_usage(admitted: Admitted, choices: Sequence[Gathered], n: int) -> dict[str, Any]:
    """The usage of a whole answer."""
    num_reasoning = sum(c.num_reasoning for c in choices)
    return usage(admitted, sum(c.num_tokens for c in choices), sum(c.num_cached for c in choices[::n]), num_reasoning)


def with_calls(reason: str | None, call: ParsedCall, *, has_calls: bool) -> str | None:
    """Why a chat's choice ended: a stop behind calls is ``tool_calls``, unless the client named the tool."""
    return "tool_calls" if reason == "stop" and has_calls and not call.is_named else reason


def completion_answer(
    call: ParsedCall, head: AnswerHead, admitted: Admitted, choices: Sequence[Gathered], first_texts: dict[int, str]
) -> dict[str, Any]:
    """The answer of /v1/completions. ``first_texts`` are the texts of the prompts' first ids, where echo needs them."""
    n, rows = call.generate.n, []
    for index, choice in enumerate(choices):
        prompt = admitted.prompts[index // n]
        positions: list[PositionLogprobs | None] = [*choice.logprobs]
        text = choice.content
        first_text = ""
        if call.generate.echo:
            text = (prompt.text or "") + text
            first_text = first_texts.get(prompt.token_ids[0], "") if prompt.token_ids else ""
            positions = [*(choice.prompt_logprobs or []), *positions]
        rows.append(
            {
                "index": index,
                "text": text,
                "logprobs": legacy_logprobs(positions, call.tokens_as_ids, first_text) if call.wants_logprobs else None,
                "finish_reason": choice.finish_reason,
                "stop_reason": choice.stop_reason,
                "token_ids": choice.token_ids if call.generate.return_token_ids else None,
                "prompt_token_ids": prompt.token_ids if call.generate.return_token_ids else None,
                "prompt_logprobs": prompt_logprobs(choice.prompt_logprobs) if call.wants_prompt_logprobs else None,
            }
        )
    return _root("text_completion", head, rows, whole_usage(admitted, choices, n)) | _metrics(choices)


def chat_answer(
    call: ParsedCall, head: AnswerHead, admitted: Admitted, choices: Sequence[Gathered], first_texts: dict[int, str]
) -> dict[str, Any]:
    """The answer of /v1/chat/completions; takes ``first_texts`` only to look like its sister."""
    prompt = admitted.prompts[0]
    returns_ids = call.generate.return_token_ids
    rows = [
        {
            "index": index,
            "message": _message(call, index, choice, (prompt.text or "") if call.generate.echo else ""),
            "logprobs": chat_logprobs(choice.logprobs, call) if call.wants_logprobs else None,
            "finish_reason": with_calls(choice.finish_reason, call, has_calls=bool(choice.calls)),
            "stop_reason": choice.stop_reason,
            "token_ids": choice.token_ids if returns_ids else None,
        }
        for index, choice in enumerate(choices)
    ]
    told = prompt_logprobs(choices[0].prompt_logprobs) if call.wants_prompt_logprobs else None
    return _root("chat.completion", head, rows, whole_usage(admitted, choices, call.generate.n)) | {
        "prompt_logprobs": told,
        "prompt_token_ids": prompt.token_ids if returns_ids else None,
        **_metrics(choices),
    }


def _message(call: ParsedCall, index: int, choice: Gathered, echoed: str) -> dict[str, Any]:
    content, reasoning, calls = echoed + choice.content, choice.reasoning, choice.calls
    message: dict[str, Any] = {
        "role": "assistant",
        "content": None if not content and (calls or reasoning) else content,
        "refusal": None,
        "annotations": [],
        "reasoning": reasoning or None,
    }
    if calls:
        message["tool_calls"] = [
            {
                "id": call.tool_call_id(index, block.index),
                "type": "function",
                "function": {"name": block.name, "arguments": block.text},
            }
            for block in calls
        ]
    return message


def _metrics(choices: Sequence[Gathered]) -> dict[str, Any]:
    """For a single choice only: sums over several would be nobody's figures."""
    stats = choices[0].speculation if len(choices) == 1 else None
    return {} if stats is None else {"metrics": metrics(stats)}


def _root(kind: str, head: AnswerHead, choices: list[dict[str, Any]], used: dict[str, Any]) -> dict[str, Any]:
    return {
        "id": head.id,
        "object": kind,
        "created": head.created,
        "model": head.model,
        "system_fingerprint": head.system_fingerprint,
        "service_tier": None,
        "choices": choices,
        "usage": used,
    }


# --- log-probabilities ------------------------------------------------------------------------------------------------


def legacy_logprobs(
    positions: Sequence[PositionLogprobs | None], as_ids: bool, first_text: str = "", offset: int = 0
) -> dict[str, Any]:
    """The shape of /v1/completions. None stands for a prompt's first token, of which only ``first_text`` is known.

    ``offset`` is where in the choice's text the first of these tokens begins.
    """
    tokens: list[str] = []
    values: list[float | None] = []
    tops: list[dict[str, float] | None] = []
    offsets: list[int] = []
    for position in positions:
        offsets.append(offset)
        if position is None:
            tokens.append(first_text)
            values.append(None)
            tops.append(None)
            offset += len(first_text)
            continue
        chosen = position.chosen
        tokens.append(_name(chosen, as_ids))
        values.append(finite(chosen.logprob))
        top: dict[str, float] = {}
        # Two tokens may have one text, as halves of characters do; the likelier one keeps it.
        for token in (*position.top, chosen):
            top.setdefault(_name(token, as_ids), finite(token.logprob))
        tops.append(top)
        offset += len(chosen.text)
    return {"text_offset": offsets, "token_logprobs": values, "tokens": tokens, "top_logprobs": tops}


def chat_logprobs(positions: Sequence[PositionLogprobs], call: ParsedCall) -> dict[str, Any]:
    """The shape of /v1/chat/completions; the sampled token joins the top ones, if any were asked for."""
    as_ids = call.tokens_as_ids
    content = []
    for position in positions:
        chosen, top = position.chosen, list(position.top)
        if top and all(t.token_id != chosen.token_id for t in top):
            top.append(chosen)
        content.append(_chat_token(chosen, as_ids) | {"top_logprobs": [_chat_token(t, as_ids) for t in top]})
    return {"content": content, "refusal": None}


def prompt_logprobs(positions: Sequence[PositionLogprobs | None] | None) -> list[dict[str, Any] | None]:
    """vLLM's shape: one entry for each prompt token, by id; the first is null."""
    rows: list[dict[str, Any] | None] = []
    for position in positions or []:
        if position is None:
            rows.append(None)
            continue
        rows.append(
            {
                str(t.token_id): {"logprob": finite(t.logprob), "rank": t.rank, "decoded_token": t.text}
                for t in (*position.top, position.chosen)
            }
        )
    return rows


def finite(logprob: float) -> float:
    """A log-probability that JSON can hold."""
    return logprob if logprob > _LEAST_LOGPROB else _LEAST_LOGPROB


def _name(token: TextLogprob, as_ids: bool) -> str:
    return f"token_id:{token.token_id}" if as_ids else token.text


def _chat_token(token: TextLogprob, as_ids: bool) -> dict[str, Any]:
    return {"token": _name(token, as_ids), "logprob": finite(token.logprob), "bytes": list(token.raw)}
