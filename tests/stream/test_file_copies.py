"""Files that a host lacks: they come whole or not at all, where nothing is, and by no link."""

from __future__ import annotations

import hashlib
import os
from pathlib import Path

import pytest

from formats.errors import PredumpError
from streams.errors import StreamCorrupt
from streams.filecopy import FileCopies
from streams.messages import Content
from streams.questions import Copy, Problem, WantedFile

BYTES = b"content of a file" * 1000


def copies_for(*paths: Path) -> FileCopies:
    copies = FileCopies()
    wanted = [WantedFile(path=str(path)) for path in paths]
    copies.allow(wanted, [Problem(file=number, what="is missing", is_missing=True) for number in range(len(paths))])
    return copies


def copy_of(content: bytes = BYTES, **changes: object) -> Copy:
    values: dict[str, object] = {
        "file": 0,
        "size_bytes": len(content),
        "sha256": hashlib.sha256(content).hexdigest(),
        "mode": 0o640,
        "uid": os.getuid(),
        "gid": os.getgid(),
        "mtime_ns": 1_600_000_000_123_456_789,
    }
    return Copy(**{**values, **changes})  # type: ignore[arg-type]


def test_a_file_comes_with_what_is_its_own(tmp_path: Path) -> None:
    path = tmp_path / "file"
    with copies_for(path) as copies:
        copies.take(Content(0, 0, BYTES[:100]))
        copies.take(Content(0, 100, BYTES[100:]))
        assert not path.exists()
        copies.finish(copy_of(mode=0o4755))
        copies.keep()
    assert path.read_bytes() == BYTES
    assert path.stat().st_mode & 0o7777 == 0o755
    assert path.stat().st_mtime_ns == 1_600_000_000_123_456_789


def test_it_goes_again_if_the_process_does_not_run(tmp_path: Path) -> None:
    with copies_for(tmp_path / "file") as copies:
        copies.finish(copy_of(b""))
        assert (tmp_path / "file").exists()
    assert list(tmp_path.iterdir()) == []


def test_what_the_dump_does_not_name_goes_again(tmp_path: Path) -> None:
    paths = tmp_path / "wanted", tmp_path / "other"
    with copies_for(*paths) as copies:
        for number in range(2):
            copies.finish(copy_of(b"", file=number))
        copies.remove_others({str(paths[0])})
        assert list(tmp_path.iterdir()) == [paths[0]]


@pytest.mark.parametrize("change", [{"sha256": "0" * 64}, {"size_bytes": 1}, {"file": 1}])
def test_what_is_not_what_was_sent_gets_no_name(tmp_path: Path, change: dict[str, object]) -> None:
    with copies_for(tmp_path / "file", tmp_path / "other") as copies:
        copies.take(Content(0, 0, BYTES))
        with pytest.raises(StreamCorrupt):
            copies.finish(copy_of(**change))
    assert list(tmp_path.iterdir()) == []


def come(copies: FileCopies, in_the_way: Path) -> None:
    copies.take(Content(0, 0, BYTES))
    in_the_way.write_bytes(b"somebody else's")
    copies.finish(copy_of())


def test_nothing_is_overwritten_and_no_link_followed(tmp_path: Path) -> None:
    path, real = tmp_path / "file", tmp_path / "real"
    real.mkdir()
    (tmp_path / "link").symlink_to(real)
    for place in (path, tmp_path / "link" / "file", tmp_path / "absent" / "file"):
        path.unlink(missing_ok=True)
        with copies_for(place) as copies, pytest.raises(PredumpError):
            come(copies, in_the_way=path)
    assert list(real.iterdir()) == []
    path.write_bytes(b"somebody else's")
    path.unlink()
    path.symlink_to(real / "elsewhere")
    with copies_for(path) as copies:
        copies.take(Content(0, 0, BYTES))
        with pytest.raises(PredumpError):
            copies.finish(copy_of())
    assert list(real.iterdir()) == []


def test_only_what_was_missing_comes(tmp_path: Path) -> None:
    with copies_for(tmp_path / "file") as copies, pytest.raises(StreamCorrupt):
        copies.take(Content(1, 0, BYTES))
