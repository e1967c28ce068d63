"""Engines that are measured beside ours: other people's servers, by command line, and OpenVINO GenAI without one.

Each generates as many tokens as it is told to, greedily, from plain prompts. Nothing of theirs is installed here: give
the programs, or the interpreter of an environment that has them.
"""

import json
import os
import subprocess
import time
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path
from typing import NamedTuple, Protocol

import psutil
from load import Call, Target, closed_loop, run
from report import summary
from server import Server, free_port, sigterm_waits

_READY_S = 600.0
_CHILD = Path(__file__).resolve().parent / "openvino_child.py"


class Work(NamedTuple):
    """What one round asks for: each of ``clients`` sends its next prompt when its last is answered."""

    prompts: Sequence[str]
    max_tokens: int
    clients: int


class Done(NamedTuple):
    """What came of it. A request that failed makes the round worthless, so there are none."""

    seconds: float
    prompt_tokens: int
    output_tokens: int


class Contestant(Protocol):
    """An engine, ours or another."""

    name: str
    most: int
    """Requests of a round that are enough to know its speed; 0 = as many as all others get."""

    def start(self, log: Path) -> float:
        """Seconds until it can answer.

        Raises:
            RuntimeError: it cannot be started; the message says why.
        """
        ...

    def play(self, work: Work) -> Done:
        """Do ``work``.

        Raises:
            RuntimeError: a request failed.
        """
        ...

    def cpu_s(self) -> float:
        """Processor seconds it has used, all its processes together."""
        ...

    def stop(self) -> None:
        """Its processes are gone afterwards."""
        ...


class OpenAIServer:
    """A server with OpenAI's ``/v1/completions``, started by a command line that holds ``{port}``."""

    def __init__(self, name: str, command: Sequence[str], *, ready: str = "/health", most: int = 0) -> None:
        self.name, self.most = name, most
        self._command, self._ready = command, ready
        self._server: Server | None = None
        self._target: Target | None = None

    def start(self, log: Path) -> float:
        port = free_port()
        with sigterm_waits():
            self._server = Server([part.replace("{port}", str(port)) for part in self._command], port, self._ready, log)
        self._target = Target(self._server.url, chat=False)
        try:
            return self._server.wait(timeout=_READY_S)
        except RuntimeError as e:
            raise RuntimeError(f"{self.name}: {e}\n{_end(log)}") from e

    def play(self, work: Work) -> Done:
        target = self._target
        assert target is not None
        # cache_prompt is llama.cpp's: prompts differ from one another, and none is to find the last one's beginning.
        fields = {"max_tokens": work.max_tokens, "temperature": 0, "ignore_eos": True, "cache_prompt": False}
        calls = [Call(prompt, fields) for prompt in work.prompts]
        replies = run(lambda: closed_loop(target, calls, work.clients))
        if error := next((reply.error for reply in replies if reply.error), None):
            raise RuntimeError(f"{self.name}: {error}")
        tokens = sum(reply.prompt_tokens for reply in replies), sum(reply.output_tokens for reply in replies)
        return Done(summary(replies)["wall_s"], *tokens)

    def cpu_s(self) -> float:
        return _cpu_s(self._server.processes()) if self._server is not None else 0.0

    def stop(self) -> None:
        if self._server is not None:
            self._server.__exit__(None, None, None)
            self._server = None


class OpenVINO:
    """OpenVINO GenAI's continuous batching on a GGUF file, in a child that has it; no HTTP between us and it."""

    def __init__(self, name: str, python: str, gguf: str) -> None:
        self.name, self.most = name, 0
        self._command = [python, str(_CHILD), gguf]
        self._child: subprocess.Popen[str] | None = None

    def start(self, log: Path) -> float:
        begun = time.monotonic()
        pipe = subprocess.PIPE
        with sigterm_waits(), log.open("w") as said:
            self._child = subprocess.Popen(self._command, stdin=pipe, stdout=pipe, stderr=said, text=True)
        try:
            self._ask(Work(["Hello"], 1, 1))
        except RuntimeError as e:
            raise RuntimeError(f"{e}\n{_end(log)}") from e
        return time.monotonic() - begun

    def play(self, work: Work) -> Done:
        return self._ask(work)

    def _ask(self, work: Work) -> Done:
        child = self._child
        assert child is not None and child.stdin is not None and child.stdout is not None
        with suppress(BrokenPipeError):
            child.stdin.write(json.dumps(work._asdict()) + "\n")
            child.stdin.flush()
        line = child.stdout.readline()
        if not line:
            raise RuntimeError(f"{self.name}: the child ended with {child.wait()}")
        return Done(**json.loads(line))

    def cpu_s(self) -> float:
        return _cpu_s([psutil.Process(self._child.pid)]) if self._child is not None else 0.0

    def stop(self) -> None:
        if self._child is not None:
            self._child.kill()
            self._child.wait()
            self._child = None


def llama_server(path: str, gguf: str, slots: int) -> OpenAIServer:
    """llama.cpp's server. One slot is what Ollama starts it with."""
    threads = str(len(os.sched_getaffinity(0)))
    options = ["-np", str(slots), "-t", threads, "-tb", threads, "--kv-unified", "-c", str(max(8192, slots * 512))]
    command = [path, "-m", gguf, "--port", "{port}", "--no-webui", *options]
    name = "llama.cpp, one slot" if slots == 1 else "llama.cpp"
    return OpenAIServer(name, command, most=16 if slots == 1 else 0)


def vllm_server(path: str, folder: str, max_num_seqs: int) -> OpenAIServer:
    """vLLM's CPU build, which reads no GGUF: give a folder of ``hugging_face.export``."""
    cores = sorted(os.sched_getaffinity(0))
    setting = ["env", "VLLM_CPU_KVCACHE_SPACE=2", f"VLLM_CPU_OMP_THREADS_BIND={','.join(map(str, cores))}"]
    options = ["--max-model-len", "8192", "--max-num-seqs", str(max_num_seqs), "--no-enable-prefix-caching"]
    return OpenAIServer("vLLM", [*setting, path, "serve", folder, "--port", "{port}", *options])


def _cpu_s(processes: Sequence[psutil.Process]) -> float:
    total = 0.0
    for process in processes:
        with suppress(psutil.Error):
            times = process.cpu_times()
            total += times.user + times.system
    return total


def _end(log: Path) -> str:
    return "\n".join(log.read_text(errors="replace").splitlines()[-8:])
