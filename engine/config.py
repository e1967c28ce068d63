"""TOML to nested frozen Structs. Unknown keys are refused with the nearest known one; nothing changes after ``load``.

Precedence: ``-s section.key=value`` > ``PACELINE_SECTION__KEY`` environment > file > the model's own > defaults here.
"""

import difflib
import os
import re
import tomllib
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any, Literal, get_args

import msgspec

from . import plugins
from .errors import ConfigError


class Section(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Base of all tables."""


class Key(Section, frozen=True):
    """One API key: as it is, or as its sha256, so that no file holds it."""

    key: str = ""
    sha256: str = ""
    """In hex; ``printf %s KEY | sha256sum`` prints it."""
    max_concurrent: int = 0
    """0 = the server's ``max_concurrent_per_key``."""
    requests_per_minute: int = 0
    """0 = the server's ``requests_per_minute_per_key``."""


class Server(Section, frozen=True):
    """The HTTP gateway."""

    host: str = "127.0.0.1"
    port: int = 8000
    api_keys: list[str] = []
    """Every route but the health ones then needs one of them."""
    keys: dict[str, Key] = {}
    """More keys, by the name that the log shows."""
    max_concurrent_per_key: int = 0
    """Most requests of one key at once; 0 = no limit."""
    requests_per_minute_per_key: int = 0
    """0 = no limit."""
    model_management: bool = False
    """Whether clients may list, pull and delete the models of this machine (/api/pull, /api/delete)."""
    admin: bool = False
    """Whether clients may change how the server runs (/reset_prefix_cache)."""
    served_model_name: str | None = None
    request_timeout_s: float = 600.0
    shutdown_timeout_s: float = 30.0
    max_body_bytes: int = 32 * 1024 * 1024
    max_logprobs: int = 20
    """-1 = the whole vocabulary."""
    allowed_origins: list[str] = []
    """CORS origins; empty = no CORS header."""
    log_level: Literal["debug", "info", "warning", "error"] = "info"
    log_format: Literal["text", "json"] = "text"
    log_prompts: bool = False
    """Whether the line of a call shows the beginning of its body, prompt and all."""
    tool_call_parser: str = "auto"
    """How the model writes tool calls: a format by name, none, or auto: what the model's own files say."""
    reasoning_parser: str = "auto"
    """The same of its reasoning."""


class Scheduler(Section, frozen=True):
    """Continuous batching."""

    max_num_seqs: int = 64
    """Most requests running at once."""
    max_num_batched_tokens: int = 256
    """Token budget of a step; a longer prompt is computed in chunks."""
    prompt_stretch: float = 2.5
    """A step takes no more prompt tokens than make it this many times as long as one without, where one prompt waits
    beside four streams or more; the more wait, the more they get. 0 = as many as the budget has."""
    max_in_flight: int = 2
    """Plans sent to the target before the first one's result is needed."""
    policy: Literal["fcfs", "priority"] = "fcfs"
    max_queued_requests: int = 1024
    max_queued_tokens: int = 0
    """0 = eight times the KV pool."""


class Cache(Section, frozen=True):
    """The paged KV cache."""

    block_size: int = 16
    """Tokens of a block."""
    num_blocks: int = 0
    """0 = from the memory really free."""
    max_bytes: int = 0
    """Upper bound when num_blocks is 0; 0 = memory_fraction of what is free."""
    memory_fraction: float = 0.5
    """Share of the free memory the pool may take on this device."""
    dtype: Literal["auto", "bfloat16", "float16", "float32"] = "auto"
    enable_prefix_caching: bool = True


class Target(Section, frozen=True):
    """The target model's process."""

    device: str = "auto"
    """auto, cpu, cuda:0, ..."""
    dtype: Literal["auto", "bfloat16", "float16", "float32", "int8", "int4"] = "auto"
    """Weights in memory. auto: on a CPU a GGUF file's blocks as they are and all else int8, on a GPU bfloat16.
    int4: all but blocks of 4 and 5 bits is rounded to 4 bits, smaller and faster but further from the model."""
    max_model_len: int = 0
    """Longest prompt + output; 0 = the model's own, shrunk (and said so) if the KV pool is smaller."""
    num_threads: int = 0
    """0 = one a core."""
    native_kernels: bool = True
    """False hides the compiled kernels and runs the plain torch ones."""
    pooling: Literal["auto", "last", "mean"] = "auto"
    """Whose hidden states make an embedding: the last token's, or the mean of all. auto: what the model's files say,
    else the last token's."""


class Speculation(Section, frozen=True):
    """Drafts for the target to verify. The table ``[speculation.<method>]`` is that method's own ``Config``."""

    methods: list[str] = []
    """Speculators, tried in order for each request; none = off. A name with dots is a module from outside."""
    rule: str = "coupled"
    """Which drafts are accepted; a plug-in of ``spec_decode/rules``."""
    policy: Literal["goodput", "fixed", "table"] = "goodput"
    """Who gets how many drafts: by measured gain, always ``max_draft_tokens``, or by ``table``."""
    max_draft_tokens: int = 8
    """For a request and step."""
    forced_tokens: bool = True
    """Under a grammar, tokens that it leaves no choice about are drafts too, with or without ``methods``."""
    table: list[tuple[int, int, int]] = []
    """policy table: [least, most running requests, drafts], first match; 0 drafts where none matches."""
    settings: dict[str, dict[str, Any]] = {}
    """By method, what its own table says. In TOML these are the tables themselves."""


class Config(Section, frozen=True):
    """Everything a server needs to know."""

    model: str = "smollm2:135m"
    """A library name, a Hugging Face repo, a folder or a .gguf file."""
    server: Server = Server()
    scheduler: Scheduler = Scheduler()
    cache: Cache = Cache()
    target: Target = Target()
    speculation: Speculation = Speculation()


_LEAST: dict[str, float] = {
    "server.port": 0,
    "server.request_timeout_s": 0.001,
    "server.shutdown_timeout_s": 0,
    "server.max_body_bytes": 1024,
    "server.max_logprobs": -1,
    "server.max_concurrent_per_key": 0,
    "server.requests_per_minute_per_key": 0,
    "scheduler.max_num_seqs": 1,
    "scheduler.max_num_batched_tokens": 1,
    "scheduler.prompt_stretch": 0,
    "scheduler.max_in_flight": 1,
    "scheduler.max_queued_requests": 1,
    "scheduler.max_queued_tokens": 0,
    "cache.block_size": 1,
    "cache.num_blocks": 0,
    "cache.max_bytes": 0,
    "cache.memory_fraction": 0.01,
    "target.max_model_len": 0,
    "target.num_threads": 0,
    "speculation.max_draft_tokens": 0,
}
_MOST: dict[str, float] = {
    "server.port": 65535,
    "scheduler.max_in_flight": 2,
    "cache.block_size": 256,
    "cache.memory_fraction": 0.95,
    "speculation.max_draft_tokens": 64,
}
_SPECULATORS, _RULES = "spec_decode.speculators", "spec_decode.rules"


def load(
    path: Path | str | None = None, overrides: Iterable[str] = (), environ: Mapping[str, str] | None = None,
    below: Mapping[str, Any] | None = None,
) -> Config:  # fmt: skip
    """Read ``path`` (or nothing), apply environment and ``section.key=value`` overrides, check, and freeze.

    ``below`` are values by ``section.key`` that apply where nothing else is said: those that come with a model.

    Raises:
        ConfigError: one line that names file and line (or the override), key and remedy.
    """
    tree: dict[str, Any] = {}
    text = ""
    if path is not None:
        try:
            raw = Path(path).read_bytes()
        except OSError as e:
            raise ConfigError(f"{path}: cannot be read: {e.strerror or e}; pass an existing TOML file") from e
        try:
            text = raw.decode()
            tree = tomllib.loads(text)
        except UnicodeDecodeError as e:
            raise ConfigError(f"{path}: is not UTF-8 at byte {e.start}; save it as UTF-8") from e
        except ValueError as e:  # the parser's own error, or of a number with too many digits for Python
            raise ConfigError(f"{path}: {' '.join(str(e).split())}; fix the TOML there") from e
        except RecursionError as e:
            raise ConfigError(f"{path}: nested too deeply; a config has tables of keys and nothing deeper") from e
    where = _Locator(str(path) if path is not None else "config", text)
    _gather_settings(tree)
    _check_keys(Config, tree, (), where)
    for key, value, source in _overrides(overrides, os.environ if environ is None else environ):
        _set(tree, key, value, source)
    for key, value in (below or {}).items():
        if not _is_set(tree, key):
            _set(tree, key, value, "what comes with the model")
    try:
        config = msgspec.convert(tree, Config)
    except msgspec.ValidationError as e:
        raise ConfigError(_convert_message(e, where)) from e
    check(config, where)
    return config


def check(config: Config, where: "_Locator | None" = None) -> None:
    """Refuse values out of range and combinations that cannot work.

    Raises:
        ConfigError: naming key, value and bound.
    """
    where = where or _Locator("config", "")
    for bounds, sign, word in ((_LEAST, 1, "least"), (_MOST, -1, "most")):
        for key, bound in bounds.items():
            section, name = key.split(".")
            value = getattr(getattr(config, section), name)
            if not (value - bound) * sign >= 0:  # NaN is neither above nor below
                raise ConfigError(f"{where.at(key.split('.'))}{key} = {value}: must be at {word} {bound:g}")
    if not config.model.strip():
        raise ConfigError(f"{where.at(['model'])}model is empty; name a model, such as smollm2:135m")
    if not re.fullmatch(r"auto|cpu|cuda(:\d+)?", config.target.device):
        key = where.at(["target", "device"])
        raise ConfigError(f"{key}target.device = {config.target.device!r}: use auto, cpu, cuda or cuda:N")
    _check_api_keys(config.server, where)
    _check_speculation(config.speculation, where)


def parse_value(text: str) -> Any:
    """A value in TOML syntax; a bare word is a string, and so is what TOML cannot read."""
    try:
        return tomllib.loads(f"v = {text}")["v"]
    except (ValueError, RecursionError):
        return text


class _Locator:
    """Finds the line of a key in the source text, for messages."""

    def __init__(self, name: str, text: str) -> None:
        self.name = name
        self.lines = text.splitlines()

    def at(self, path: Iterable[str]) -> str:
        *tables, key = path
        header = ".".join(tables)
        current = ""
        for number, line in enumerate(self.lines, 1):
            if m := re.match(r"\s*\[+\s*([^\]]+?)\s*\]+", line):
                current = m[1].replace('"', "").replace("'", "")
                if current == f"{header}.{key}" or (not tables and current.split(".")[0] == key):
                    return f"{self.name}:{number}: "
            elif current == header and re.match(rf"""\s*["']?{re.escape(key)}["']?\s*=""", line):
                return f"{self.name}:{number}: "
        return f"{self.name}: " if self.lines else ""


def _check_keys(struct: type[msgspec.Struct], tree: Mapping[str, Any], path: tuple[str, ...], where: _Locator) -> None:
    fields = {f.name: f.type for f in msgspec.structs.fields(struct)}
    for key, value in tree.items():
        if key not in fields:
            near = difflib.get_close_matches(key, fields, n=1)
            hint = f'did you mean "{near[0]}"?' if near else f"known: {', '.join(fields)}"
            inside = f" in [{'.'.join(path)}]" if path else ""
            raise ConfigError(f'{where.at((*path, key))}unknown key "{key}"{inside}; {hint}')
        sub = fields[key]
        if isinstance(sub, type) and issubclass(sub, msgspec.Struct) and isinstance(value, dict):
            _check_keys(sub, value, (*path, key), where)


def _gather_settings(tree: dict[str, Any]) -> None:
    """Move the tables of methods under ``speculation.settings``: their keys are not this file's business."""
    section = tree.get("speculation")
    if not isinstance(section, dict):
        return
    known = {f.name for f in msgspec.structs.fields(Speculation)} - {"settings"}
    settings = {name: section.pop(name) for name in [*section] if name not in known and isinstance(section[name], dict)}
    if settings:
        section["settings"] = settings


def _check_api_keys(server: Server, where: "_Locator") -> None:
    for name, key in server.keys.items():
        at = f"{where.at(['server', 'keys', name])}server.keys.{name}"
        if not re.fullmatch(r"[A-Za-z0-9_.-]{1,64}", name):
            raise ConfigError(f"{at}: a key's name has 1 to 64 letters, digits and any of _.-; rename it")
        if bool(key.key) == bool(key.sha256):
            raise ConfigError(f"{at}: set either key or sha256")
        if key.sha256 and not re.fullmatch(r"[0-9a-fA-F]{64}", key.sha256):
            raise ConfigError(f"{at}.sha256 must be 64 hex digits; printf %s KEY | sha256sum prints them")
        if key.max_concurrent < 0 or key.requests_per_minute < 0:
            raise ConfigError(f"{at}: max_concurrent and requests_per_minute must be at least 0")


def _check_speculation(section: Speculation, where: "_Locator") -> None:
    """Methods and rule exist, and each method's table fits its ``Config``."""
    for index, name in enumerate(section.methods):
        if name in section.methods[:index]:
            raise ConfigError(f"{where.at(['speculation', 'methods'])}speculation.methods names {name} twice")
        method_config(section, name, where)
    for name in section.settings:
        if name not in section.methods:
            method_config(section, name, where)
    try:
        plugins.load(_RULES, section.rule)
    except LookupError as e:
        raise ConfigError(f"{where.at(['speculation', 'rule'])}speculation.rule: {e}") from e
    if (section.policy == "table") != bool(section.table):
        key = where.at(["speculation", "policy"])
        raise ConfigError(f'{key}speculation.policy = "{section.policy}": only "table" takes a table, and needs one')
    for least, most, drafts in section.table:
        if not 1 <= least <= most or not 0 <= drafts <= section.max_draft_tokens:
            raise ConfigError(
                f"{where.at(['speculation', 'table'])}speculation.table has [{least}, {most}, {drafts}]: must be "
                "[least, most, drafts] with 1 <= least <= most and 0 <= drafts <= max_draft_tokens"
            )


def method_config(section: Speculation, name: str, where: "_Locator | None" = None) -> msgspec.Struct:
    """The ``Config`` of a speculator, from its own table.

    Raises:
        ConfigError: no such speculator, or a key or value that it does not take.
    """
    where = where or _Locator("config", "")
    table = section.settings.get(name, {})
    listed = "methods" if name in section.methods else name
    try:
        module = plugins.load(_SPECULATORS, name)
        struct = getattr(module, "Config", None)
        if not (isinstance(struct, type) and issubclass(struct, msgspec.Struct)):
            raise LookupError(f"module {name!r} is no speculator: it has no Config")
    except LookupError as e:
        raise ConfigError(f"{where.at(['speculation', listed])}speculation.{listed}: {e}") from e
    _check_keys(struct, table, ("speculation", name), where)
    try:
        return msgspec.convert(table, struct)
    except msgspec.ValidationError as e:
        text, _, path = str(e).partition(" - at `$")
        keys = ["speculation", name, *(k for k in re.split(r"[.\[\]`]+", path) if k)]
        raise ConfigError(f"{where.at(keys)}{'.'.join(keys)}: {text[0].lower()}{text[1:]}") from e


def _overrides(items: Iterable[str], environ: Mapping[str, str]) -> Iterable[tuple[str, Any, str]]:
    for name, text in sorted(environ.items()):
        if name == "PACELINE_MODEL" or (name.startswith("PACELINE_") and "__" in name):
            key = name.removeprefix("PACELINE_").lower().replace("__", ".")
            yield key, parse_value(text), f"environment variable {name}"
    for item in items:
        key, eq, text = item.partition("=")
        if not eq or not key.strip():
            raise ConfigError(f"-s {item}: must be section.key=value, such as -s scheduler.max_num_seqs=32")
        yield key.strip(), parse_value(text.strip()), f"-s {item}"


def _is_set(tree: dict[str, Any], key: str) -> bool:
    """Whether ``tree``, in which the tables of methods are gathered, has a ``key`` as people write it."""
    parts = key.split(".")
    if len(parts) == 3:
        parts.insert(1, "settings")
    node: Any = tree
    for part in parts:
        if not isinstance(node, dict) or part not in node:
            return False
        node = node[part]
    return True


def _set(tree: dict[str, Any], key: str, value: Any, source: str) -> None:
    parts = key.split(".")
    probe: dict[str, Any] = {}
    leaf = probe
    for part in parts[:-1]:
        leaf = leaf.setdefault(part, {})
    leaf[parts[-1]] = value
    _gather_settings(probe)
    try:
        _check_keys(Config, probe, (), _Locator("", ""))
        msgspec.convert(probe, Config)
    except ConfigError as e:
        raise ConfigError(f"{source}: {e}") from e
    except msgspec.ValidationError as e:
        raise ConfigError(f"{source}: {_convert_message(e, _Locator('', ''))}") from e
    node = tree
    if "settings" in probe.get("speculation", {}):
        parts.insert(1, "settings")
    for part in parts[:-1]:
        node = node.setdefault(part, {})
        if not isinstance(node, dict):
            raise ConfigError(f"{source}: {part} is not a table")
    node[parts[-1]] = value


def _convert_message(error: msgspec.ValidationError, where: _Locator) -> str:
    text, _, path = str(error).partition(" - at `$")
    keys = [k for k in re.split(r"[.\[\]`]+", path) if k and k != "..."]
    keys = [k for k in keys if not k.isdigit()]
    if not keys:
        return f"{where.name}: {text}".removeprefix(": ")
    return f"{where.at(keys)}{'.'.join(keys)}: {text[0].lower()}{text[1:]}"


def choices(section: type[Section], name: str) -> list[str]:
    """Allowed words of a Literal key, for help texts."""
    for field in msgspec.structs.fields(section):
        if field.name == name:
            return [str(a) for a in get_args(field.type)]
    return []
