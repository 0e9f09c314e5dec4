"""Every kind of memory comes back byte for byte, mapped as it was."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from restorer.errors import CannotRestore
from tests.restore.comebacks import come_back, compare, die, mappings, program

pytestmark = pytest.mark.usefixtures("targets")

KINDS = {
    "shared-anonymous": (),
    "growsdown": (),
    "locked": (),
    "write-only": (),
    "sealed": (),
    "guarded": (),
    "private-hugetlb": ("huge_pages",),
    "shared-hugetlb": ("huge_pages",),
    "private-file": (),
    "private-deleted-file": (),
    "private-memfd": (),
    "shared-memfd": (),
    "sysv": (),
    "reservation": (),
}
THOROUGH_KINDS = {
    "private-anonymous": (),
    "moved": (),
    "copied-on-fork": (),
    "heap": (),
    "stack": (),
    "transparent-huge": (),
    "no-access": (),
    "read-only": (),
    "execute-only": (),
    "mergeable": ("ksm",),
    "wiped-on-fork": (),
    "shared-file": (),
    "shared-deleted-file": (),
    "swapped-anonymous": ("swap",),
    "swapped-shared": ("swap",),
    "many-vmas": (),
    "threads": (),
}
TMPFS_KINDS = ("private-file", "shared-file", "private-deleted-file", "shared-deleted-file")
REFUSED_KINDS = ("aio", "uring")


def assert_comes_back(directory: Path, checkpoint: Path, kind: str, *files: Path) -> None:
    with program(directory, "kinds", kind, *files) as target:
        target.command("change 5")
        before = die(target, checkpoint)
        said: list[str] = []
        with come_back(checkpoint, said=said) as pid:
            assert pid == target.pid
            assert mappings(pid) == before
            found = compare(pid, checkpoint)
            assert not found.mismatches, str(found)
        assert not said


@pytest.mark.parametrize("kind", [*KINDS, *(pytest.param(kind, marks=pytest.mark.thorough) for kind in THOROUGH_KINDS)])
def test_memory_comes_back(kind: str, tmp_path: Path, checkpoint: Path, request: pytest.FixtureRequest) -> None:
    for fixture in (KINDS | THOROUGH_KINDS)[kind]:
        request.getfixturevalue(fixture)
    files = [tmp_path / "mapped"] if "file" in kind else []
    assert_comes_back(tmp_path / "target", checkpoint, kind, *files)


@pytest.mark.parametrize("kind", TMPFS_KINDS)
def test_files_of_memory_come_back(
    kind: str, tmp_path: Path, checkpoint: Path, file_system: Callable[[str], Path]
) -> None:
    assert_comes_back(tmp_path / "target", checkpoint, kind, file_system("tmpfs") / kind)


@pytest.mark.parametrize("kind", REFUSED_KINDS)
def test_what_is_the_kernels_too_is_refused(kind: str, tmp_path: Path, checkpoint: Path) -> None:
    with program(tmp_path / "target", "kinds", kind) as target:
        die(target, checkpoint)
        with pytest.raises(CannotRestore, match="not made again"), come_back(checkpoint):
            pass
