"""The config file: what is refused, how it says so, and who wins."""

from pathlib import Path

import pytest

from paceline.engine import config
from paceline.engine.errors import ConfigError


def write(tmp_path: Path, text: str) -> Path:
    path = tmp_path / "serve.toml"
    path.write_text(text)
    return path


def refusal(tmp_path: Path, text: str, **kw: object) -> str:
    with pytest.raises(ConfigError) as caught:
        config.load(write(tmp_path, text), environ={}, **kw)  # type: ignore[arg-type]
    message = str(caught.value)
    assert "\n" not in message
    return message


def test_defaults_without_a_file() -> None:
    assert config.load(environ={}) == config.Config()


def test_file_then_environment_then_override(tmp_path: Path) -> None:
    path = write(tmp_path, "[scheduler]\nmax_num_seqs = 1\nmax_num_batched_tokens = 11\nmax_in_flight = 1\n")
    env = {"PACELINE_SCHEDULER__MAX_NUM_SEQS": "2", "PACELINE_SCHEDULER__MAX_NUM_BATCHED_TOKENS": "22"}
    s = config.load(path, ["scheduler.max_num_seqs=3"], env).scheduler
    assert (s.max_num_seqs, s.max_num_batched_tokens, s.max_in_flight) == (3, 22, 1)


def test_override_values_are_toml_and_bare_words_are_strings() -> None:
    c = config.load(
        overrides=["server.api_keys=['a', 'b']", "target.device=cpu", "cache.enable_prefix_caching=false", "model=x/y"],
        environ={},
    )
    assert c.server.api_keys == ["a", "b"]
    assert (c.target.device, c.cache.enable_prefix_caching, c.model) == ("cpu", False, "x/y")


def test_unknown_key_names_line_table_and_neighbour(tmp_path: Path) -> None:
    message = refusal(tmp_path, 'model = "x"\n\n[scheduler]\nmax_num_sqs = 3\n')
    assert message.endswith(':4: unknown key "max_num_sqs" in [scheduler]; did you mean "max_num_seqs"?')


def test_unknown_table(tmp_path: Path) -> None:
    assert ':1: unknown key "sheduler"; did you mean "scheduler"?' in refusal(tmp_path, "[sheduler]\nx = 1\n")


def test_wrong_type_names_line_and_key(tmp_path: Path) -> None:
    message = refusal(tmp_path, '[server]\nhost = "a"\nport = "high"\n')
    assert ":3: server.port: expected `int`, got `str`" in message


@pytest.mark.parametrize(
    ("text", "part"),
    [
        ("[server]\nport = 70000\n", ":2: server.port = 70000: must be at most 65535"),
        ("[cache]\nmemory_fraction = 2.0\n", "cache.memory_fraction = 2.0: must be at most 0.95"),
        ("[scheduler]\nmax_num_seqs = 0\n", "must be at least 1"),
        ("[server]\nrequest_timeout_s = nan\n", ":2: server.request_timeout_s = nan: must be at least 0.001"),
        ("[scheduler]\nprompt_stretch = nan\n", "must be at least 0"),
        ('[target]\ndevice = "tpu"\n', "use auto, cpu, cuda or cuda:N"),
        ('model = ""\n', "model is empty"),
        ("model = \n", "line 1"),
        ('[target]\ndtype = "int3"\n', ":2: target.dtype: invalid enum value"),
    ],
)
def test_values_out_of_range(tmp_path: Path, text: str, part: str) -> None:
    assert part in refusal(tmp_path, text)


def test_missing_file_bad_bytes_and_deep_nesting(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="cannot be read"):
        config.load(tmp_path / "absent.toml", environ={})
    bad = tmp_path / "bad.toml"
    bad.write_bytes(b"model = '\xff'")
    with pytest.raises(ConfigError, match="not UTF-8"):
        config.load(bad, environ={})
    refusal(tmp_path, "x = " + "[" * 100_000)
    assert "4300 digits" in refusal(tmp_path, "model = " + "9" * 5000)
    for text in ("9" * 5000, "[" * 100_000):  # what TOML cannot read is a bare word
        assert config.load(overrides=[f"model={text}"], environ={}).model == text


@pytest.mark.parametrize("item", ["nonsense", "=3", "scheduler.nothing=1", "model.x=1"])
def test_bad_override_is_named(item: str) -> None:
    with pytest.raises(ConfigError, match="-s "):
        config.load(overrides=[item], environ={})


def test_speculation_is_off_by_default_and_methods_keep_their_own_tables(tmp_path: Path) -> None:
    assert config.load(environ={}).speculation.methods == []
    text = '[speculation]\nmethods = ["suffix"]\n[speculation.suffix]\nmax_depth = 12\n'
    section = config.load(write(tmp_path, text), ["speculation.suffix.max_factor=2.0"], {}).speculation
    assert section.settings == {"suffix": {"max_depth": 12, "max_factor": 2.0}}
    assert config.method_config(section, "suffix").max_depth == 12  # pyright: ignore[reportAttributeAccessIssue]


@pytest.mark.parametrize(
    ("text", "part"),
    [
        ('[speculation]\nmethods = ["sufix"]\n', ":2: speculation.methods: no speculators plug-in named 'sufix'"),
        ('[speculation]\nmethods = ["no.such"]\n', ":2: speculation.methods: plug-in module 'no.such' cannot"),
        ('[speculation]\nmethods = ["ngram", "ngram"]\n', ":2: speculation.methods names ngram twice"),
        ("[speculation.sufix]\nmax_depth = 3\n", ":1: speculation.sufix: no speculators plug-in named"),
        ("[speculation.suffix]\nmax_dept = 3\n", ':2: unknown key "max_dept" in [speculation.suffix]; did you mean'),
        ('[speculation.suffix]\nmax_depth = "x"\n', ":2: speculation.suffix.max_depth: expected `int`, got `str`"),
        ("[speculation.suffix]\nmax_depth = 1\n", "speculation.suffix: max_depth = 1"),
        ("[speculation]\nmax_draft_token = 3\n", ':2: unknown key "max_draft_token" in [speculation]; did you mean'),
        ("[speculation]\nmax_draft_tokens = 65\n", ":2: speculation.max_draft_tokens = 65: must be at most 64"),
        ('[speculation]\nrule = "couple"\n', ":2: speculation.rule: no rules plug-in named 'couple'; did you mean"),
        ('[speculation]\nrule = "../x"\n', ":2: speculation.rule: no rules plug-in named '../x'"),
        ('[speculation]\nmethods = ["os.path"]\n', ":2: speculation.methods: module 'os.path' is no speculator"),
        ('[speculation]\npolicy = "table"\n', ':2: speculation.policy = "table": only "table" takes a table'),
        ('[speculation]\npolicy = "table"\ntable = [[2, 1, 1]]\n', ":3: speculation.table has [2, 1, 1]: must be"),
    ],
)
def test_speculation_faults_name_line_and_neighbour(tmp_path: Path, text: str, part: str) -> None:
    assert part in refusal(tmp_path, text)
