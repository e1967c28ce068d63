"""Rules about hostile input that a machine can check: loaders, assertions, clocks, queues, sockets.

An exception to a rule stands in its table with the reason, so that the next one has to be argued for.
"""

import ast
import re

from source_calls import ROOT, SOURCES, asserts, calls, imported

LOADERS = {"pickle", "cloudpickle", "dill", "marshal", "shelve", "jsonpickle", "joblib", "yaml", "multiprocessing"}
"""What makes objects of bytes; multiprocessing pickles all that it sends."""
LOADING_CALLS = {"eval", "exec", "compile", "__import__", "send_pyobj", "recv_pyobj", "torch.load", "np.load",
                 "numpy.load", "torch.jit.load", "runpy.run_path"}  # fmt: skip

STRANGERS = (
    "actors/http/", "actors/text/", "actors/batch/", "actors/wire.py", "actors/messages.py", "engine/config.py",
    "engine/core/", "engine/formats/", "engine/store/", "engine/types.py", "spec_decode/heads/files.py",
)  # fmt: skip
"""Where data of strangers is looked at: requests, frames, files."""

WALL_CLOCKS = {"time.time", "time.time_ns", "time.localtime", "time.gmtime", "time.ctime", "time.strftime",
               "datetime.now", "datetime.utcnow", "datetime.today", "date.today", "datetime.datetime.now"}  # fmt: skip
TELLS_THE_TIME = {
    "actors/http/generation.py": "created, in an answer",
    "actors/http/ollama.py": "created_at, in an answer",
    "actors/http/service.py": "created, of the model",
    "actors/logs.py": "the time of a line",
    "actors/terminal.py": "how long ago a file was written, for people",
    "actors/text/template_sandbox.py": "strftime_now, which templates call",
    "engine/nn/packed_cache.py": "age of a leftover file, compared with its mtime: a wrong answer costs a slow start",
}

QUEUES = {"Queue", "SimpleQueue", "LifoQueue", "PriorityQueue", "deque", "create_memory_object_stream"}
BOUNDED_ELSEWHERE = {
    "actors/batch/over_http.py": "idle connections: as many as were open at once",
    "actors/call.py": "MAX_BUFFERED items, then joined",
    "actors/draft.py": "work of one scheduler, which waits for answers",
    "actors/http/quotas.py": "at most requests_per_minute",
    "actors/memory_mailbox.py": "its own high-water mark",
    "actors/open_call.py": "MAX_CHOICES",
    "actors/session.py": "one call of one program, in its own process",
    "actors/target.py": "max_in_flight plans",
    "actors/zmq_mailbox.py": "the rest of one frame batch",
    "engine/store/progress.py": "cut to a window of seconds",
    "spec_decode/speculators/suffix.py": "cut to the most texts kept",
}


def test_nothing_makes_objects_of_bytes() -> None:
    faults = [f"{path}:{line} imports {name}" for path, line, name in imported() if name.split(".")[0] in LOADERS]
    faults += [f"{path}:{line} imports {name}" for path, line, name in imported() if "ProcessPoolExecutor" in name]
    for call in calls():
        short = call.name.rpartition(".")[2]
        if call.name in LOADING_CALLS or short in ("send_pyobj", "recv_pyobj"):
            faults.append(f"{call.where} calls {call.name}")
        faults += [f"{call.where} passes {k.arg}" for k in call.node.keywords
                   if k.arg in ("allow_pickle", "trust_remote_code") and not _is(k.value, False)]  # fmt: skip
    assert not faults, "\n".join(faults)


def test_no_assertion_guards_what_strangers_send() -> None:
    """``python -O`` leaves them out. ``x is not None`` only tells the type checker what a line above has seen to."""
    faults = [
        f"{path}:{line}: assert {ast.unparse(test)}"
        for path, line, test in asserts()
        if path.startswith(STRANGERS) and not _narrows(test)
    ]
    assert not faults, "\n".join(faults)


def test_no_wall_clock_decides_anything() -> None:
    used = {call.path: call.where for call in calls() if call.name in WALL_CLOCKS}
    assert not (new := set(used) - set(TELLS_THE_TIME)), [used[path] for path in new]
    assert not (gone := set(TELLS_THE_TIME) - set(used)), f"no longer needed: {gone}"


def test_every_queue_is_bounded() -> None:
    used: dict[str, str] = {}
    for call in calls():
        if call.name.rpartition(".")[2] in QUEUES and not _bound(call.node):
            used[call.path] = call.where
    assert not (new := set(used) - set(BOUNDED_ELSEWHERE)), [used[path] for path in new]
    assert not (gone := set(BOUNDED_ELSEWHERE) - set(used)), f"no longer needed: {gone}"


def test_every_zmq_socket_has_a_mark_and_a_most_and_lingers_for_nobody() -> None:
    marks: dict[str, set[str]] = {}
    made: dict[str, int] = {}
    for call in calls():
        short = call.name.rpartition(".")[2]
        if short in ("set", "setsockopt", "set_hwm") and call.node.args:
            option = ast.unparse(call.node.args[0])
            if "HWM" in option or short == "set_hwm":
                value = call.node.args[-1]
                assert not _is(value, 0) and not _is(value, -1), f"{call.where}: a mark of 0 is no mark"
            marks.setdefault(call.path, set()).add(option)
        if short == "socket" and any("zmq" in ast.unparse(a) for a in call.node.args):
            made[call.path] = made.get(call.path, 0) + 1
    assert made == {"actors/zmq_mailbox.py": 2}, "a new socket needs its marks here"
    for path in made:
        assert marks[path] >= {"zmq.RCVHWM", "zmq.SNDHWM", "zmq.LINGER", "zmq.MAXMSGSIZE"}, marks[path]


def test_two_places_listen() -> None:
    """The mailboxes in a private folder, and the address that the config names."""
    listens = {"bind", "listen", "create_server", "start_server", "start_unix_server", "create_unix_server"}
    found = {c.path for c in calls() if "." in c.name and c.name.rpartition(".")[2] in listens}
    assert found == {"actors/listen.py", "actors/zmq_mailbox.py"}
    text = "".join(p.read_text() for p in SOURCES if p.name in ("mailbox.py", "zmq_mailbox.py"))
    assert "ipc://" in text and not re.search(r"""["']tcp://""", text)


def test_bodies_are_not_read_by_the_standard_json() -> None:
    """It takes NaN and half surrogate pairs, which cannot be answered."""
    faults = [c.where for c in calls() if c.path.startswith("actors/http/") and c.name in ("json.loads", "json.load")]
    assert not faults, faults


def test_the_tables_name_files_that_exist() -> None:
    for path in [*STRANGERS, *TELLS_THE_TIME, *BOUNDED_ELSEWHERE]:
        assert (ROOT / path).exists(), path


def _narrows(test: ast.expr) -> bool:
    if isinstance(test, ast.BoolOp) and isinstance(test.op, ast.And):
        return all(map(_narrows, test.values))
    return isinstance(test, ast.Compare) and isinstance(test.ops[0], ast.IsNot) and _is(test.comparators[0], None)


def _is(node: ast.expr, value: object) -> bool:
    """Whether the source says this constant; 0 is not False."""
    try:
        found = ast.literal_eval(node)
    except ValueError:
        return False
    return type(found) is type(value) and found == value


def _bound(node: ast.Call) -> bool:
    """Whether a queue is given its most."""
    named = [k.value for k in node.keywords if k.arg in ("maxlen", "maxsize", "max_buffer_size")]
    name = ast.unparse(node.func).rpartition(".")[2]
    placed = node.args[1:2] if name == "deque" else node.args[:1] if name != "SimpleQueue" else []
    return any(not _is(value, 0) and "inf" not in ast.unparse(value) for value in [*named, *placed])
