"""How command-line flags become config overrides; vLLM's spellings, and what is said about those without meaning here.

Tables and one argparse action; standard library only, because the help must be there at once.
"""

import argparse
import json
from collections.abc import Sequence
from typing import Any, NamedTuple


class Flag(NamedTuple):
    """One flag that sets one config key."""

    names: str
    key: str
    kind: type | str
    """``int``, ``float``, ``str``, ``"size"`` (8k, 8K), or a TOML value to set, for a switch."""
    help: str = ""
    """Empty = only ``--help=all`` shows it."""


ENGINE_FLAGS = (
    Flag("--max-model-len", "target.max_model_len", "size", "longest prompt + output, in tokens"),
    Flag("--dtype", "target.dtype", str, "weights in memory: auto, int8, bfloat16, float16, float32"),
    Flag("--device", "target.device", str),
    Flag("--max-num-batched-tokens", "scheduler.max_num_batched_tokens", "size"),
    Flag("--gpu-memory-utilization", "cache.memory_fraction", float),
    Flag("--kv-cache-memory-bytes", "cache.max_bytes", "size"),
    Flag("--kv-cache-dtype", "cache.dtype", str),
    Flag("--num-gpu-blocks-override", "cache.num_blocks", int),
    Flag("--block-size", "cache.block_size", int),
    Flag("--enable-prefix-caching", "cache.enable_prefix_caching", "true"),
    Flag("--no-enable-prefix-caching", "cache.enable_prefix_caching", "false"),
)
BATCH_FLAGS = (Flag("--max-num-seqs", "scheduler.max_num_seqs", int, "most requests running at once (64)"),)
SERVER_FLAGS = (
    Flag("--host", "server.host", str, "address to listen on (127.0.0.1)"),
    Flag("--port", "server.port", int, "port to listen on (8000)"),
    Flag("--api-key", "server.api_keys", "list", "ask clients for this key; may be repeated"),
    Flag("--enable-model-management", "server.model_management", "true"),
    Flag("--enable-admin", "server.admin", "true"),
    Flag("--served-model-name", "server.served_model_name", str, "the name clients see"),
    *BATCH_FLAGS,
    Flag("--max-num-queued-reqs", "scheduler.max_queued_requests", int),
    Flag("--scheduling-policy", "scheduler.policy", str),
    Flag("--max-logprobs", "server.max_logprobs", int),
    Flag("--shutdown-timeout", "server.shutdown_timeout_s", float),
    Flag("--uvicorn-log-level", "server.log_level", str),
    Flag("--log-format", "server.log_format", str, "text or json"),
    Flag("--log-prompts", "server.log_prompts", "true"),
    Flag("--tool-call-parser", "server.tool_call_parser", str),
    Flag("--reasoning-parser", "server.reasoning_parser", str),
)

# vLLM flags that change nothing here -> why. With a value, and without one.
NOTED_VALUES = {
    "--seed": "every request has its own seed; pass it in the request",
    "--quantization": "the model file says how it is quantised; see --dtype for weights in memory",
    "--load-format": "the model's files say what they are",
    "--download-dir": "set HF_HOME or PACELINE_HOME instead",
    "--tokenizer": "the model's own tokenizer is used",
    "--swap-space": "preempted requests are recomputed, nothing is swapped",
    "--otlp-traces-endpoint": "traces are not sent in this version",
    "--distributed-executor-backend": "processes are always our own actors",
}
NOTED_SWITCHES = {
    "--enforce-eager": "there are no graphs to switch off",
    "--enable-chunked-prefill": "prompts are always computed in chunks",
    "--enable-auto-tool-choice": "tool calls are always read where a request has tools",
    "--disable-log-requests": "requests are not logged",
    "--no-enable-log-requests": "requests are not logged",
    "--per-request-spec-decode-metrics": "answers always tell what speculation did",
    "--disable-log-stats": "statistics are at /metrics, not in the log",
}
REFUSED = {
    "--trust-remote-code": "remote code is never run; use a model of a supported architecture",
    "--enable-lora": "adapters are not supported in this version; merge the adapter into the model",
    "--lora-modules": "adapters are not supported in this version; merge the adapter into the model",
}
# More than one of these needs several devices.
ONE_ONLY = (
    "--tensor-parallel-size",
    "-tp",
    "--pipeline-parallel-size",
    "-pp",
    "--data-parallel-size",
    "-dp",
    "--nnodes",
)

_DTYPES = {"half": "float16", "float": "float32", "fp16": "float16", "fp32": "float32", "bf16": "bfloat16"}
_SUFFIXES = {"k": 1000, "K": 1024, "m": 10**6, "M": 1024**2, "g": 10**9, "G": 1024**3}


class UsageError(Exception):
    """The command line itself is wrong: exit status 2."""


def size(text: str) -> int:
    """``8192``, ``8k`` = 8000, ``8K`` = 8192, as vLLM reads them."""
    number, unit = (text[:-1], _SUFFIXES[text[-1]]) if text and text[-1] in _SUFFIXES else (text, 1)
    return int(float(number) * unit) if unit > 1 else int(number)


class Override(argparse.Action):
    """Appends ``key=value`` in TOML to ``overrides``, so that of two spellings of one key the later wins."""

    def __init__(self, option_strings: Sequence[str], dest: str, key: str, kind: Any, **options: Any) -> None:
        super().__init__(option_strings, "overrides", **options)
        self.key = key
        self.kind = kind

    def __call__(
        self, parser: Any, namespace: argparse.Namespace, values: Any, option_string: str | None = None
    ) -> None:
        items: list[str] = list(namespace.overrides or [])
        if self.kind == "list":
            head = f"{self.key}="
            before = next((json.loads(i[len(head) :]) for i in items if i.startswith(head)), [])
            items = [i for i in items if not i.startswith(head)]
            values = [*before, values]
        elif isinstance(self.kind, str) and self.kind != "size":
            items.append(f"{self.key}={self.kind}")
            namespace.overrides = items
            return
        if self.key.endswith("dtype"):
            values = _DTYPES.get(values, values)
        items.append(f"{self.key}={json.dumps(values)}")
        namespace.overrides = items


class Note(argparse.Action):
    """Remembers that a flag without meaning was given."""

    def __call__(
        self, parser: Any, namespace: argparse.Namespace, values: Any, option_string: str | None = None
    ) -> None:
        why = NOTED_VALUES.get(option_string or "") or NOTED_SWITCHES.get(option_string or "")
        namespace.notes = [*(namespace.notes or []), f"{option_string} has no effect: {why}"]


class Refuse(argparse.Action):
    """Ends the command with the reason."""

    def __call__(
        self, parser: Any, namespace: argparse.Namespace, values: Any, option_string: str | None = None
    ) -> None:
        if option_string in ONE_ONLY:
            if values == "1":
                return
            raise UsageError(f"{option_string} {values}: this version runs on one device; leave it out, or pass 1")
        raise UsageError(f"{option_string}: {REFUSED[option_string or '']}")


def add_config_flags(parser: argparse.ArgumentParser, flags: Sequence[Flag], *, everything: bool) -> None:
    """``--config``, ``-s`` and ``flags``; those of vLLM without meaning here, too."""
    parser.set_defaults(overrides=[], notes=[])
    parser.add_argument("--config", metavar="FILE", help="a TOML file; configs/ has examples")
    parser.add_argument(
        "-s",
        dest="overrides",
        action="append",
        metavar="KEY=VALUE",
        help="set one key, such as -s scheduler.max_num_seqs=32",
    )
    for flag in flags:
        shown = flag.help if flag.help or everything else argparse.SUPPRESS
        shown = shown or f"sets {flag.key}"
        options: dict[str, Any] = {"key": flag.key, "kind": flag.kind, "help": shown}
        if flag.kind in ("size", "list") or isinstance(flag.kind, type):
            options["metavar"] = flag.names.rsplit("-", 1)[-1].upper()
            options["type"] = size if flag.kind == "size" else str if flag.kind == "list" else flag.kind
        else:
            options["nargs"] = 0
        parser.add_argument(flag.names, action=Override, **options)


def add_foreign_flags(parser: argparse.ArgumentParser) -> None:
    """vLLM's flags that mean nothing here: accepted with a note, or refused with a reason; never shown."""
    hidden = argparse.SUPPRESS
    for name in NOTED_VALUES:
        parser.add_argument(name, action=Note, dest="notes", help=hidden)
    for name in NOTED_SWITCHES:
        parser.add_argument(name, action=Note, dest="notes", nargs=0, help=hidden)
    for name in REFUSED:
        parser.add_argument(name, action=Refuse, dest="refused", nargs="?", help=hidden)
    for name in ONE_ONLY:
        parser.add_argument(name, action=Refuse, dest="refused", help=hidden)
