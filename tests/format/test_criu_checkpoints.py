"""CRIU's own checkpoints, made by a writer that shares nothing with the reader: memory, records, cores."""

from __future__ import annotations

import shutil
import struct
import subprocess
from dataclasses import replace
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from analysis.survey import survey
from formats.chain import MemoryView
from formats.checkpoint import Checkpoint
from formats.criu.export import CriuOptions, write_criu
from formats.criu.reading import mappings
from formats.criu.reading.checkpoint import CriuCheckpoint
from formats.elfcore import CoreOptions, write_core
from formats.elfnotes import NoteType
from formats.errors import AddressAbsent, NotACheckpoint, OtherImages, ParentMissing, UsageError
from formats.images import Images
from formats.manifest import RoundKind
from formats.openfiles import OpenFileKind
from formats.opening import open_images
from formats.roundwriter import RoundWriter
from formats.threadstate import Thread
from tests import criuwriter as criu
from tests.criuwriter import PAGE_BYTES, CriuImages, Mark, Task, Vma, addr_of, write_chain
from tests.elfreader import Core
from tests.format import images as own
from tests.format.test_criu_export import thread_of as exported_thread
from tests.format.test_criu_export import write_dump
from tests.format.test_memory_view import Memory as PagesHeld
from tests.format.test_memory_view import histories
from tests.states import plain_state

PID, CHILD = 100, 101
READELF = shutil.which("readelf")
N_PAGES = 12
ZEROS = bytes(PAGE_BYTES)


def page_of(seed: int) -> bytes:
    return struct.pack("<Q", seed) * (PAGE_BYTES // 8)


def content_of(opened: Images, number: int | None = None, pid: int | None = None) -> dict[int, bytes | None]:
    """Pages of all mappings by their number, None for what nobody can know."""
    found: dict[int, bytes | None] = {}
    with MemoryView(opened, number, pid) as view:
        for vma in view.vmas:
            for addr in range(vma.start_addr, vma.end_addr, PAGE_BYTES):
                try:
                    found[(addr - addr_of(0)) // PAGE_BYTES] = view.read(addr, PAGE_BYTES)
                except AddressAbsent:
                    found[(addr - addr_of(0)) // PAGE_BYTES] = None
    return found


def task_with_texts() -> Task:
    """A process whose last page has the command line and the environment."""
    words, environment = b"task\0--fast\0x y\0", b"HOME=/\0LANG=C\0"
    page = (words + environment).ljust(PAGE_BYTES, b"\0")
    texts = addr_of(15), addr_of(15) + len(words)
    vmas = (
        Vma(0, 4, criu.REGULAR | criu.FILE_PRIVATE, criu.MAP_PRIVATE, criu.READ | criu.EXEC, criu.EXE_ID),
        Vma(4, 6, criu.REGULAR | criu.ANON_PRIVATE | criu.HEAP),
        Vma(6, 7, criu.REGULAR | criu.ANON_PRIVATE | criu.VDSO, protection=criu.READ | criu.EXEC),
        Vma(8, 10, criu.REGULAR | criu.FILE_PRIVATE, criu.MAP_PRIVATE, shared_id=criu.LIBRARY_ID, offset_pages=3),
        Vma(10, 16),
    )
    pages = {1: page_of(1), 4: page_of(4), 6: page_of(6), 15: page}
    return Task(PID, vmas, pages, tids=(PID + 7, PID + 3), texts=(*texts, texts[1], texts[1] + len(environment)))


@pytest.fixture
def single(tmp_path: Path) -> Path:
    return CriuImages([task_with_texts()]).write(tmp_path / "dump")


def test_a_process(single: Path) -> None:
    opened = open_images(single)
    assert isinstance(opened, CriuCheckpoint)
    assert (opened.numbers, opened.selected) == ([1], 1)
    info = opened.round()
    assert (info.path, info.manifest.kind, info.manifest.full) == (single, RoundKind.DUMP, True)
    assert info.manifest.host.machine == "x86_64"
    (process,) = info.manifest.processes
    assert info.manifest.root_pid == process.pid == PID
    assert (process.name, process.exe, process.exe_build_id) == ("task", criu.EXE, criu.BUILD_ID.hex())
    assert process.cmdline == ["task", "--fast", "x y"]
    assert (process.pages_present, process.pages_data, process.pages_parent) == (4, 4, 0)
    assert [(vma.kind, vma.path, vma.perms, vma.offset_bytes) for vma in process.vmas] == [
        ("file", criu.EXE, "r-xp", 0),
        ("heap", "[heap]", "rw-p", 0),
        ("special", "[vdso]", "r-xp", 0),
        ("file", criu.LIBRARY, "rw-p", 3 * PAGE_BYTES),
        ("anon", "", "rw-p", 0),
    ]
    assert [vma.pages_data for vma in process.vmas] == [1, 1, 1, 0, 1]
    assert [(item.path, item.build_id) for item in process.mapped_files] == [
        (criu.EXE, criu.BUILD_ID.hex()),
        (criu.LIBRARY, ""),
    ]
    assert process.missing, "what CRIU does not tell is named"
    stats = info.manifest.stats
    assert (stats.frozen_ns, stats.stop_ns, stats.copy_ns) == (2_100_000, 100_000, 1_500_000)
    assert stats.stored_bytes == sum(path.stat().st_size for path in single.glob("page*.img"))


def test_its_state(single: Path) -> None:
    manifest = open_images(single).round().manifest
    (process,) = manifest.processes
    state = process.state
    assert state is not None
    assert state.environment == b"HOME=/\0LANG=C\0"
    assert state.auxv == struct.pack("<6Q", 6, PAGE_BYTES, 9, addr_of(0), 0, 0)
    assert (state.umask, state.cwd, state.root) == (0o22, "/var/tmp", "/")
    assert (state.limits[7].resource, state.limits[7].soft, state.limits[7].hard) == (7, 1031, (1 << 64) - 1)
    assert [(item.number, item.handler_addr, item.mask) for item in state.dispositions] == [(2, 0x1234, 7)]
    assert (state.credentials.uids, state.credentials.gids) == ([1001, 1003, 1005, 1007], [1002, 1004, 1006, 1008])
    assert (state.credentials.groups, state.credentials.cap_effective) == ([27, 28], 0x1_0000_000F)
    assert [(item.fd, item.open_file, item.close_on_exec) for item in state.descriptors] == [
        (0, criu.NULL_ID, False),
        (3, criu.MEMFD_ID, True),
    ]
    assert next((item.kind, item.path) for item in manifest.open_files) == (OpenFileKind.DEVICE, "/dev/null")


def test_its_threads(single: Path) -> None:
    (process,) = open_images(single).round().manifest.processes
    assert [thread.tid for thread in process.threads] == [PID, PID + 7, PID + 3]
    for thread in process.threads:
        numbers = criu.registers_of(thread.tid)
        registers = thread.registers
        assert (registers["r15"], registers["rip"], registers["gs"]) == (numbers[0], numbers[16], numbers[26])
        assert thread.fpregs[:32] == struct.pack("<HHHHQQII", 0x37F, 1, 2, 3, 4, 5, 0x1F80, 0xFFFF)
        assert thread.fpregs[32:416] == struct.pack("<96I", *range(32), *range(100, 164))
        assert thread.xstate[576:832] == struct.pack("<64I", *range(thread.tid, thread.tid + 64))
        assert thread.signal_mask == 1 << 9
        assert thread.credentials is None, "they are those of the process"


def test_memory(single: Path) -> None:
    content = content_of(open_images(single))
    assert content.pop(15)
    expected: dict[int, bytes | None] = dict.fromkeys((0, 2, 3, 8, 9))
    expected |= {1: page_of(1), 4: page_of(4), 5: ZEROS, 6: page_of(6)} | dict.fromkeys(range(10, 15), ZEROS)
    assert content == expected


def test_a_core_is_read_by_readelf(single: Path, tmp_path: Path) -> None:
    path = tmp_path / "core"
    report = write_core(open_images(single), None, None, path, CoreOptions(threads=2), lambda _done, _total: None)
    assert (report.pid, report.threads, report.data_bytes) == (PID, 3, 4 * PAGE_BYTES)
    core = Core(path)
    heap = next(load for load in core.loads if load.start_addr == addr_of(4))
    assert core.content(heap) == page_of(4) + ZEROS
    kinds = [note.kind for note in core.notes()]
    assert kinds.count(NoteType.PRSTATUS) == kinds.count(NoteType.X86_XSTATE) == 3
    found = [(item.start_addr, item.end_addr, item.offset_bytes, item.path) for item in core.mapped_files()]
    assert found == [
        (addr_of(0), addr_of(4), 0, criu.EXE),
        (addr_of(8), addr_of(10), 3 * PAGE_BYTES, criu.LIBRARY),
    ]
    if READELF is None:
        pytest.skip("readelf is not installed: what it says of the core is not known")
    done = subprocess.run([READELF, "-n", "-l", path], capture_output=True, text=True, timeout=60, check=True)
    assert "Warning" not in done.stdout + done.stderr
    assert done.stdout.count("NT_PRSTATUS") == 3


def tree() -> CriuImages:
    """Two processes that share memory, one of them from its second page on, and a memfd; and a zombie."""
    board = {0: page_of(7), 2: page_of(9)}
    memfd = Vma(8, 12, criu.REGULAR | criu.FILE_SHARED | criu.MEMFD, criu.MAP_SHARED, shared_id=criu.MEMFD_ID)
    tasks = [
        Task(PID, (Vma(0, 2), criu.shared(4, 8, 55), memfd), {0: page_of(1)}),
        Task(CHILD, (Vma(0, 2), criu.shared(4, 6, 55, 1)), {1: page_of(2)}, ppid=PID, name="child"),
        Task(CHILD + 1, ppid=PID, name="gone", state=6),
    ]
    shared = {55: board, 66: {1: page_of(11)}}
    return CriuImages(tasks, shared=shared, memfd_shared_id=66, memfd_bytes=3 * PAGE_BYTES)


def test_a_tree_with_shared_memory(tmp_path: Path) -> None:
    opened = open_images(tree().write(tmp_path / "dump"))
    manifest = opened.round().manifest
    assert [(item.pid, item.ppid, item.name) for item in manifest.processes] == [
        (PID, 0, "task"),
        (CHILD, PID, "child"),
        (CHILD + 1, PID, "gone"),
    ]
    zombie = manifest.processes[2].zombie
    assert zombie is not None
    assert zombie.exit_code == 0x100
    told = {item.id: (item.kind, item.path, item.size_bytes, item.pages_data) for item in manifest.objects}
    assert told == {
        55: ("shmem", "", 4 * PAGE_BYTES, 2),
        66: ("memfd", "/memfd:board", 3 * PAGE_BYTES, 1),
    }
    assert [item.object for item in manifest.open_files if item.kind is OpenFileKind.MEMFD] == [66]
    own_pages: dict[int, bytes | None] = {0: page_of(1), 1: ZEROS}
    board: dict[int, bytes | None] = {4: page_of(7), 5: ZEROS, 6: page_of(9), 7: ZEROS}
    behind: dict[int, bytes | None] = {8: ZEROS, 9: page_of(11), 10: ZEROS, 11: None}
    assert content_of(opened, pid=PID) == own_pages | board | behind
    assert content_of(opened, pid=CHILD) == {0: ZEROS, 1: page_of(2), 4: ZEROS, 5: page_of(9)}


Round = dict[int, bytes | Mark]


@st.composite
def rounds(draw: st.DrawFn) -> tuple[list[Round], list[dict[int, bytes]]]:
    """Rounds of a process, and what memory is as of each: pages with bytes."""
    taken: list[Round] = []
    memories: list[dict[int, bytes]] = []
    seed = 0
    for _ in range(draw(st.integers(1, 4))):
        before = memories[-1] if memories else {}
        pages: Round = {}
        for page in range(N_PAGES):
            match draw(st.sampled_from(["data", "data", "parent", "hole"])):
                case "data":
                    seed += 1
                    pages[page] = page_of(seed)
                case "parent" if page in before:
                    pages[page] = Mark.PARENT
        taken.append(pages)
        memories.append({page: state if isinstance(state, bytes) else before[page] for page, state in pages.items()})
    return taken, memories


@settings(max_examples=20)
@given(history=rounds())
def test_a_chain_is_followed(
    tmp_path_factory: pytest.TempPathFactory, history: tuple[list[Round], list[dict[int, bytes]]]
) -> None:
    taken, memories = history
    before = [CriuImages(running={PID: pages}) for pages in taken[:-1]]
    last = CriuImages([Task(PID, (Vma(0, N_PAGES),), taken[-1])])
    opened = open_images(write_chain(tmp_path_factory.mktemp("chain"), *before, last))
    assert opened.numbers == list(range(1, len(taken) + 1))
    assert [info.number for info in opened.lineage()] == opened.numbers[::-1]
    assert content_of(opened) == {page: memories[-1].get(page, ZEROS) for page in range(N_PAGES)}
    for number, memory in enumerate(memories[:-1], start=1):
        if memory:  # otherwise there is no mapping that anything is known of
            assert content_of(opened, number) == memory


def chain(directory: Path) -> Path:
    """A pre-dump and the dump on top of it."""
    first = CriuImages(running={PID: {0: page_of(1), 1: page_of(2), 9: page_of(3)}, CHILD: {}})
    second = CriuImages([Task(PID, (Vma(0, 16),), {0: Mark.PARENT, 1: page_of(20), 9: Mark.PARENT})])
    return write_chain(directory, first, second)


def test_a_pre_dump_says_little(tmp_path: Path) -> None:
    opened = open_images(chain(tmp_path))
    info = opened.round(1)
    assert (info.path, info.manifest.kind, info.manifest.root_pid) == (tmp_path / "d1", RoundKind.PRE_DUMP, PID)
    process = info.manifest.processes[0]
    assert [(vma.perms, vma.kind, vma.n_pages, vma.pages_data) for vma in process.vmas] == [
        ("????", "unknown", 2, 2),
        ("????", "unknown", 1, 1),
    ]
    with MemoryView(opened, 1) as view, pytest.raises(AddressAbsent, match="not mapped"):
        view.read(addr_of(5), 8)
    with pytest.raises(UsageError, match="pre-dump round"):
        write_core(opened, 1, None, tmp_path / "core", CoreOptions(), lambda _done, _total: None)
    last = opened.round()
    assert last.manifest.parent is not None
    assert (last.manifest.parent.round, last.manifest.full) == (1, False)
    assert (last.manifest.stats.pages_data, last.manifest.stats.pages_parent) == (1, 2)
    assert open_images(tmp_path / "d1").numbers == [1]


def test_shared_memory_of_a_parent(tmp_path: Path) -> None:
    first = CriuImages(running={PID: {}}, shared={55: {0: page_of(1), 1: page_of(2)}})
    task = Task(PID, (criu.shared(0, 2, 55),))
    second = CriuImages([task], shared={55: {0: Mark.PARENT, 1: page_of(3)}})
    opened = open_images(write_chain(tmp_path, first, second))
    assert content_of(opened) == {0: page_of(1), 1: page_of(3)}
    write_core(opened, None, None, tmp_path / "core", CoreOptions(), lambda _done, _total: None)
    core = Core(tmp_path / "core")
    assert b"".join(map(core.content, core.loads)) == page_of(1) + page_of(3)


def test_lazy_pages_are_not_zeros(tmp_path: Path) -> None:
    pages: Round = {0: page_of(1), 1: Mark.LAZY, 2: Mark.LAZY, 4: Mark.LAZY}
    opened = open_images(CriuImages([Task(PID, (Vma(0, 6),), pages)]).write(tmp_path / "dump"))
    assert content_of(opened) == {0: page_of(1), 1: None, 2: None, 3: ZEROS, 4: None, 5: ZEROS}
    with MemoryView(opened) as view, pytest.raises(AddressAbsent, match="lazy"):
        view.read(addr_of(1), 1)


def test_ranges_are_joined_before_they_are_too_many(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(mappings, "_MAX_RANGES", 4)
    pages: Round = {page: page_of(page) for page in range(0, 200, 2)}
    opened = open_images(CriuImages(running={PID: pages}).write(tmp_path / "dump"))
    (process,) = opened.round().manifest.processes
    assert len(process.vmas) <= 4
    assert sum(vma.pages_data for vma in process.vmas) == 100
    content = content_of(opened)
    assert {page: content[page] for page in pages} == pages
    assert content[1] is None, "what lies between is not known"


@pytest.mark.parametrize("fields", [((2, 3),), ((2, 3), (3, 0)), ((2, 3), (4, criu.PRESENT)), ((2, 0), (4, 4), (5, 3))])
def test_entries_of_older_and_newer_images(tmp_path: Path, fields: tuple[criu.Field, ...]) -> None:
    """Without a number of pages of 64 bits, and without flags."""
    directory = CriuImages([Task(PID, (Vma(0, 4),), {page: page_of(page) for page in range(3)})]).write(tmp_path / "x")
    entry = criu.message((1, addr_of(0)), *fields)
    (directory / f"pagemap-{PID}.img").write_bytes(criu.framed("pagemap", [criu.message((1, 1)), entry]))
    assert content_of(open_images(directory)) == {0: page_of(0), 1: page_of(1), 2: page_of(2), 3: ZEROS}


def test_own_checkpoints_are_told_apart(single: Path, tmp_path: Path) -> None:
    checkpoint = own.write_chain(tmp_path / "own", own.ImageRound({0: own.page_of(1)}, (own.vma_of(0, 1),)))
    assert isinstance(open_images(checkpoint), Checkpoint)
    with pytest.raises(OtherImages, match="CRIU") as caught:
        Checkpoint.open(single)
    assert caught.value.exit_code == 2
    with pytest.raises(NotACheckpoint, match="no committed round"):
        open_images(tmp_path)
    with pytest.raises(UsageError, match="no round 2"):
        open_images(single).round(2)


def test_a_link_to_the_directory_will_do(single: Path, tmp_path: Path) -> None:
    (tmp_path / "link").symlink_to("dump")
    assert content_of(open_images(tmp_path / "link")) == content_of(open_images(single))


def test_a_missing_parent(tmp_path: Path) -> None:
    last = chain(tmp_path)
    shutil.rmtree(tmp_path / "d1")
    opened = open_images(last)
    assert opened.numbers == [1]
    (process,) = opened.round().manifest.processes
    assert process.pid == PID, "what is there can be looked at"
    (finding,) = survey(opened, process).findings
    assert (finding.exit_code, "d1, which is not there" in finding.message) == (22, True)
    with pytest.raises(ParentMissing, match="d1"):
        MemoryView(opened)


# --- what predump exported ----------------------------------------------------------------------


def exported(checkpoint: Path, directory: Path, *, flat: bool, torn: bool = False) -> Images:
    options = CriuOptions(flat=flat, torn=torn)
    report = write_criu(Checkpoint.open(checkpoint), None, directory, options, lambda _done, _total: None)
    return open_images(Path(report.images))


@settings(max_examples=10)
@given(history=histories())
def test_an_exported_chain_is_the_same_again(
    tmp_path_factory: pytest.TempPathFactory, history: tuple[list[own.ImageRound], list[PagesHeld]]
) -> None:
    taken, memories = history
    directory = tmp_path_factory.mktemp("export")
    checkpoint = directory / "checkpoint"
    parent = None
    for number, image in enumerate(taken[:-1], start=1):
        parent = own.write_round(checkpoint, number, image, parent)
    writer = RoundWriter(checkpoint, len(taken))
    own.fill_round(writer, taken[-1])
    manifest = own.tree_manifest(len(taken), {own.PID: taken[-1]}, [], parent)
    (process,) = manifest.processes
    process = replace(
        process, threads=[exported_thread(own.PID)], state=plain_state(own.PID, process_group=1, session=1)
    )
    writer.commit(replace(manifest, processes=[process]))
    for flat in (False, True):
        again = exported(checkpoint, directory / str(flat), flat=flat)
        assert len(again.numbers) == (1 if flat else len(list(Checkpoint.open(checkpoint).lineage())))
        with MemoryView(again) as view:
            assert [(vma.start_addr, vma.end_addr) for vma in view.vmas] == [
                (vma.start_addr, vma.end_addr) for vma in process.vmas
            ]
            for vma in view.vmas:
                for addr in range(vma.start_addr, vma.end_addr, PAGE_BYTES):
                    page = (addr - own.addr_of(0)) // PAGE_BYTES
                    assert view.read(addr, PAGE_BYTES) == memories[-1].get(page, ZEROS)


def test_an_exported_pre_dump_has_mappings_but_no_state(tmp_path: Path) -> None:
    image = own.ImageRound({0: own.page_of(1)}, (own.vma_of(0, 2),))
    thread = Thread(tid=own.PID, name="runs")
    writer = RoundWriter(tmp_path / "checkpoint", 1)
    own.fill_round(writer, image)
    writer.commit(own.manifest_of(1, replace(own.process_of(image), threads=[thread]), None))
    again = exported(tmp_path / "checkpoint", tmp_path / "out", flat=True, torn=True)
    manifest = again.round().manifest
    (process,) = manifest.processes
    assert (manifest.kind, process.name, process.state) == (RoundKind.PRE_DUMP, "runs", None)
    assert process.threads == [thread]
    with MemoryView(again) as view:
        assert view.read(own.addr_of(0), 2 * PAGE_BYTES) == own.page_of(1) + ZEROS


def test_an_exported_dump_says_the_same_again(tmp_path: Path) -> None:
    before = write_dump(tmp_path / "checkpoint")
    again = exported(tmp_path / "checkpoint", tmp_path / "out", flat=True)
    after = again.round().manifest
    root, *others = before.processes
    names = [(item.pid, item.threads[0].name if item.threads else item.name) for item in before.processes]
    assert [(item.pid, item.name) for item in after.processes] == names
    assert [item.ppid for item in after.processes] == [0, *(item.ppid for item in others)]
    assert after.root_pid == root.pid
    assert [item.zombie is not None for item in after.processes] == [False, False, True]
    for ours, theirs in zip(before.processes[:2], after.processes, strict=False):
        assert [(vma.start_addr, vma.end_addr, vma.perms) for vma in theirs.vmas] == [
            (vma.start_addr, vma.end_addr, vma.perms) for vma in ours.vmas
        ]
        assert [thread.tid for thread in theirs.threads] == [thread.tid for thread in ours.threads]
        assert ours.state is not None
        assert theirs.state is not None
        assert ours.state.layout in (None, theirs.state.layout)
        for name in ("auxv", "limits", "umask", "cwd"):
            assert getattr(theirs.state, name) == getattr(ours.state, name), name
    opened = Checkpoint.open(tmp_path / "checkpoint")
    for pid in (own.PID, own.PID + 1):
        with MemoryView(opened, pid=pid) as ours_view, MemoryView(again, pid=pid) as theirs_view:
            assert theirs_view.read(own.addr_of(0), PAGE_BYTES) == ours_view.read(own.addr_of(0), PAGE_BYTES)
    with MemoryView(again) as view:
        assert view.read(own.addr_of(8), 4 * PAGE_BYTES) == ZEROS + own.page_of(3) + 2 * ZEROS
