"""A directory for users appears whole or not at all."""

from pathlib import Path

import pytest

from formats.errors import StorageError, UsageError
from formats.wholedirectory import whole_directory


def test_it_appears_when_all_went_well(tmp_path: Path) -> None:
    path = tmp_path / "out"
    with whole_directory(path) as directory:
        (directory / "a").write_bytes(b"1")
        assert not path.exists()
    assert (path / "a").read_bytes() == b"1"
    assert path.stat().st_mode & 0o777 == 0o700
    assert [item.name for item in tmp_path.iterdir()] == ["out"]


def test_nothing_is_left_of_one_that_failed(tmp_path: Path) -> None:
    def fail(directory: Path) -> None:
        (directory / "a").mkdir()
        raise KeyError

    with pytest.raises(KeyError), whole_directory(tmp_path / "out") as directory:
        fail(directory)
    assert list(tmp_path.iterdir()) == []


def test_an_empty_directory_is_used(tmp_path: Path) -> None:
    (tmp_path / "out").mkdir()
    with whole_directory(tmp_path / "out") as directory:
        (directory / "a").mkdir()
    assert (tmp_path / "out/a").is_dir()


@pytest.mark.parametrize("in_the_way", ["file", "full", "link", "dangling"])
def test_nothing_is_replaced(tmp_path: Path, in_the_way: str) -> None:
    path = tmp_path / "out"
    (tmp_path / "elsewhere").mkdir()
    match in_the_way:
        case "file":
            path.write_bytes(b"")
        case "full":
            (path / "a").mkdir(parents=True)
        case "link":
            path.symlink_to("elsewhere")
        case "dangling":
            path.symlink_to("nowhere")
    before = sorted(tmp_path.rglob("*"))
    with pytest.raises(UsageError, match="exists and is no"), whole_directory(path):
        pytest.fail("the block was entered")
    assert sorted(tmp_path.rglob("*")) == before


def test_what_came_meanwhile_is_not_replaced(tmp_path: Path) -> None:
    path = tmp_path / "out"
    with pytest.raises(UsageError, match="not empty"), whole_directory(path):
        (path / "theirs").mkdir(parents=True)
    assert [item.name for item in tmp_path.iterdir()] == ["out"]
    assert [item.name for item in path.iterdir()] == ["theirs"]


def test_a_missing_parent_is_told(tmp_path: Path) -> None:
    with pytest.raises(StorageError, match="Cannot create"), whole_directory(tmp_path / "no/out"):
        pytest.fail("the block was entered")
