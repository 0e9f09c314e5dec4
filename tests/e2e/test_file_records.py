"""What is told of the files that a process maps, while it runs."""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest

from dumper import mappedfiles
from dumper.mappedfiles import FileRecords
from dumper.target import Target
from dumper.tracking import AddressSpace
from formats.buildid import build_id
from formats.manifest import MappedFile
from tests import ownlibrary
from tests.ownlibrary import DATA, LIBRARY, PROGRAM

pytestmark = pytest.mark.skipif(shutil.which("cc") is None, reason="there is no C compiler")


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Path:
    home = tmp_path_factory.mktemp("records") / "home"
    ownlibrary.build(home)
    return home


@pytest.fixture
def target(home: Path) -> Iterator[Target]:
    with ownlibrary.running(home) as pid, Target(pid) as target:
        yield target


def looked_at(target: Target, records: FileRecords | None = None, *, afresh: bool = True) -> dict[str, MappedFile]:
    space = AddressSpace(target)
    files = (records or FileRecords(target, space)).look(space.read(), afresh=afresh)
    return {Path(one.path).name: one for one in files}


def expected(path: Path) -> tuple[int, int, int]:
    status = path.stat()
    return status.st_ino, status.st_size, status.st_mtime_ns


def check(found: dict[str, MappedFile], home: Path) -> None:
    assert found.keys() > {PROGRAM, LIBRARY, DATA}
    for name in (PROGRAM, LIBRARY, DATA):
        one = found[name]
        assert (one.inode, one.size_bytes, one.mtime_ns) == expected(home / name)
        content = (home / name).read_bytes()
        assert one.build_id == build_id(lambda offset, n_bytes, held=content: held[offset : offset + n_bytes])
    assert [bool(found[name].build_id) for name in (PROGRAM, LIBRARY, DATA)] == [True, True, False]


def test_what_they_are(target: Target, home: Path) -> None:
    check(looked_at(target), home)


def test_without_the_privilege_to_see_what_is_mapped_the_name_tells(
    target: Target, home: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    stat = Path.stat

    def refused(path: Path) -> os.stat_result:
        if "map_files" in path.parts:
            raise PermissionError(1, "Operation not permitted")
        return stat(path)

    monkeypatch.setattr(Path, "stat", refused)
    check(looked_at(target), home)
    (home / DATA).unlink()  # a mapping of it is then said to be deleted
    (home / DATA).write_bytes(bytes(n % 251 for n in range(ownlibrary.DATA_BYTES)))
    assert looked_at(target)[f"{DATA} (deleted)"].mtime_ns == 0


def test_nothing_is_told_of_what_was_unmapped_while_it_was_looked_at(
    target: Target, monkeypatch: pytest.MonkeyPatch
) -> None:
    read = mappedfiles.read_maps

    def without_library(tid: int) -> bytes:
        return b"".join(line for line in read(tid).splitlines(keepends=True) if LIBRARY.encode() not in line)

    monkeypatch.setattr(AddressSpace, "has_changed", lambda _space: True)
    monkeypatch.setattr(mappedfiles, "read_maps", without_library)
    found = looked_at(target)
    assert LIBRARY not in found
    assert PROGRAM in found


def test_a_round_does_not_look_again_but_a_dump_does(target: Target, home: Path) -> None:
    records = FileRecords(target, space := AddressSpace(target))
    space.read()
    before = looked_at(target, records)[DATA]
    os.utime(home / DATA, ns=(before.mtime_ns + 10**9, before.mtime_ns + 10**9))
    assert looked_at(target, records, afresh=False)[DATA] == before
    assert looked_at(target, records)[DATA].mtime_ns == before.mtime_ns + 10**9


def test_a_library_that_was_deleted_has_its_build_id_still(home: Path) -> None:
    with ownlibrary.running(home) as pid:
        content = (home / LIBRARY).read_bytes()
        (home / LIBRARY).unlink()
        try:
            with Target(pid) as target:
                found = looked_at(target)
        finally:
            (home / LIBRARY).write_bytes(content)
            (home / LIBRARY).chmod(0o755)
    one = found[f"{LIBRARY} (deleted)"]
    assert one.build_id == build_id(lambda offset, n_bytes: content[offset : offset + n_bytes])
