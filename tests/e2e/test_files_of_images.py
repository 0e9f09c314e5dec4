"""What a round says of mapped files, and what is made of the files for other tools: complete cores, other machines."""

from __future__ import annotations

import os
import shlex
import shutil
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

import pytest

from analysis.files.mappedfiles import MappedFiles, Sameness
from formats.chain import Checkpoint, MemoryView
from formats.manifest import RoundKind, Vma
from tests import ownlibrary
from tests.elfreader import Core
from tests.harness import Event, predump
from tests.oracle import PAGE_BYTES, Mapping, read_maps
from tests.ownlibrary import DATA, LIBRARY, LINK, PROGRAM
from tests.rawdirectory import assert_same_memory, read_index

pytestmark = pytest.mark.skipif(shutil.which("cc") is None, reason="there is no C compiler")


@dataclass(frozen=True)
class Dumped:
    """A checkpoint with a pre-dump and a dump of a program, whose files are in `home`.

    `sysroot` has copies of its files, and of those of the system that it maps; `memory`: of its private mappings of
    files, by their start, as of the dump.
    """

    checkpoint: Path
    home: Path
    sysroot: Path
    memory: dict[int, bytes] = field(repr=False)

    @contextmanager
    def moved_away(self) -> Iterator[None]:
        """As on another machine: its files are not where they were."""
        away = self.home.with_name("away")
        self.home.rename(away)
        try:
            yield
        finally:
            away.rename(self.home)


@pytest.fixture(scope="module")
def dumped(tmp_path_factory: pytest.TempPathFactory) -> Dumped:
    tmp_path = tmp_path_factory.mktemp("files")
    home, checkpoint, sysroot = tmp_path / "home", tmp_path / "checkpoint", tmp_path / "sysroot"
    ownlibrary.build(home)
    with ownlibrary.running(home) as pid:
        predump("dump", "-p", pid, "-D", checkpoint, "--leave-stopped")
        memory = {one.start_addr: read(pid, one) for one in read_maps(pid) if one.inode and one.perms[3] == "p"}
    for recorded in Checkpoint.open(checkpoint).round().manifest.processes[0].mapped_files:
        place = sysroot / recorded.path.lstrip("/")
        place.parent.mkdir(parents=True, exist_ok=True)
        shutil.copy2(recorded.path, place)
    return Dumped(checkpoint, home, sysroot, memory)


def read(pid: int, mapping: Mapping) -> bytes:
    """What a mapping has up to the end of its file."""
    with Path(f"/proc/{pid}/mem").open("rb", buffering=0) as file:
        content = bytearray()
        for addr in range(mapping.start_addr, mapping.end_addr, PAGE_BYTES):
            try:
                content += os.pread(file.fileno(), PAGE_BYTES, addr)
            except OSError:  # EIO: nothing of the file is there
                break
        return bytes(content)


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

    with dumped.moved_away():
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


GDB_S = 60
gdb_is_there = pytest.mark.skipif(shutil.which("gdb") is None, reason="gdb is not installed")


def export(dumped: Dumped, core: Path, *options: object) -> Event:
    return predump("export", dumped.checkpoint, "--to", "core", "-o", core, *options, "--json").result


def strings(result: Event, name: str) -> list[str]:
    value = result[name]
    assert isinstance(value, list)
    return [str(item) for item in value]


def gdb(words: list[str], *options: str) -> str:
    """What gdb says of libraries, frames and a variable of each file, when it is called like that."""
    quiet = ["-nx", "-batch", "-iex", "set debuginfod enabled off"]
    commands = ["info sharedlibrary", "bt", "p own_number", "p own_table[2]", "p own_table[1]", "info proc mappings"]
    asked = [word for command in commands for word in ("-ex", command)]
    done = subprocess.run(
        [words[0], *quiet, *options, *words[1:], *asked],
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        timeout=GDB_S,
        check=True,
    )
    return done.stdout + done.stderr


def assert_all_is_known(text: str) -> None:
    """That gdb found the executable and the libraries, and shows frames and variables of both."""
    assert "in own_wait (" in text
    assert "in own_outer (" in text
    assert "in main (" in text
    assert "No  " not in text, "a library was not found"
    # The last one was 2 until the process changed it.
    assert [line.split("= ")[1] for line in text.splitlines() if line.startswith("$")] == ["7", "3", "5"]
    assert "mismatch" not in text
    assert LIBRARY in text.split("Mapped address spaces")[1]


@gdb_is_there
def test_where_the_files_are_the_command_that_is_named_finds_them(dumped: Dumped, tmp_path: Path) -> None:
    core = tmp_path / "core"
    result = export(dumped, core)
    assert strings(result, "gdb") == ["gdb", str(dumped.home / PROGRAM), str(core)]
    for name in ("files_missing", "files_other", "files_unknown"):
        assert strings(result, name) == []
    assert_all_is_known(gdb(strings(result, "gdb")))

    done = predump("export", dumped.checkpoint, "--to", "core", "-o", core, "--force")
    assert shlex.split(done.stdout.splitlines()[-1]) == strings(result, "gdb")


@gdb_is_there
def test_the_core_says_by_build_ids_what_its_files_are(dumped: Dumped, tmp_path: Path) -> None:
    """As the kernel's cores: a debugger that knows files by their build ids needs no name of the executable."""
    core = tmp_path / "core"
    export(dumped, core)
    recorded = Checkpoint.open(dumped.checkpoint).round().manifest.processes[0].mapped_files
    identity = next(one.build_id for one in recorded if one.path == str(dumped.home / PROGRAM))
    link = tmp_path / "debug/.build-id" / identity[:2] / identity[2:]
    link.parent.mkdir(parents=True)
    link.symlink_to(dumped.home / PROGRAM)
    assert_all_is_known(gdb(["gdb", "-c", str(core)], "-iex", f"set debug-file-directory {tmp_path / 'debug'}"))


@gdb_is_there
def test_another_machine_has_what_it_needs_below_a_directory(dumped: Dumped, tmp_path: Path) -> None:
    core = tmp_path / "core"
    with dumped.moved_away():
        done = predump("export", dumped.checkpoint, "--to", "core", "-o", core, "--sysroot", dumped.sysroot, "--json")
        result = done.result
        for name in ("files_missing", "files_other", "files_unknown"):
            assert strings(result, name) == []
        (said,) = [str(event["message"]) for event in done.events if event["type"] == "notice"]
        _, _, command = said.partition("made by: ")
        assert LINK in {Path(path).name for path in strings(result, "links_missing")}
        subprocess.run(shlex.split(command), check=True, timeout=GDB_S, env={"PATH": "/usr/sbin:/sbin"})
        result = export(dumped, core, "--sysroot", dumped.sysroot, "--force")
        assert strings(result, "links_missing") == []
        words = strings(result, "gdb")
        assert str(dumped.sysroot / str(dumped.home).lstrip("/") / PROGRAM) in words
        assert_all_is_known(gdb(words))

        lacking = export(dumped, core, "--force")
    own = {str(dumped.home / name) for name in (PROGRAM, LIBRARY)}
    assert set(strings(lacking, "files_missing")) == own
    assert strings(lacking, "gdb") == ["gdb", str(core)]


@gdb_is_there
def test_another_library_is_not_taken_and_is_named(dumped: Dumped, tmp_path: Path) -> None:
    root, core = tmp_path / "root", tmp_path / "core"
    shutil.copytree(dumped.sysroot, root)
    place = root / str(dumped.home).lstrip("/")
    ownlibrary.build_other_library(place)
    done = predump("export", dumped.checkpoint, "--to", "core", "-o", core, "--complete", "--sysroot", root, "--json")
    assert strings(done.result, "files_other") == [str(dumped.home / LIBRARY)]
    assert str(dumped.home / LIBRARY) not in strings(done.result, "files_taken")
    notices = [str(event["message"]) for event in done.events if event["type"] == "notice"][:1]
    what = "Files that are not those that were mapped, so that nothing is taken from them"
    assert notices == [f"{what}: {place / LIBRARY}"]
    in_core = {one.start_addr for one in Core(core).loads if one.file_bytes}
    text = next(vma for vma in view_of(dumped) if vma.path.endswith(LIBRARY) and "x" in vma.perms)
    assert text.start_addr not in in_core
    said = predump("export", dumped.checkpoint, "--to", "core", "-o", core, "--force", "--sysroot", root).stderr
    assert said.splitlines()[0] == f"{what}: {place / LIBRARY}."


def view_of(dumped: Dumped) -> list[Vma]:
    return Checkpoint.open(dumped.checkpoint).round().manifest.processes[0].vmas


def test_a_complete_core_has_the_memory_of_every_private_mapping_of_a_file(dumped: Dumped, tmp_path: Path) -> None:
    path = tmp_path / "core"
    with dumped.moved_away():
        result = export(dumped, path, "--complete", "--sysroot", dumped.sysroot)
    core = Core(path)
    assert {Path(name).name for name in strings(result, "files_taken")} >= {PROGRAM, LIBRARY, DATA, "libc.so.6"}
    for start_addr, expected in dumped.memory.items():
        found = b""
        for segment in core.loads:
            if start_addr + len(found) == segment.start_addr and len(found) < len(expected):
                found += core.content(segment)
        assert found[: len(expected)] == expected, f"{start_addr:#x}"
    file_bytes = result["file_bytes"]
    assert isinstance(file_bytes, int)
    assert file_bytes > sum(map(len, dumped.memory.values())) // 2


def test_without_that_it_has_the_headers_of_what_runs(dumped: Dumped, tmp_path: Path) -> None:
    path = tmp_path / "core"
    export(dumped, path)
    core = Core(path)
    vmas = view_of(dumped)
    running = {vma.path for vma in vmas if vma.inode and "x" in vma.perms and vma.kind == "file"}
    firsts = [vma for vma in vmas if vma.path in running and vma.offset_bytes == 0]
    assert len(firsts) >= 4
    for vma in firsts:
        segment = next(one for one in core.loads if one.start_addr == vma.start_addr)
        assert core.content(segment) == Path(vma.path).read_bytes()[:PAGE_BYTES]


def test_a_torn_core_takes_nothing_of_what_was_not_tracked(dumped: Dumped, tmp_path: Path) -> None:
    result = export(dumped, tmp_path / "core", "--complete", "--torn", "--round", 1)
    assert result["torn"]
    assert str(dumped.home / LIBRARY) in strings(result, "files_taken")


def test_raw_files_have_every_byte_of_the_image_and_the_registers(dumped: Dumped, tmp_path: Path) -> None:
    out = tmp_path / "raw"
    done = predump("export", dumped.checkpoint, "--to", "raw", "-o", out, "--json")
    assert done.result["form"] == "raw"
    checkpoint = Checkpoint.open(dumped.checkpoint)
    with MemoryView(checkpoint) as view:
        assert_same_memory(view, out)
    (thread,) = checkpoint.round().manifest.processes[0].threads
    assert read_index(out)["threads"] == [{"tid": thread.tid, "name": thread.name, "registers": thread.registers}]

    said = predump("export", dumped.checkpoint, "--to", "raw", "-o", out, "--force", "--vma", "stack").stdout
    assert "1 mapping of process" in said
    (vma,) = read_index(out)["vmas"]
    assert vma["path"] == "[stack]"
    with MemoryView(checkpoint) as view:
        assert_same_memory(view, out, lambda vma: vma.kind == "stack")


def test_options_of_one_form_are_refused_for_another(dumped: Dumped, tmp_path: Path) -> None:
    for form, option in (("raw", "--complete"), ("core", "--writable")):
        done = predump("export", dumped.checkpoint, "--to", form, "-o", tmp_path / "out", option, expect=2)
        assert f"{option} means nothing to --to {form}" in done.stderr
