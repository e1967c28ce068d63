"""The card of a folder in Hugging Face's layout, from config, generation config, tokenizer files and chat template."""

import re
from pathlib import Path
from typing import Any

import msgspec

from ..errors import BadModelFileError, StoreError
from ..formats.headers.hf_config import model_config_from_hf
from .card_gguf import END_TEXTS, markers
from .located import Located, ModelCard, TokenizerSource
from .snapshot import POOLING_FILE

_MAX_JSON = 64 << 20
"""tokenizer.json of the largest vocabularies has 20 MB."""
_MAX_TEMPLATE = 1 << 20
_SPECIAL = ("bos_token", "eos_token", "unk_token", "pad_token")
_SAMPLING = ("temperature", "top_p", "top_k", "min_p", "repetition_penalty")


class _AddedToken(msgspec.Struct):
    id: int
    content: str
    special: bool = False


class _TokenizerJson(msgspec.Struct):
    """The few parts of tokenizer.json that a card needs; the vocabulary is skipped unread."""

    added_tokens: list[_AddedToken] = []
    post_processor: Any = None


def read(located: Located) -> ModelCard:
    """The card without name and sizes on disk.

    Raises:
        StoreError: config.json or tokenizer.json is missing.
        BadModelFileError: one of the files is damaged, or the architecture is not ours.
    """
    folder = Path(located.folder)
    config = _json(folder / "config.json")
    settings = _json(folder / "tokenizer_config.json", optional=True)
    generation = _json(folder / "generation_config.json", optional=True)
    tokenizer = _tokenizer(folder / "tokenizer.json")
    texts = _special_texts(settings, _json(folder / "special_tokens_map.json", optional=True))
    ids = {t.content: t.id for t in tokenizer.added_tokens}
    bos = texts.get("bos_token")
    return ModelCard(
        name=located.name,
        model=model_config_from_hf(config, str(folder / "config.json")),
        tokenizer=TokenizerSource(kind="json", path=str(folder / "tokenizer.json")),
        chat_template=_chat_template(folder, settings),
        special_tokens=texts,
        bos_id=ids.get(bos, _first_id(config.get("bos_token_id"))) if bos else _first_id(config.get("bos_token_id")),
        add_bos=bos is not None and _puts_first(tokenizer.post_processor, bos),
        end_ids=_end_ids(generation, config, texts, tokenizer),
        defaults={k: generation[k] for k in _SAMPLING if type(generation.get(k)) in (int, float)},
        license=_license(folder),
        pooling=_pooling(_json(folder / POOLING_FILE, optional=True)),
        embedding_dimensions=_dimensions(config),
        marker_ids=markers((t.content, t.id, t.special) for t in tokenizer.added_tokens),
        response_template=response if isinstance(response := settings.get("response_template"), dict) else None,
    )


def _json(path: Path, *, optional: bool = False) -> dict[str, Any]:
    raw = _bytes(path, optional=optional)
    if raw is None:
        return {}
    try:
        tree = msgspec.json.decode(raw)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as e:
        raise BadModelFileError(f"{path}: is not JSON ({e}); pull the model again") from e
    if not isinstance(tree, dict):
        raise BadModelFileError(f"{path}: is JSON but no object; pull the model again")
    return tree


def _bytes(path: Path, *, optional: bool, most: int = _MAX_JSON) -> bytes | None:
    try:
        with open(path, "rb") as file:
            raw = file.read(most + 1)
    except FileNotFoundError as e:
        if optional:
            return None
        raise StoreError(f"{path}: is missing; add it or pull the model again") from e
    except OSError as e:
        raise StoreError(f"{path}: cannot be read ({e.strerror or e}); check its permissions") from e
    if len(raw) > most:
        raise BadModelFileError(f"{path}: is larger than {most} bytes; use another copy of the model")
    return raw


def _tokenizer(path: Path) -> _TokenizerJson:
    raw = _bytes(path, optional=False)
    try:
        return msgspec.json.decode(raw or b"", type=_TokenizerJson)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as e:
        raise BadModelFileError(f"{path}: is no tokenizer.json ({e}); pull the model again") from e


def _special_texts(*tables: dict[str, Any]) -> dict[str, str]:
    """Texts of the special tokens; the first table that has one wins. A token is a string or an object with content."""
    found: dict[str, str] = {}
    for table in tables:
        for name in _SPECIAL:
            value = table.get(name)
            value = value.get("content") if isinstance(value, dict) else value
            if isinstance(value, str):
                found.setdefault(name, value)
    return found


def _chat_template(folder: Path, settings: dict[str, Any]) -> str | None:
    """The template in a file of its own, else of the tokenizer's settings (of several the default), else an old one."""
    path = folder / "chat_template.jinja"
    raw = _bytes(path, optional=True, most=_MAX_TEMPLATE)
    if raw is not None:
        try:
            return raw.decode()
        except UnicodeDecodeError as e:
            raise BadModelFileError(f"{path}: is not UTF-8 at byte {e.start}; pull the model again") from e
    value = settings.get("chat_template")
    if isinstance(value, list):
        tables = [t for t in value if isinstance(t, dict) and t.get("name") == "default"]
        value = tables[-1].get("template") if tables else None
    if value is None:
        value = _json(folder / "chat_template.json", optional=True).get("chat_template")
    if value is not None and (not isinstance(value, str) or len(value) > _MAX_TEMPLATE):
        raise BadModelFileError(
            f"{folder}: chat_template is no text of up to {_MAX_TEMPLATE} characters; use another copy of the model"
        )
    return value


def _puts_first(post_processor: Any, bos: str) -> bool:
    """Whether tokenizer.json itself puts ``bos`` before a single text."""
    if not isinstance(post_processor, dict):
        return False
    if post_processor.get("type") == "Sequence":
        return any(_puts_first(p, bos) for p in post_processor.get("processors") or [])
    single = post_processor.get("single")
    first = single[0] if isinstance(single, list) and single else None
    special = first.get("SpecialToken") if isinstance(first, dict) else None
    return isinstance(special, dict) and special.get("id") == bos


def _end_ids(
    generation: dict[str, Any], config: dict[str, Any], texts: dict[str, str], tokenizer: _TokenizerJson
) -> list[int]:
    """generation_config's list (else config's), the tokenizer's eos, and special tokens that end a turn."""
    ids = {t.content: t.id for t in tokenizer.added_tokens if t.special}
    eos = ids.get(texts.get("eos_token", ""))
    turn = [i for text, i in ids.items() if text in END_TEXTS[:3]]
    named = _ids(generation.get("eos_token_id")) or _ids(config.get("eos_token_id"))
    return list(dict.fromkeys([*named, *([] if eos is None else [eos]), *turn]))


def _pooling(settings: dict[str, Any]) -> str:
    """Of sentence-transformers' settings, the mode that is on; without them the last token's state."""
    names = {"pooling_mode_lasttoken": "last", "pooling_mode_mean_tokens": "mean"}
    modes = [key for key, on in settings.items() if key.startswith("pooling_mode_") and on is True]
    if not modes:
        return "last"
    return names.get(modes[0], modes[0].removeprefix("pooling_mode_")) if len(modes) == 1 else "mixed"


def _dimensions(config: dict[str, Any]) -> list[int]:
    """Sizes to which vectors may be cut, as vLLM reads them from a config.json."""
    sizes = [n for n in _ids(config.get("matryoshka_dimensions")) if n > 0]
    return sizes or ([-1] if config.get("is_matryoshka") is True else [])


def _ids(value: Any) -> list[int]:
    values = value if isinstance(value, list) else [value]
    return [v for v in values if type(v) is int and v >= 0]


def _first_id(value: Any) -> int | None:
    return next(iter(_ids(value)), None)


def _license(folder: Path) -> str:
    """``license:`` from the front matter of the repo's README."""
    try:
        with open(folder / "README.md", encoding="utf-8", errors="replace") as file:
            head = file.read(4096)
    except OSError:
        return ""
    matter = re.match(r"---\s*\n(.*?)\n---", head, re.DOTALL)
    named = re.search(r"^license:\s*['\"]?([\w.+-]+)", matter[1], re.MULTILINE) if matter else None
    return named[1] if named else ""
