"""How many prompt tokens a step may take beside running streams, so that these do not stutter. Times are told to it."""

_NEW = 0.2  # weight of the latest step in a mean
_WEIGHT = 4  # streams that one waiting prompt outweighs


class Pace:
    """Knows what a step takes without prompts, and what each prompt token adds; from the answers to earlier steps.

    ``stretch``: how many times as long as a step without prompts one with them may take while few prompts wait, one for
    four streams at most; the more wait, the more they get. 0 = as long as it likes.
    """

    __slots__ = ("_plain_s", "_stretch", "_token_s")

    def __init__(self, stretch: float) -> None:
        self._stretch = stretch
        self._plain_s = 0.0
        self._token_s = 0.0

    def observe(self, num_prompt_tokens: int, elapsed_s: float) -> None:
        """A step with that many prompt tokens was answered."""
        if elapsed_s <= 0:
            return
        if not num_prompt_tokens:
            self._plain_s = _mean(self._plain_s, elapsed_s)
        else:  # of the very first prompt all is the tokens'
            self._token_s = _mean(self._token_s, max(0.0, elapsed_s - self._plain_s) / num_prompt_tokens)

    def prompt_budget(self, most: int, least: int, num_decoding: int, num_prompts: int) -> int:
        """Prompt tokens of the next step, ``least`` to ``most``."""
        if not (self._stretch and self._token_s and self._plain_s and num_decoding):
            return most
        extra_s = (self._stretch - 1) * self._plain_s * max(1.0, _WEIGHT * num_prompts / num_decoding)
        return int(min(most, max(least, extra_s / self._token_s)))


def _mean(old: float, new: float) -> float:
    return old + (new - old) * _NEW if old else new
