"""ELF cores of small checkpoints, read back by a reader of their own and by readelf."""

from __future__ import annotations

import re
import resource
import shutil
import struct
import subprocess
import tracemalloc
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path

import pytest
from hypothesis import given, settings

from formats.chain import Checkpoint, MemoryView
from formats.elfcore import CoreOptions, CoreReport, write_core
from formats.elfnotes import NoteType
from formats.errors import ImageCorrupt, PredumpError, StorageError, UsageError
from formats.layout import PAGE_BYTES, RunKind, pages_name
from formats.manifest import Gap, PageRange, Process, RoundKind
from formats.roundwriter import RoundWriter
from formats.threadstate import PendingSignal, Thread
from tests.elfreader import Core, Note
from tests.format.images import (
    PID,
    ImageObject,
    ImageRound,
    PageState,
    addr_of,
    fill_round,
    manifest_of,
    object_vma,
    page_of,
    process_of,
    vma_of,
    write_chain,
    write_tree,
)
from tests.format.test_memory_objects import Tree, trees
from tests.format.test_memory_view import Memory, histories
from tests.states import plain_credentials, plain_state, zombie_of

READELF = shutil.which("readelf")
PN_XNUM = 0xFFFF
GIB_PAGES = (1 << 30) // PAGE_BYTES
STATE = replace(
    plain_state(PID, process_group=40, session=30),
    auxv=struct.pack("<4Q", 9, 0x401000, 0, 0),
    credentials=plain_credentials(1000, 100),
)


def thread_of(tid: int) -> Thread:
    return Thread(
        tid=tid,
        name="thread",
        registers={"rip": 0x1000 + tid, "orig_rax": -1, "fs_base": 0x2000 + tid, "r15": 15, "gs": 5},
        fpregs=bytes([tid % 256]) * 512,
        signal_mask=0x10,
        pending=[PendingSignal(number=10, siginfo=bytes(128))],
    )


def write_dump(directory: Path, image: ImageRound, *, kind: RoundKind = RoundKind.DUMP, **changes: object) -> Path:
    """A checkpoint of one round; `changes` are made to its process."""
    process: Process = replace(process_of(image), **changes)  # type: ignore[arg-type]
    writer = RoundWriter(directory / "checkpoint", 1)
    fill_round(writer, image)
    writer.commit(replace(manifest_of(1, process, None), kind=kind))
    return directory / "checkpoint"


def export(checkpoint: Path, path: Path, options: CoreOptions | None = None, number: int | None = None) -> CoreReport:
    options = options or CoreOptions(torn=True)
    return write_core(Checkpoint.open(checkpoint), number, None, path, options, lambda _done, _total: None)


def memory_of(core: Core) -> dict[int, bytes | None]:
    """Page by page; None where the core has no bytes."""
    found: dict[int, bytes | None] = {}
    for load in core.loads:
        content = core.content(load)
        assert load.file_bytes in {0, load.memory_bytes}
        for position in range(0, load.memory_bytes, PAGE_BYTES):
            page = content[position : position + PAGE_BYTES] if content else None
            found[load.start_addr + position] = page
    return found


def readelf(path: Path) -> str:
    """What readelf says of a core; it must not complain of anything."""
    if READELF is None:
        pytest.skip("readelf is not installed")
    done = subprocess.run([READELF, "-h", "-l", "-n", "-W", str(path)], capture_output=True, text=True, check=True)
    assert done.stderr == ""
    assert not re.findall("(?i)warning|error|corrupt|invalid", done.stdout), done.stdout[:4000]
    return done.stdout


@given(histories())
@settings(max_examples=60)
def test_memory_is_that_of_the_view(
    tmp_path_factory: pytest.TempPathFactory, history: tuple[list[ImageRound], list[Memory]]
) -> None:
    images, memories = history
    directory = tmp_path_factory.mktemp("core")
    checkpoint = write_chain(directory / "checkpoint", *images)
    for number, memory in enumerate(memories, start=1):
        path = directory / f"core{number}"
        export(checkpoint, path, CoreOptions(torn=True, threads=3), number)
        core = memory_of(Core(path))
        with MemoryView(Checkpoint.open(checkpoint), number) as view:
            assert core.keys() == {
                addr for vma in view.vmas for addr in range(vma.start_addr, vma.end_addr, PAGE_BYTES)
            }
        for addr, page in core.items():
            assert page == memory.get((addr - addr_of(0)) // PAGE_BYTES, bytes(PAGE_BYTES))


@given(trees())
@settings(max_examples=60)
def test_memory_of_every_process_of_a_tree_with_objects(tmp_path_factory: pytest.TempPathFactory, tree: Tree) -> None:
    directory = tmp_path_factory.mktemp("core")
    checkpoint = Checkpoint.open(tree.write(directory / "checkpoint"))
    for pid, memory in tree.memories.items():
        path = directory / f"core{pid}"
        write_core(checkpoint, None, pid, path, CoreOptions(threads=2), lambda _done, _total: None)
        assert memory_of(Core(path)) == {addr_of(page): content for page, content in memory.items()}


def test_many_objects_need_few_descriptors(tmp_path: Path) -> None:
    n_objects = 100
    objects = [ImageObject(number, {0: page_of(number + 1), 1: page_of(number + 1001)}) for number in range(n_objects)]
    # The second round of VMAs comes back to objects whose files were closed.
    vmas = [object_vma(2 * n, 2 * n + 2, n % n_objects) for n in range(2 * n_objects)]
    write_tree(tmp_path / "checkpoint", 1, {PID: ImageRound({}, tuple(vmas))}, objects)
    checkpoint, path = Checkpoint.open(tmp_path / "checkpoint"), tmp_path / "core"
    limits = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (len(list(Path("/proc/self/fd").iterdir())) + 40, limits[1]))
    try:
        write_core(checkpoint, None, None, path, CoreOptions(threads=2), lambda _done, _total: None)
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, limits)
    memory = memory_of(Core(path))
    for page in range(4 * n_objects):
        assert memory[addr_of(page)] == page_of(page // 2 % n_objects + 1 + 1000 * (page % 2))


def test_the_parts_of_a_file_that_are_not_in_the_image_are_left_to_the_file(tmp_path: Path) -> None:
    pages: dict[int, PageState] = {2: page_of(1), 3: RunKind.ZERO, 6: page_of(2)}
    vma = replace(vma_of(0, 8, "file", "/lib/libc.so"), inode=7, offset_bytes=0x3000, perms="r-xp")
    core_path = tmp_path / "core"
    report = export(write_dump(tmp_path, ImageRound(pages, vmas=(vma,))), core_path)
    core = Core(core_path)
    assert [(load.start_addr, load.memory_bytes // PAGE_BYTES, load.file_bytes > 0) for load in core.loads] == [
        (addr_of(0), 2, False),
        (addr_of(2), 2, True),
        (addr_of(4), 2, False),
        (addr_of(6), 1, True),
        (addr_of(7), 1, False),
    ]
    assert report.segments == 5
    assert {load.flags for load in core.loads} == {5}
    memory = memory_of(core)
    assert [memory[addr_of(page)] for page in (2, 3, 6)] == [page_of(1), bytes(PAGE_BYTES), page_of(2)]
    (mapped,) = core.mapped_files()
    assert (mapped.start_addr, mapped.end_addr, mapped.offset_bytes) == (addr_of(0), addr_of(8), 0x3000)
    assert mapped.path == "/lib/libc.so"
    readelf(core_path)


def test_what_nobody_can_read_has_no_bytes(tmp_path: Path) -> None:
    image = ImageRound(
        {0: page_of(1)},
        vmas=(vma_of(0, 10),),
        unreadable=(Gap(start_addr=addr_of(3), end_addr=addr_of(4), reason="I/O error"),),
    )
    guards = [PageRange(start_addr=addr_of(6), end_addr=addr_of(8))]
    path = tmp_path / "core"
    export(write_dump(tmp_path, image, guards=guards), path)
    memory = memory_of(Core(path))
    assert [page for page in range(10) if memory[addr_of(page)] is None] == [3, 6, 7]


def test_huge_reservations_are_no_part_of_the_file(tmp_path: Path) -> None:
    vma = vma_of(0, 3 * GIB_PAGES)
    path = tmp_path / "core"
    report = export(write_dump(tmp_path, ImageRound({1: page_of(1), GIB_PAGES: page_of(2)}, vmas=(vma,))), path)
    assert 1 << 30 < report.bytes < (1 << 30) + 16 * PAGE_BYTES
    first, last = Core(path).loads
    assert (first.start_addr, first.end_addr) == (addr_of(0), addr_of(GIB_PAGES + 1))
    assert (last.file_bytes, last.end_addr) == (0, vma.end_addr)
    assert path.stat().st_blocks * 512 <= 1 << 20


def test_more_memory_than_a_file_can_have(tmp_path: Path) -> None:
    """Zeros of an object that is said to be of almost 2^63 bytes."""
    huge = replace(object_vma(0, 1, 1), start_addr=0, end_addr=(1 << 63) - PAGE_BYTES)
    behind = replace(vma_of(0, 1), start_addr=1 << 63, end_addr=(1 << 63) + PAGE_BYTES)
    held = ImageObject(1, {}, (1 << 63) - PAGE_BYTES)
    write_tree(tmp_path / "checkpoint", 1, {PID: ImageRound({}, (huge, behind))}, [held])
    with pytest.raises(StorageError, match="File too large"):
        export(tmp_path / "checkpoint", tmp_path / "core")
    assert [path.name for path in tmp_path.iterdir()] == ["checkpoint"]


def test_more_segments_than_the_header_can_count(tmp_path: Path) -> None:
    n_pages = 2 * 33_000
    pages: dict[int, PageState] = dict.fromkeys(range(0, n_pages, 2), RunKind.ZERO)
    pages |= {page: page_of(page) for page in range(0, n_pages, 200)}
    vma = replace(vma_of(0, n_pages, "file", "/data"), inode=7)
    path = tmp_path / "core"
    report = export(write_dump(tmp_path, ImageRound(pages, vmas=(vma,))), path)
    core = Core(path)
    assert report.segments == len(core.loads) == n_pages
    assert core.n_headers_field == PN_XNUM
    memory = memory_of(core)
    for page in range(n_pages):
        state = pages.get(page)
        assert memory[addr_of(page)] == (bytes(PAGE_BYTES) if state is RunKind.ZERO else state)
    assert f"65535 ({n_pages + 1})" in readelf(path)
    assert path.stat().st_blocks * 512 < report.bytes / 10


@pytest.mark.parametrize("n_headers", [PN_XNUM - 1, PN_XNUM, PN_XNUM + 1])
def test_the_number_of_segments_at_the_limit(n_headers: int, tmp_path: Path) -> None:
    n_pages = n_headers - 1
    pages: dict[int, PageState] = dict.fromkeys(range(0, n_pages, 2), RunKind.ZERO)
    path = tmp_path / "core"
    export(write_dump(tmp_path, ImageRound(pages, vmas=(vma_of(0, n_pages, "file", "/data"),))), path)
    core = Core(path)
    assert len(core.segments) == n_headers
    assert core.n_headers_field == min(n_headers, PN_XNUM)
    readelf(path)


def test_memory_is_bounded(tmp_path: Path) -> None:
    n_pages = 32_768
    pages: Mapping[int, PageState] = {page: page_of(page) for page in range(n_pages)}
    checkpoint = write_dump(tmp_path, ImageRound(pages, vmas=(vma_of(0, n_pages),)))
    opened = Checkpoint.open(checkpoint)
    opened.round()
    tracemalloc.start()
    try:
        report = write_core(
            opened, None, None, tmp_path / "core", CoreOptions(torn=True, threads=4), lambda _done, _total: None
        )
        _, peak_bytes = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert report.data_bytes == n_pages * PAGE_BYTES
    assert peak_bytes < 16 << 20


def notes_of(directory: Path, **changes: object) -> list[Note]:
    image = ImageRound({0: page_of(1)})
    export(write_dump(directory, image, **changes), directory / "core")
    readelf(directory / "core")
    return list(Core(directory / "core").notes())


def test_notes_are_in_the_order_of_the_kernel_with_the_main_thread_first(tmp_path: Path) -> None:
    threads = [thread_of(tid) for tid in (7, PID, PID + 1)]
    notes = notes_of(tmp_path, threads=threads, state=STATE)
    assert [note.kind for note in notes] == [
        *(NoteType.PRSTATUS, NoteType.PRPSINFO, NoteType.AUXV, NoteType.SIGINFO, NoteType.FPREGSET),
        *(NoteType.PRSTATUS, NoteType.SIGINFO, NoteType.FPREGSET) * 2,
    ]
    assert {note.owner for note in notes} == {"CORE"}
    statuses = [note.content for note in notes if note.kind == NoteType.PRSTATUS]
    assert [struct.unpack_from("<i", status, 32)[0] for status in statuses] == [PID, 7, PID + 1]
    for status in statuses:
        assert len(status) == 336
        pending, mask, tid, ppid, group, session = struct.unpack_from("<QQiiii", status, 16)
        assert (pending, mask, ppid, group, session) == (1 << 9, 0x10, 1, 40, 30)
        registers = struct.unpack_from("<27Q", status, 112)
        assert (registers[0], registers[16], registers[21], registers[26]) == (15, 0x1000 + tid, 0x2000 + tid, 5)
        assert registers[15] == (1 << 64) - 1
        assert struct.unpack_from("<i", status, 328) == (1,)
    (auxv,) = (note.content for note in notes if note.kind == NoteType.AUXV)
    assert auxv == STATE.auxv


def test_pids_are_those_of_the_process_in_its_namespace(tmp_path: Path) -> None:
    lineage = replace(STATE.lineage, ns_pids=[PID, 5, 1], ns_process_groups=[40, 4, 1], ns_sessions=[30, 3, 0])
    threads = [replace(thread_of(PID + n), ns_tids=[PID + n, 5 + n, 1 + n]) for n in range(2)]
    notes = notes_of(tmp_path, threads=threads, state=replace(STATE, lineage=lineage))
    statuses = [note.content for note in notes if note.kind == NoteType.PRSTATUS]
    assert [struct.unpack_from("<iiii", status, 32) for status in statuses] == [(1, 0, 1, 0), (2, 0, 1, 0)]
    (info,) = (note.content for note in notes if note.kind == NoteType.PRPSINFO)
    assert struct.unpack_from("<iiii", info, 24) == (1, 0, 1, 0)


def test_the_process_in_its_note(tmp_path: Path) -> None:
    notes = notes_of(
        tmp_path, threads=[thread_of(PID)], state=STATE, name="a-name-too-long-for-it", cmdline=["x" * 50, "y" * 50]
    )
    (info,) = (note.content for note in notes if note.kind == NoteType.PRPSINFO)
    assert len(info) == 136
    assert struct.unpack_from("<IIiiii", info, 16) == (1000, 100, PID, 1, 40, 30)
    assert info[40:56] == b"a-name-too-long\0"
    assert info[56:] == b"x" * 50 + b" " + b"y" * 28 + b"\0"


def test_damage_in_a_manifest_does_no_harm(tmp_path: Path) -> None:
    thread = replace(thread_of(PID), registers={"rip": -(1 << 63), "rax": (1 << 64) - 1}, signal_mask=-1)
    vma = replace(vma_of(0, 2, "file", "/a\0b\udcff\ud800"), inode=-1, offset_bytes=-4096)
    image = ImageRound({0: page_of(1)}, vmas=(vma,))
    checkpoint = write_dump(tmp_path, image, threads=[thread], ppid=-(1 << 40), name="\ud800", cmdline=["\udfff\0"])
    path = tmp_path / "core"
    export(checkpoint, path)
    readelf(path)
    assert Core(path).mapped_files()[0].path == "/a?b\udcff?"


def test_a_pre_dump_round_is_refused_or_torn(tmp_path: Path) -> None:
    image = ImageRound({0: page_of(1)})
    checkpoint = write_dump(tmp_path, image, kind=RoundKind.PRE_DUMP, threads=[thread_of(PID)])
    path = tmp_path / "core"
    with pytest.raises(UsageError, match="pre-dump round"):
        export(checkpoint, path, CoreOptions())
    assert not path.exists()
    report = export(checkpoint, path, CoreOptions(torn=True))
    assert (report.torn, report.threads) == (True, 0)
    notes = list(Core(path).notes())
    assert NoteType.PRSTATUS not in {note.kind for note in notes}
    assert [note.content[:5] for note in notes if note.owner == "predump"] == [b"torn:"]
    readelf(path)


def test_a_zombie_has_no_core(tmp_path: Path) -> None:
    image = ImageRound({0: page_of(1)})
    zombie = replace(process_of(image), pid=PID + 1, vmas=[], zombie=zombie_of(PID + 1, 9), pages_data=0)
    manifest = manifest_of(1, process_of(image), None)
    writer = RoundWriter(tmp_path / "checkpoint", 1)
    fill_round(writer, image)
    writer.commit(replace(manifest, processes=[*manifest.processes, zombie]))
    opened = Checkpoint.open(tmp_path / "checkpoint")
    with pytest.raises(UsageError, match="had ended"):
        write_core(opened, None, PID + 1, tmp_path / "core", CoreOptions(torn=True), lambda _done, _total: None)


def test_nothing_but_the_whole_core_gets_the_name(tmp_path: Path) -> None:
    checkpoint = write_dump(tmp_path, ImageRound({page: page_of(page) for page in range(64)}))
    pages = checkpoint / "0001" / pages_name(PID)
    content = bytearray(pages.read_bytes())
    content[100] ^= 1
    pages.write_bytes(content)
    path = tmp_path / "core"
    path.write_bytes(b"before")
    with pytest.raises(ImageCorrupt):
        export(checkpoint, path, CoreOptions(force=True))
    assert path.read_bytes() == b"before"
    assert {item.name for item in tmp_path.iterdir()} == {"checkpoint", "core"}


def test_a_file_in_the_way_is_replaced_by_force_only(tmp_path: Path) -> None:
    checkpoint = write_dump(tmp_path, ImageRound({0: page_of(1)}))
    path = tmp_path / "core"
    path.write_bytes(b"before")
    with pytest.raises(UsageError, match="exists"):
        export(checkpoint, path, CoreOptions())
    assert path.read_bytes() == b"before"
    export(checkpoint, path, CoreOptions(force=True))
    assert path.stat().st_mode & 0o777 == 0o600
    assert Core(path).loads


@pytest.mark.parametrize("what", ["directory", "link", "dangling link"])
def test_only_a_regular_file_is_replaced(what: str, tmp_path: Path) -> None:
    checkpoint = write_dump(tmp_path, ImageRound({0: page_of(1)}))
    path = tmp_path / "core"
    if what == "directory":
        path.mkdir()
    else:
        path.symlink_to("/dev/null" if what == "link" else "nowhere")
    with pytest.raises(UsageError, match="no regular file"):
        export(checkpoint, path, CoreOptions(force=True))
    assert path.is_dir() or path.is_symlink()


def test_a_directory_that_is_not_there(tmp_path: Path) -> None:
    checkpoint = write_dump(tmp_path, ImageRound({0: page_of(1)}))
    with pytest.raises(PredumpError, match="No such file"):
        export(checkpoint, tmp_path / "missing" / "core")


def test_progress_ends_at_the_total(tmp_path: Path) -> None:
    n_pages = 3 * (16 << 20) // PAGE_BYTES
    pages: Mapping[int, PageState] = {page: page_of(page % 7 + 1) for page in range(n_pages)}
    checkpoint = write_dump(tmp_path, ImageRound(pages, vmas=(vma_of(0, n_pages),)))
    seen: list[tuple[int, int]] = []
    write_core(
        Checkpoint.open(checkpoint), None, None, tmp_path / "core", CoreOptions(), lambda *step: seen.append(step)
    )
    assert seen == sorted(seen)
    assert seen[-1] == (n_pages * PAGE_BYTES, n_pages * PAGE_BYTES)
