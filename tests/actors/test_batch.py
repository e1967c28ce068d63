"""The parts of ``paceline batch``: its lines, its output that survives any death, its driver against a moody server."""

import contextlib
import json
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import anyio
import msgspec
import pytest
from fake_engine import FakeEngine
from http_app import service
from simulation import simulate

from paceline.actors import cli
from paceline.actors.batch.driver import PATIENCE_S, Driver, Reply, Unreachable
from paceline.actors.batch.in_process import InProcess, most_at_once
from paceline.actors.batch.lines import BadLine, BatchFile, Line
from paceline.actors.batch.output import OutputFile, Record
from paceline.actors.batch.over_http import OverHttp
from paceline.actors.http.app import build_app
from paceline.engine.config import Config, Scheduler
from paceline.engine.errors import ConfigError, UnavailableError

CHAT = "/v1/chat/completions"


def line(custom_id: Any, url: Any = "/v1/completions", method: Any = "POST", **body: Any) -> bytes:
    return json.dumps({"custom_id": custom_id, "method": method, "url": url, "body": body}).encode() + b"\n"


def write(path: Path, *lines: bytes) -> Path:
    path.write_bytes(b"".join(lines))
    return path


def lines_of(path: Path) -> list[Line | BadLine]:
    with BatchFile(path) as batch:
        return list(batch.lines())


def records(path: Path) -> list[dict[str, Any]]:
    return [json.loads(text) for text in path.read_text().splitlines()]


# --- lines ------------------------------------------------------------------------------------------------------------


def test_lines_are_found_and_read_again(tmp_path: Path) -> None:
    path = write(tmp_path / "a", line("é1", prompt="x", model="m"), b"\n", line("2", CHAT, messages=[])[:-1])
    with BatchFile(path) as batch:
        one, two = batch.lines()
        assert isinstance(one, Line) and isinstance(two, Line)
        assert (one.number, one.custom_id, one.url, one.model) == (1, "é1", "/v1/completions", "m")
        assert (two.number, two.custom_id, two.model) == (3, "2", None)
        assert json.loads(batch.body(two)) == {"messages": []}
        assert json.loads(batch.body(one, "other")) == {"prompt": "x", "model": "other"}
        assert json.loads(batch.body(one)) == {"prompt": "x", "model": "m"}


@pytest.mark.parametrize(
    ("raw", "says"),
    [
        (b"nonsense\n", "is no JSON object"),
        (b"[1]\n", "is no JSON object"),
        (b'{"custom_id": "\xff"}\n', "is no JSON object"),
        (b'{"custom_id": "a"}\n', "body must be an object"),
        (b"[" * 100_000 + b"\n", "is no JSON object"),
        (b'{"custom_id": "a", "method": "POST", "url": "/v1/completions", "body": [1]}\n', "body must be an object"),
        (line(None), "custom_id must be"),
        (line(""), "custom_id must be"),
        (line(7), "custom_id must be"),
        (line("x" * 513), "custom_id must be"),
        (line("a", method="GET"), "method is 'GET'"),
        (line("a", "/v1/models"), "url is '/v1/models'"),
        (line("a", "http://h/v1/completions"), "url is"),
        (line("a", None), "url is None"),
        (line("a", stream=True), "body.stream is set"),
        (line("a", model=7), "body.model must be"),
        (line("good"), "custom_id 'good' is that of line 1"),
    ],
)
def test_a_bad_line_says_what_is_wrong_and_hides_no_other(tmp_path: Path, raw: bytes, says: str) -> None:
    good, bad, last = lines_of(write(tmp_path / "a", line("good"), raw, line("last")))
    assert isinstance(good, Line) and isinstance(last, Line) and last.number == 3
    assert isinstance(bad, BadLine) and bad.number == 2 and says in bad.message


def test_a_line_without_end_is_skipped(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("paceline.actors.batch.lines.MAX_LINE_BYTES", 100)
    path = write(tmp_path / "a", line("a" * 1000), line("b"))
    bad, good = lines_of(path)
    assert isinstance(bad, BadLine) and "is longer than 100 bytes" in bad.message
    assert isinstance(good, Line) and good.number == 2
    with BatchFile(path) as batch:
        list(batch.lines())
        assert json.loads(batch.body(good)) == {}


# --- output -----------------------------------------------------------------------------------------------------------


def test_what_is_written_is_known_to_the_next_start(tmp_path: Path) -> None:
    path = tmp_path / "out"
    with OutputFile(path) as output:
        output.answered("a", 200, "req-1", b'{"id": "x"}')
        output.answered("b", 400, "req-2", b"<html>")
        output.bad(BadLine(7, "a", "custom_id 'a' is that of line 1"))
        output.failed("c", "model_not_found", "no such model")
        assert output.num_failed == 3
    a, b, bad, c = records(path)
    assert a.pop("id").startswith("batch_req_")
    assert a == {
        "custom_id": "a", "response": {"status_code": 200, "request_id": "req-1", "body": {"id": "x"}}, "error": None,
    }  # fmt: skip
    assert b["response"] == {"status_code": 400, "request_id": "req-2", "body": "<html>"}
    assert bad["response"] is None and bad["error"]["line"] == 7
    assert c["error"]["code"] == "model_not_found"
    with OutputFile(path) as output:
        assert (output.done_ids, output.done_numbers, output.num_failed) == ({"a", "b", "c"}, {7}, 3)


def test_every_torn_end_is_cut_off_and_nothing_else(tmp_path: Path) -> None:
    path = tmp_path / "out"
    with OutputFile(path) as output:
        output.answered("a", 200, "r", b"{}")
        whole = path.read_bytes()
        output.answered("b", 200, "r", b"{}")
    both = path.read_bytes()
    for end in range(len(whole), len(both)):
        path.write_bytes(both[:end])
        with OutputFile(path) as output:
            assert output.done_ids == {"a"}
            output.answered("b", 200, "r", b"{}")
        assert [r["custom_id"] for r in records(path)] == ["a", "b"]


@pytest.mark.parametrize(
    "content", [b"my notes", b"my notes\n", b'{"id":"other"', b'{"a": 1}\n', b'{"id":"x","custom_id":null}\n', b"\0\n"]
)
def test_a_file_of_somebody_else_is_left_alone(tmp_path: Path, content: bytes) -> None:
    path = write(tmp_path / "notes", content)
    with pytest.raises(ConfigError, match=r"notes:1: is no line of a batch's output"):
        OutputFile(path)
    assert path.read_bytes() == content


def test_two_batches_never_write_one_file(tmp_path: Path) -> None:
    with OutputFile(tmp_path / "out"), pytest.raises(ConfigError, match="another paceline batch"):
        OutputFile(tmp_path / "out")
    with OutputFile(tmp_path / "out"):
        pass


def test_failed_lines_are_dropped_in_one_step(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "out"
    with OutputFile(path) as output:
        output.answered("a", 200, "r", b'{"n": 1}')
        output.answered("b", 500, "r", b"{}")
        output.bad(BadLine(7, None, "nonsense"))
        output.failed("c", "model_not_found", "no such model")
        output.answered("d", 200, "r", b"{}")
    path.chmod(0o600)
    write(tmp_path / "out.new", b"left by one that died")
    before = path.read_bytes()

    def full(*_: Any) -> None:
        raise OSError(28, "No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr("paceline.actors.batch.output.os.replace", full)
        with pytest.raises(ConfigError, match="No space left on device"):
            OutputFile(path, drops_failed=True)
    assert path.read_bytes() == before and [p.name for p in tmp_path.iterdir()] == ["out"]
    link = tmp_path / "link"
    link.symlink_to(path)
    with OutputFile(link, drops_failed=True) as output:
        assert (output.done_ids, output.done_numbers, output.num_failed) == ({"a", "d"}, set(), 0)
        with pytest.raises(ConfigError, match="another paceline batch"):
            OutputFile(path)
        output.answered("b", 200, "r", b"{}")
    assert [r["custom_id"] for r in records(path)] == ["a", "d", "b"] and link.is_symlink()
    assert path.stat().st_mode & 0o777 == 0o600 and records(path)[0]["response"]["body"] == {"n": 1}
    with OutputFile(path, drops_failed=True) as output:  # nothing to drop
        assert output.done_ids == {"a", "b", "d"}


# --- driver -----------------------------------------------------------------------------------------------------------


class Moody:
    """A way that answers each body with what ``moods`` has for it, and 200 after that."""

    limit = 3

    def __init__(self, moods: dict[str, list[Reply | Exception]] | None = None, *, always: Any = None) -> None:
        self.moods = moods or {}
        self.always = always
        self.num_open = self.most_open = self.num_asked = 0

    async def post(self, url: str, body: bytes) -> Reply:
        self.num_asked += 1
        self.num_open += 1
        self.most_open = max(self.most_open, self.num_open)
        await anyio.sleep(0.01)
        self.num_open -= 1
        waiting = self.moods.get(json.loads(body)["prompt"], [])
        mood = self.always or (waiting.pop(0) if waiting else Reply(200, "r", b'{"usage": {"total_tokens": 5}}'))
        if isinstance(mood, Exception):
            raise mood
        return mood


def drive(tmp_path: Path, way: Any, num: int = 10) -> tuple[list[dict[str, Any]], list[tuple[Record, int]]]:
    path, out = write(tmp_path / "a", *(line(f"r{i}", prompt=f"p{i}") for i in range(num))), tmp_path / "out"
    told: list[tuple[Record, int]] = []

    async def main() -> None:
        with BatchFile(path) as batch, OutputFile(out) as output:
            lines = [found for found in batch.lines() if isinstance(found, Line)]
            await Driver(batch, output, way, lambda record, tokens: told.append((record, tokens)), None).run(lines)

    try:
        simulate(main)
    finally:
        found = records(out)
    return found, told


def test_all_lines_are_answered_a_few_at_once(tmp_path: Path) -> None:
    way = Moody({"p4": [Reply(400, "r", b'{"error": {}}')]})
    found, told = drive(tmp_path, way)
    assert sorted(r["custom_id"] for r in found) == [f"r{i}" for i in range(10)] and way.most_open == 3
    assert {r["custom_id"]: r["response"]["status_code"] for r in found}["r4"] == 400
    assert sum(tokens for _, tokens in told) == 45 and sum(record.is_answer for record, _ in told) == 9


def test_a_busy_or_absent_server_is_asked_again(tmp_path: Path) -> None:
    busy = [Reply(503, "", b"", 2.0), Reply(429, "", b"", 1.0), Unreachable("refused"), Reply(503, "", b"")]
    way = Moody({"p0": [*busy], "p5": [*busy]})
    found, _ = drive(tmp_path, way)
    assert len(found) == 10 and all(r["response"]["status_code"] == 200 for r in found)
    assert way.num_asked == 18


@pytest.mark.parametrize("always", [Reply(503, "", b"", 1.0), Unreachable("connection refused")])
def test_a_server_that_answers_nothing_ends_the_run_and_leaves_the_lines_to_the_next(
    tmp_path: Path, always: Any
) -> None:
    way = Moody(always=always)
    with pytest.raises(UnavailableError, match=rf"answered nothing for {PATIENCE_S:.0f} s: .*same command again"):
        drive(tmp_path, way)
    assert (tmp_path / "out").read_bytes() == b""


def test_a_wrong_key_ends_the_run_at_once(tmp_path: Path) -> None:
    way = Moody(always=Reply(401, "", b"{}"))
    with pytest.raises(ConfigError, match="refuses the key"):
        drive(tmp_path, way)
    assert way.num_asked <= 3


def test_a_full_disk_ends_the_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*_: Any) -> int:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("paceline.actors.batch.output.os.write", full)
    with pytest.raises(ConfigError, match="No space left on device"):
        drive(tmp_path, Moody())


# --- ways -------------------------------------------------------------------------------------------------------------


def test_the_application_answers_without_a_port() -> None:
    async def main() -> None:
        way = InProcess(build_app(service(FakeEngine())), 4)
        told = await way.post("/v1/completions", b'{"prompt": "x", "max_tokens": 2}')
        assert told.status == 200 and json.loads(told.body)["choices"][0]["text"] == "tok0 tok1 "
        assert told.request_id and json.loads(told.body)["id"].endswith(told.request_id)
        refused = await way.post("/v1/embeddings", b'{"input": ""}')
        assert refused.status == 400 and json.loads(refused.body)["error"]["param"] == "input"
        engine = FakeEngine()
        engine.refuse_with = UnavailableError("full", code="queue_full", retry_after_s=7)
        busy = await InProcess(build_app(service(engine)), 4).post("/v1/completions", b'{"prompt": "x"}')
        assert (busy.status, busy.retry_after_s) == (503, 7.0)

    anyio.run(main)


def test_as_many_at_once_as_seats_and_queue_hold() -> None:
    assert most_at_once(Config(scheduler=Scheduler(max_num_seqs=8))) == 16
    assert most_at_once(Config(scheduler=Scheduler(max_num_seqs=8, max_queued_requests=1))) == 9


class _Server(BaseHTTPRequestHandler):
    """Tells what it was asked; closes every third connection without a word."""

    protocol_version = "HTTP/1.1"
    seen: list[Any] = []

    def do_POST(self) -> None:
        body = self.rfile.read(int(self.headers["content-length"]))
        self.seen.append((self.path, body, self.headers.get("authorization")))
        self.send_response(503)
        self.send_header("content-length", "2")
        self.send_header("retry-after", "4")
        self.send_header("x-request-id", "mine")
        self.end_headers()
        self.wfile.write(b"{}")
        self.close_connection = len(self.seen) % 3 == 0  # without saying so

    def log_message(self, format: str, *args: Any) -> None:
        pass


@contextlib.contextmanager
def small_server() -> Iterator[str]:
    server = ThreadingHTTPServer(("127.0.0.1", 0), _Server)
    server.daemon_threads = True
    thread = threading.Thread(target=server.serve_forever, args=(0.01,))
    thread.start()
    yield f"http://127.0.0.1:{server.server_port}"
    server.shutdown()
    server.server_close()
    thread.join()


@pytest.mark.parametrize("suffix", ["", "/", "/v1", "/v1/"])
def test_over_http(suffix: str) -> None:
    _Server.seen = []

    async def main(url: str) -> None:
        way = OverHttp(url + suffix, 2, "sk-1")
        for _ in range(8):
            assert await way.post(CHAT, b"{}") == Reply(503, "mine", b"{}", 4.0)
        for connection in way._idle:
            connection.close()

    with small_server() as url:
        anyio.run(main, url)
    assert set(_Server.seen) == {(CHAT, b"{}", "Bearer sk-1")}


def test_nobody_there_is_no_answer() -> None:
    async def main() -> None:
        with pytest.raises(Unreachable, match=r"127\.0\.0\.1"):
            await OverHttp("http://127.0.0.1:9", 1, None).post(CHAT, b"{}")

    anyio.run(main)


@pytest.mark.parametrize("url", ["", "ftp://h", "http://", "http://h:port", "http://h?x=1"])
def test_a_url_that_is_none_is_refused(url: str) -> None:
    with pytest.raises(ConfigError, match="is no address of a server"):
        OverHttp(url, 1, None)


# --- the command ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("words", "says"),
    [
        (["--concurrency", "0"], "must be at least 1"),
        (["--url", "http://h", "--dtype", "int8"], "leave out --config and the engine's flags"),
        (["--api-key", "k"], "pass its --url too"),
        (["-o", "a.jsonl"], "is the batch itself"),
    ],
)
def test_wrong_usage(
    words: list[str], says: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    write(tmp_path / "a.jsonl", line("a"))
    assert cli.main(["batch", "a.jsonl", *words]) == 2
    assert says in capsys.readouterr().err
    assert [p.name for p in tmp_path.iterdir()] == ["a.jsonl"]


def test_a_batch_without_sound_lines_starts_nothing(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = write(tmp_path / "a.jsonl", b"nonsense\n")
    for _ in range(2):  # the second start has nothing to add
        assert cli.main(["batch", str(path)]) == 1
        [record] = records(tmp_path / "a.out.jsonl")
        assert record["error"]["message"].startswith("line 1: is no JSON object")
    assert "1 of 1 lines are in" in capsys.readouterr().err


def test_failed_lines_are_done_again_when_that_is_asked(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    path = write(tmp_path / "a.jsonl", *(line(f"r{i}", prompt=f"p{i}") for i in range(4)), b"nonsense\n")
    ways = [Moody({"p1": [Reply(500, "r", b"{}")], "p2": [Reply(400, "r", b"{}")]}), Moody(), Moody()]
    for way, more, status, num_asked in zip(ways, [[], [], ["--retry-failed"]], (1, 1, 0), (4, 0, 2), strict=True):
        if not status:
            write(path, *(line(f"r{i}", prompt=f"p{i}") for i in range(4)))  # mended
        monkeypatch.setattr("paceline.actors.batch.over_http.OverHttp", lambda *_, way=way: way)
        assert cli.main(["batch", str(path), "--url", "http://h", *more]) == status
        assert way.num_asked == num_asked
    assert sorted(r["custom_id"] for r in records(tmp_path / "a.out.jsonl")) == ["r0", "r1", "r2", "r3"]
    assert "3 lines of" in capsys.readouterr().err


def test_a_missing_batch_is_one_line(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(["batch", str(tmp_path / "none.jsonl")]) == 1
    assert "none.jsonl: cannot be read" in capsys.readouterr().err


def test_records_have_the_keys_of_openai() -> None:
    assert msgspec.json.decode(msgspec.json.encode(Record("batch_req_1", None, None, None))) == {
        "id": "batch_req_1", "custom_id": None, "response": None, "error": None,
    }  # fmt: skip
