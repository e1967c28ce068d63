"""A ``tokenizers.Tokenizer`` from a ``tokenizer.json`` or from the metadata of a GGUF file.

GGUF vocabularies come in two kinds that we serve. ``gpt2``: byte-level BPE, with merges in the file and the
pre-tokeniser named by ``tokenizer.ggml.pre``. ``llama``: SentencePiece BPE with a score for each piece and bytes as a
fallback; its merges follow from the scores. Metadata is untrusted: every id and length is checked before it is used.

Building is fast enough (0.15 s for 49k pieces) that no converted copy is kept. Does not know where files are found.
"""

from collections.abc import Mapping
from typing import Any

from tokenizers import AddedToken, Tokenizer, decoders, normalizers
from tokenizers.models import BPE
from tokenizers.processors import TemplateProcessing

from ...engine.errors import BadModelFileError
from ...engine.store.located import TokenizerSource
from .pre_tokenizers import IGNORE_MERGES, pre_tokenizer

_CONTROL, _USER_DEFINED, _BYTE = 3, 4, 6
"""Values of ``tokenizer.ggml.token_type`` that matter here."""
_SPACE = "\u2581"
"""How SentencePiece writes a space."""


def load(source: TokenizerSource) -> Tokenizer:
    """The tokenizer of a model.

    Raises:
        BadModelFileError: see ``from_json`` and ``from_gguf``.
    """
    if source.kind == "json":
        return from_json(source.path)
    from ...engine.formats.headers.gguf import read_header

    return from_gguf(read_header(source.path).metadata, source.path)


def from_json(path: str) -> Tokenizer:
    """Read a ``tokenizer.json``.

    Raises:
        BadModelFileError: the file is missing or is not one.
    """
    try:
        return Tokenizer.from_file(path)
    except BaseException as e:
        if not is_fault(e):
            raise
        raise BadModelFileError(f"{path}: is not a tokenizer.json ({_said(e)}); pull the model again") from e


def from_gguf(metadata: Mapping[str, Any], path: str = "GGUF file") -> Tokenizer:
    """Build the tokenizer that ``tokenizer.ggml.*`` describes; ``path`` is for messages only.

    Control tokens become special added tokens and user-defined ones plain added tokens. Encoding with
    ``add_special_tokens=True`` puts bos in front if the file asks for it.

    Raises:
        BadModelFileError: a key is missing or of a wrong type, or the kind of vocabulary is not known here.
    """
    kind = metadata.get("tokenizer.ggml.model")
    try:
        vocab = _Vocabulary(metadata)
        if kind == "gpt2":
            tokenizer = _byte_level(vocab)
        elif kind == "llama":
            tokenizer = _sentence_piece(vocab)
        else:
            raise BadModelFileError(
                f"tokenizer.ggml.model is {str(kind)[:64]!r}, not 'gpt2' or 'llama'; use the model's safetensors folder"
            )
    except BadModelFileError as e:
        raise BadModelFileError(f"{path}: {e}") from e
    except BaseException as e:
        if not is_fault(e):
            raise
        raise BadModelFileError(f"{path}: its tokenizer cannot be built ({_said(e)}); pull the model again") from e
    _add_tokens(tokenizer, vocab)
    _add_bos(tokenizer, vocab, default=kind == "llama")
    return tokenizer


def is_fault(error: BaseException) -> bool:
    """Whether ``error`` is what ``tokenizers`` makes of a file or text that it cannot handle: a bare Exception, such as
    for a merge of unknown pieces, or a panic of its Rust code, which is a BaseException and has no importable class."""
    return isinstance(error, Exception) or type(error).__name__ == "PanicException"


def _said(error: BaseException) -> str:
    return " ".join(str(error).split())[:200]


class _Vocabulary:
    """The ``tokenizer.ggml.*`` keys, with lengths and types checked."""

    def __init__(self, metadata: Mapping[str, Any]) -> None:
        self._metadata = metadata
        self.tokens = self._list("tokens", str)
        if not self.tokens:
            raise BadModelFileError("tokenizer.ggml.tokens is missing or empty; pull the model again")
        # An id without a name still needs a place: give it one that no text can spell by accident.
        self.tokens = [t or f"[EMPTY_{i}]" for i, t in enumerate(self.tokens)]
        self.ids = {t: i for i, t in enumerate(self.tokens)}
        if len(self.ids) != len(self.tokens):
            i = next(i for i, t in enumerate(self.tokens) if self.ids[t] != i)
            raise BadModelFileError(
                f"tokenizer.ggml.tokens has {self.tokens[i][:64]!r} at {i} and at {self.ids[self.tokens[i]]}; "
                "pull the model again"
            )
        self.types = self._list("token_type", int, len(self.tokens))
        self.pre = self.get("pre", str) or "default"

    def get(self, key: str, kind: type) -> Any:
        """The value of ``tokenizer.ggml.<key>``, or None when absent."""
        value = self._metadata.get(f"tokenizer.ggml.{key}")
        if value is not None and not isinstance(value, kind):
            raise BadModelFileError(f"tokenizer.ggml.{key} is {type(value).__name__}, not {kind.__name__}")
        return value

    def _list(self, key: str, item: type, length: int | None = None) -> list[Any]:
        value = self._metadata.get(f"tokenizer.ggml.{key}")
        if value is None:
            return []
        value = value.tolist() if hasattr(value, "tolist") else list(value)
        if length is not None and len(value) != length:
            raise BadModelFileError(f"tokenizer.ggml.{key} has {len(value)} entries for {length} tokens")
        if not all(isinstance(v, item) for v in value):
            raise BadModelFileError(f"tokenizer.ggml.{key} has an entry that is not {item.__name__}")
        return value

    def scores(self) -> list[float]:
        """SentencePiece's log-probability of each piece."""
        return [float(s) for s in self._list("scores", float, len(self.tokens))]

    def merges(self) -> list[tuple[str, str]]:
        """Pairs in merge order, as the file lists them."""
        pairs: list[tuple[str, str]] = []
        for merge in self._list("merges", str):
            # Pieces hold no space, but a merge of SentencePiece kinds may start with one.
            left, space, right = merge[1:].partition(" ")
            if not space:
                raise BadModelFileError(f"tokenizer.ggml.merges has {merge[:64]!r}, which is not two pieces")
            pairs.append((merge[0] + left, right))
        return pairs

    def special_id(self, key: str) -> int | None:
        """An id such as ``bos_token_id``, if it is one of the vocabulary."""
        value = self.get(key, int)
        return value if value is not None and 0 <= value < len(self.tokens) else None


def _byte_level(vocab: _Vocabulary) -> Tokenizer:
    merges = vocab.merges()
    if not merges:
        raise BadModelFileError("tokenizer.ggml.merges is missing; pull the model again")
    model = BPE(vocab.ids, merges, fuse_unk=False, byte_fallback=False, ignore_merges=vocab.pre in IGNORE_MERGES)
    tokenizer = Tokenizer(model)
    tokenizer.pre_tokenizer = pre_tokenizer(vocab.pre)  # pyright: ignore[reportAttributeAccessIssue]
    tokenizer.decoder = decoders.ByteLevel()  # pyright: ignore[reportAttributeAccessIssue]
    return tokenizer


def _sentence_piece(vocab: _Vocabulary) -> Tokenizer:
    unk = vocab.special_id("unknown_token_id")
    merges = vocab.merges() or _merges_from_scores(vocab)
    model = BPE(
        vocab.ids,
        merges,
        unk_token=None if unk is None else vocab.tokens[unk],
        fuse_unk=True,
        byte_fallback=_BYTE in vocab.types,
    )
    tokenizer = Tokenizer(model)
    prefix = vocab.get("add_space_prefix", bool)
    prefix = True if prefix is None else prefix
    spaces = normalizers.Replace(" ", _SPACE)
    normalizer = normalizers.Sequence([normalizers.Prepend(_SPACE), spaces]) if prefix else spaces
    tokenizer.normalizer = normalizer  # pyright: ignore[reportAttributeAccessIssue]
    steps = [decoders.Replace(_SPACE, " "), decoders.ByteFallback(), decoders.Fuse()]
    if prefix:
        steps.append(decoders.Strip(" ", 1, 0))
    tokenizer.decoder = decoders.Sequence(steps)  # pyright: ignore[reportAttributeAccessIssue]
    return tokenizer


def _merges_from_scores(vocab: _Vocabulary) -> list[tuple[str, str]]:
    """SentencePiece joins the pair whose whole has the best score: each way to cut a piece, best piece first."""
    scores = vocab.scores()
    if not scores:
        raise BadModelFileError("tokenizer.ggml.scores is missing for a 'llama' vocabulary; pull the model again")
    ids = vocab.ids
    ranked: list[tuple[float, int, int, str, str]] = []
    for i, piece in enumerate(vocab.tokens):
        if len(piece) < 2 or (vocab.types and vocab.types[i] in (_CONTROL, _BYTE)):
            continue
        for cut in range(1, len(piece)):
            left, right = piece[:cut], piece[cut:]
            if left in ids and right in ids:
                ranked.append((-scores[i], ids[left], ids[right], left, right))
    ranked.sort()
    return [(left, right) for *_, left, right in ranked]


def _add_tokens(tokenizer: Tokenizer, vocab: _Vocabulary) -> None:
    """Control tokens match whole in text and are skipped on decoding; user-defined ones match whole only."""
    added = [
        AddedToken(token, normalized=False, special=kind == _CONTROL)
        for token, kind in zip(vocab.tokens, vocab.types, strict=False)
        if kind in (_CONTROL, _USER_DEFINED)
    ]
    special = [a for a in added if a.special]
    plain = [a for a in added if not a.special]
    if special:
        tokenizer.add_special_tokens(special)
    if plain:
        tokenizer.add_tokens(plain)


def _add_bos(tokenizer: Tokenizer, vocab: _Vocabulary, default: bool) -> None:
    wanted = vocab.get("add_bos_token", bool)
    bos = vocab.special_id("bos_token_id")
    if bos is None or not (default if wanted is None else wanted):
        return
    token = vocab.tokens[bos]
    processor = TemplateProcessing(single=[token, "$A"], pair=[token, "$A", "$B"], special_tokens=[(token, bos)])
    tokenizer.post_processor = processor  # pyright: ignore[reportAttributeAccessIssue]
