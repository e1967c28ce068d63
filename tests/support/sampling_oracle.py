"""Slow, obvious processing of one position's logits in plain Python: what ``sampler.process`` must agree with."""

import math

from paceline.engine.types import SamplingParams

OUT = -math.inf


def processed(logits: list[float], params: SamplingParams, prompt: list[int], output: list[int]) -> list[float]:
    """Edited, divided by temperature and filtered logits for the position behind ``prompt + output``."""
    values = edited(list(logits), params, prompt, output)
    if params.temperature == 0:
        return values
    values = [v / params.temperature for v in values]
    if params.top_k:
        kth = sorted(values, reverse=True)[min(params.top_k, len(values)) - 1]
        values = [v if v >= kth else OUT for v in values]
    if params.top_p < 1:
        values = nucleus(values, params.top_p)
    if params.min_p:
        floor = max(values) + math.log(params.min_p)
        values = [v if v >= floor - 1e-6 else OUT for v in values]
    return values


def edited(values: list[float], params: SamplingParams, prompt: list[int], output: list[int]) -> list[float]:
    """Everything before temperature."""
    for token in range(len(values)):
        if token in prompt or token in output:
            r = params.repetition_penalty
            values[token] = values[token] / r if values[token] > 0 else values[token] * r
        values[token] -= params.frequency_penalty * output.count(token)
        values[token] -= params.presence_penalty if token in output else 0.0
    for token, bias in (params.logit_bias or {}).items():
        values[token] += bias
    before = prompt + output
    for *lead, last in params.bad_words or []:
        if before[len(before) - len(lead) :] == lead:
            values[last] = OUT
    for token in range(len(values)):
        if params.allowed_token_ids is not None and token not in params.allowed_token_ids:
            values[token] = OUT
        if len(output) < params.min_tokens and token in (*params.end_ids, *params.stop_token_ids):
            values[token] = OUT
    return values


def nucleus(values: list[float], top_p: float) -> list[float]:
    """The fewest most likely tokens that together reach ``top_p``; equal ones stay or go together."""
    largest = max(values)
    weights = [math.exp(v - largest) for v in values]
    total, mass = sum(weights), 0.0
    for value, weight in sorted(zip(values, weights, strict=True), reverse=True):
        mass += weight
        if mass >= top_p * total:
            return [v if v >= value else OUT for v in values]
    return values
