"""What a round says of mapped files, and what is made of the files for other tools: complete cores, other machines."""

from __future__ import annotations

import shutil
from dataclasses import dataclass
from pathlib import Path

import pytest

from analysis.mappedfiles import MappedFiles, Sameness
from formats.chain import Checkpoint, MemoryView
from formats.manifest import RoundKind, Vma
from tests import ownlibrary
from tests.harness import predump
from tests.ownlibrary import DATA, LIBRARY, PROGRAM

pytestmark = pytest.mark.skipif(shutil.which("cc") is None, reason="there is no C compiler")


@dataclass(frozen=True)
class Dumped:
    """A checkpoint with a pre-dump and a dump of a program; `home`: where its files were, which are moved away now.

    `sysroot` has its files, and those of the system that it maps.
    """

    checkpoint: Path
    home: Path
    sysroot: Path


@pytest.fixture(scope="module")
def dumped(tmp_path_factory: pytest.TempPathFactory) -> Dumped:
    tmp_path = tmp_path_factory.mktemp("files")
    home, checkpoint, sysroot = tmp_path / "home", tmp_path / "checkpoint", tmp_path / "sysroot"
    ownlibrary.build(home)
    with ownlibrary.running(home) as pid:
        predump("dump", "-p", pid, "-D", checkpoint)
    for recorded in Checkpoint.open(checkpoint).round().manifest.processes[0].mapped_files:
        place = sysroot / recorded.path.lstrip("/")
        place.parent.mkdir(parents=True, exist_ok=True)
        shutil.copy2(recorded.path, place)
    home.rename(tmp_path / "away")
    return Dumped(checkpoint, home, sysroot)


def sameness(dumped: Dumped, root: Path, number: int | None = None) -> dict[str, Sameness | None]:
    """Of each mapped file by its name; None for one that is not there."""
    checkpoint = Checkpoint.open(dumped.checkpoint)
    found: dict[str, Sameness | None] = {}
    with MemoryView(checkpoint, number) as view:
        files = MappedFiles(checkpoint.round(number).manifest, view, root)
        for vma in files_of(view):
            file = files.open(vma)
            found[Path(vma.path).name] = file.sameness if file else None
            if file:
                file.close()
    return found


def files_of(view: MemoryView) -> list[Vma]:
    return [vma for vma in view.vmas if vma.kind == "file"]


@pytest.mark.parametrize("number", [1, 2])
def test_a_round_tells_its_files_from_others(dumped: Dumped, number: int, tmp_path: Path) -> None:
    info = Checkpoint.open(dumped.checkpoint).round(number)
    assert info.manifest.kind is (RoundKind.DUMP if number == 2 else RoundKind.PRE_DUMP)
    own = {PROGRAM, LIBRARY, DATA}
    copies = sameness(dumped, dumped.sysroot, number)
    assert own < copies.keys()
    assert set(copies.values()) == {Sameness.SAME}

    here = sameness(dumped, Path("/"), number)
    assert {name: here[name] for name in own} == dict.fromkeys(own)
    assert {kind for name, kind in here.items() if name not in own} == {Sameness.SAME}

    other = tmp_path / dumped.home.relative_to("/")
    other.mkdir(parents=True)
    ownlibrary.build_other_library(other)
    (other / DATA).write_bytes(b"shorter")
    shutil.copy(dumped.sysroot / dumped.home.relative_to("/") / PROGRAM, other / PROGRAM)
    others = sameness(dumped, tmp_path, number)
    assert [others[name] for name in (PROGRAM, LIBRARY, DATA)] == [Sameness.SAME, Sameness.OTHER, Sameness.OTHER]
    (other / DATA).write_bytes(bytes(ownlibrary.DATA_BYTES))
    assert sameness(dumped, tmp_path, number)[DATA] is Sameness.UNKNOWN
