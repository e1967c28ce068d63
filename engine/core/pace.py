"""How many prompt tokens a step may take beside running streams, so that these do not stutter. Times are told to it."""

_NEW = 0.2  # weight of the latest step in a mean
_WEIGHT = 4  # streams that one waiting prompt outweighs
_MOST_STREAMS = 16  # more count no more: in a burst whoever waits for a first token would wait several times as long


class Pace:
    """Knows what a step takes without prompts, and what each prompt token adds; from the answers to earlier steps.

    ``stretch``: how many times as long as a step without prompts one with them may take while few prompts wait, one for
    four streams at most; the more wait, the more they get. 0 = as long as it likes.
    """

    __slots__ = ("_measured", "_plain_s", "_stretch", "_token_s")

    def __init__(self, stretch: float) -> None:
        self._stretch = stretch
        self._plain_s: dict[int, float] = {}  # by the rows' bit length: 64 rows take ten times as long as one
        self._measured: set[int] = set()  # of these, what was seen in steps without prompts, not worked out
        self._token_s = 0.0

    def observe(self, num_rows: int, num_prompt_tokens: int, elapsed_s: float) -> None:
        """A step was answered: that many rows, and of their tokens that many besides the last of each row."""
        if elapsed_s <= 0:
            return
        size = num_rows.bit_length()
        if not num_prompt_tokens:
            self._plain_s[size] = _mean(self._plain_s.get(size, 0.0) if size in self._measured else 0.0, elapsed_s)
            self._measured.add(size)
        elif size in self._measured or not self._token_s:  # of the very first prompt all is the tokens'
            rest_s = max(0.0, elapsed_s - self._plain_s.get(size, 0.0))
            self._token_s = _mean(self._token_s, rest_s / num_prompt_tokens)
        else:  # a burst: so many rows have never gone without a prompt
            rest_s = max(0.0, elapsed_s - num_prompt_tokens * self._token_s)
            self._plain_s[size] = _mean(self._plain_s.get(size, 0.0), rest_s)

    def prompt_budget(self, most: int, least: int, num_decoding: int, num_prompts: int) -> int:
        """Prompt tokens of the next step, ``least`` to ``most``."""
        plain_s = self._plain_of(num_decoding.bit_length())
        if not (self._stretch and self._token_s and plain_s and num_decoding):
            return most
        extra_s = (self._stretch - 1) * plain_s * max(1.0, _WEIGHT * num_prompts / min(num_decoding, _MOST_STREAMS))
        return int(min(most, max(least, extra_s / self._token_s)))

    def _plain_of(self, size: int) -> float:
        """Of that many rows, or of the next fewer that are known; 0 = of none."""
        return next((self._plain_s[known] for known in range(size, 0, -1) if known in self._plain_s), 0.0)


def _mean(old: float, new: float) -> float:
    return old + (new - old) * _NEW if old else new
