"""Rounds as CRIU's image files: crit reads them, and the memory in them is the round's, chained or in one directory."""

from __future__ import annotations

import base64
import shutil
import struct
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path

import pytest
from hypothesis import given, settings

from formats.checkpoint import Checkpoint
from formats.criu.export import CriuOptions, CriuReport, write_criu
from formats.criu.files import FileTable
from formats.criu.images_pb2 import Core, SharedIds
from formats.criu.memory import memory_of
from formats.criu.processes import tree_entries
from formats.criu.threads import core_of_thread
from formats.errors import ImageCorrupt, UsageError
from formats.layout import PAGE_BYTES, RunKind
from formats.manifest import Manifest, PageRange, Vma
from formats.openfiles import Eventfd, OpenFile, OpenFileKind, Pipe
from formats.processstate import Descriptor, FileLock, Limit, MemoryLayout, Namespace
from formats.roundwriter import RoundWriter
from formats.threadstate import PendingSignal, Rseq, Scheduling, SignalStack, Thread
from tests.criuimages import PARENT, PRESENT, Memory, Pages, decode, images_of, needs_crit
from tests.format import samples
from tests.format.images import (
    PID,
    ZERO_PAGE,
    ImageObject,
    ImageRound,
    addr_of,
    fill_round,
    object_vma,
    page_of,
    tree_manifest,
    vma_of,
    write_chain,
    write_pages,
)
from tests.format.test_memory_objects import Memory as ExpectedMemory
from tests.format.test_memory_objects import Tree, trees
from tests.format.test_memory_view import N_PAGES, histories
from tests.format.test_memory_view import Memory as PagesHeld
from tests.states import plain_credentials, plain_state, zombie_of

LAZY = 2
CHILD = PID + 1
NAMES_OF_CRIU = {"rbp": "bp", "rbx": "bx", "rax": "ax", "rcx": "cx", "rdx": "dx", "rsi": "si", "rdi": "di"} | {
    "orig_rax": "orig_ax",
    "rip": "ip",
    "eflags": "flags",
    "rsp": "sp",
}
NAMES_OF_BOTH = (
    "r8",
    "r9",
    "r10",
    "r11",
    "r12",
    "r13",
    "r14",
    "r15",
    "cs",
    "ss",
    "ds",
    "es",
    "fs",
    "gs",
    "fs_base",
    "gs_base",
)
REGISTERS = {name: number for number, name in enumerate((*NAMES_OF_CRIU, *NAMES_OF_BOTH), start=1)} | {
    "orig_rax": (1 << 64) - 1
}
"""Of a thread that was in no system call."""


def export(checkpoint: Path, path: Path, options: CriuOptions | None = None, number: int | None = None) -> CriuReport:
    told: list[tuple[int, int]] = []
    report = write_criu(
        Checkpoint.open(checkpoint),
        number,
        path,
        options or CriuOptions(),
        lambda done, total: told.append((done, total)),
    )
    assert all(done <= total for done, total in told)
    assert told[-1] == (report.data_bytes, report.data_bytes)
    return report


def assert_holds(directory: Path, pid: int, memory: Mapping[int, bytes | None], *, own: frozenset[int]) -> None:
    """The pages of a process, by their number; of what nobody can know the images have nothing.

    `own` are pages that the process has itself: in shared memory no real process has any.
    """
    held = Memory(directory, pid)
    for vma in held.vmas:
        for addr in range(vma.start_addr, vma.end_addr, PAGE_BYTES):
            page = (addr - addr_of(0)) // PAGE_BYTES
            if vma.flags & 1 and page in own:
                continue
            found = held.page(vma, addr)
            assert found == memory[page] or (memory[page] is None and found == ZERO_PAGE), page


@settings(max_examples=10)
@given(history=histories())
def test_memory_is_the_rounds(
    tmp_path_factory: pytest.TempPathFactory, history: tuple[list[ImageRound], list[PagesHeld]]
) -> None:
    images, memories = history
    directory = tmp_path_factory.mktemp("export")
    checkpoint = write_chain(directory / "checkpoint", *images)
    for number, held in enumerate(memories, start=1):
        memory = {page: held.get(page, ZERO_PAGE) for page in range(N_PAGES)}
        for flat in (False, True):
            options = CriuOptions(flat=flat, torn=True, threads=2)
            report = export(checkpoint, directory / f"{number}-{flat}", options, number)
            assert_holds(Path(report.images), PID, memory, own=frozenset())
            if flat:
                entries = Pages(Path(report.images), str(PID)).entries
                assert not any(flags & PARENT for _, _, flags in entries)


@settings(max_examples=15)
@given(tree=trees())
def test_memory_of_all_processes_and_objects(tmp_path_factory: pytest.TempPathFactory, tree: Tree) -> None:
    directory = tmp_path_factory.mktemp("export")
    checkpoint = tree.write(directory / "checkpoint")
    for flat in (False, True):
        report = export(checkpoint, directory / str(flat), CriuOptions(flat=flat, threads=2))
        for pid, memory in tree.memories.items():
            assert_holds(Path(report.images), pid, expected(memory), own=frozenset(tree.images[pid].pages))


def expected(memory: ExpectedMemory) -> dict[int, bytes | None]:
    return dict(memory)


def three_rounds(checkpoint: Path) -> Path:
    """Of anonymous memory and a private mapping of a file, with a page of zeros of each kind."""
    vmas = (vma_of(0, 8), vma_of(8, 16, "file", "/lib/x"))
    first = ImageRound({0: page_of(1), 1: page_of(2), 2: RunKind.ZERO, 8: page_of(3), 9: RunKind.ZERO}, vmas)
    parent = RunKind.PARENT
    second = ImageRound({0: page_of(4), 1: parent, 2: parent, 8: parent, 9: parent}, vmas)
    third = ImageRound({0: parent, 1: parent, 2: parent, 3: page_of(5), 8: parent, 9: parent}, vmas)
    return write_chain(checkpoint, first, second, third)


def test_each_round_is_a_directory_that_leads_to_the_one_before(tmp_path: Path) -> None:
    report = export(three_rounds(tmp_path / "checkpoint"), tmp_path / "out", CriuOptions(torn=True))
    assert (report.images, report.rounds) == (str(tmp_path / "out/0003"), 3)
    assert report.data_bytes == 5 * PAGE_BYTES
    assert sorted(path.name for path in (tmp_path / "out").iterdir()) == ["0001", "0002", "0003"]
    assert str((tmp_path / "out/0003/parent").readlink()) == "../0002"
    assert str((tmp_path / "out/0002/parent").readlink()) == "../0001"
    assert sorted(path.name for path in (tmp_path / "out/0001").iterdir()) == [f"pagemap-{PID}.img", "pages-1.img"]
    entries = {number: Pages(tmp_path / "out" / number, str(PID)).entries for number in ("0001", "0002", "0003")}
    assert entries == {
        "0001": [(addr_of(0), 3, PRESENT), (addr_of(8), 2, PRESENT)],
        "0002": [(addr_of(0), 1, PRESENT), (addr_of(1), 2, PARENT), (addr_of(8), 2, PARENT)],
        "0003": [(addr_of(0), 3, PARENT), (addr_of(3), 1, PRESENT | LAZY), (addr_of(8), 2, PARENT)],
    }


def test_a_flat_directory_has_zeros_only_where_they_hide_a_file(tmp_path: Path) -> None:
    report = export(three_rounds(tmp_path / "checkpoint"), tmp_path / "out", CriuOptions(flat=True, torn=True))
    assert (report.images, report.rounds) == (str(tmp_path / "out"), 1)
    assert Pages(tmp_path / "out", str(PID)).entries == [
        (addr_of(0), 2, PRESENT | LAZY),
        (addr_of(3), 1, PRESENT | LAZY),
        (addr_of(8), 2, PRESENT),
    ]


def test_everything_is_for_its_owner(tmp_path: Path) -> None:
    report = export(three_rounds(tmp_path / "checkpoint"), tmp_path / "out", CriuOptions(torn=True))
    assert Path(report.images).is_dir()
    for path in (tmp_path / "out", *(tmp_path / "out").rglob("*")):
        if not path.is_symlink():
            assert path.stat().st_mode & 0o777 == (0o700 if path.is_dir() else 0o600)


def test_a_pid_that_was_used_again_has_no_pages_of_the_process_before(tmp_path: Path) -> None:
    first = ImageRound({0: page_of(1)}, start_time_ticks=1)
    second = ImageRound({0: page_of(2)}, start_time_ticks=2)
    checkpoint = write_chain(tmp_path / "checkpoint", first, second)
    export(checkpoint, tmp_path / "out", CriuOptions(torn=True))
    assert list((tmp_path / "out/0001").iterdir()) == []


def test_a_pre_dump_round_needs_to_be_asked_for(tmp_path: Path) -> None:
    checkpoint = three_rounds(tmp_path / "checkpoint")
    with pytest.raises(UsageError, match="pre-dump round"):
        export(checkpoint, tmp_path / "out")
    assert not (tmp_path / "out").exists()
    report = export(checkpoint, tmp_path / "out", CriuOptions(torn=True))
    assert report.torn
    assert report.left_out[0].what == "registers and all other state"


def test_nothing_is_left_of_an_export_that_failed(tmp_path: Path) -> None:
    checkpoint = three_rounds(tmp_path / "checkpoint")
    pages = checkpoint / f"0001/pages-{PID}.zst"
    pages.write_bytes(pages.read_bytes()[:-1] + b"\0")
    with pytest.raises(ImageCorrupt):
        export(checkpoint, tmp_path / "out", CriuOptions(torn=True))
    assert [path.name for path in tmp_path.iterdir()] == ["checkpoint"]


@pytest.mark.parametrize("flat", [False, True])
def test_a_page_that_no_round_has_is_damage(tmp_path: Path, flat: bool) -> None:
    checkpoint = write_chain(
        tmp_path / "checkpoint",
        ImageRound({0: page_of(1)}),
        ImageRound({0: RunKind.PARENT, 1: RunKind.PARENT}),
        ImageRound({0: RunKind.PARENT, 1: RunKind.PARENT}),
    )
    with pytest.raises(ImageCorrupt, match="refers to its parent round, but round 1"):
        export(checkpoint, tmp_path / "out", CriuOptions(flat=flat, torn=True))


# --- state --------------------------------------------------------------------------------------


def thread_of(tid: int, **changes: object) -> Thread:
    thread = Thread(
        tid=tid,
        name=f"t{tid}",
        registers=REGISTERS,
        fpregs=bytes(range(256)) * 2,
        signal_mask=1 << 63,
        pending=[PendingSignal(number=34, siginfo=b"s" * 128)],
        signal_stack=SignalStack(addr=4096, size_bytes=8192, flags=0),
        robust_list_addr=77,
        robust_list_bytes=24,
        clear_child_tid_addr=88,
        parent_death_signal=9,
        rseq=Rseq(addr=96, size_bytes=32, signature=5, flags=0, section_addr=99),
        scheduling=Scheduling(
            policy=1,
            flags=0,
            nice=-3,
            priority=7,
            runtime_ns=0,
            deadline_ns=0,
            period_ns=0,
            cpus=[],
            io_priority=0,
            timer_slack_ns=50_000,
        ),
    )
    return replace(thread, **changes)


def open_file(number: int, kind: OpenFileKind, path: str, **changes: object) -> OpenFile:
    record = OpenFile(
        id=number,
        kind=kind,
        path=path,
        deleted=False,
        flags=0o100002,
        offset=0,
        device="00:0e",
        inode=number,
        mode=0o100644,
        size_bytes=0,
        mount_id=1,
    )
    return replace(record, **changes)


LAYOUT = MemoryLayout(
    start_code_addr=1,
    end_code_addr=2,
    start_data_addr=3,
    end_data_addr=4,
    start_stack_addr=5,
    start_brk_addr=6,
    brk_addr=7,
    arg_start_addr=8,
    arg_end_addr=9,
    env_start_addr=10,
    env_end_addr=11,
)
STATE = replace(
    samples.STATE,
    layout=LAYOUT,
    auxv=b"".join(n.to_bytes(8, "little") for n in (33, 4096, 6, 100, 0, 0)),
    limits=[Limit(resource=0, soft=1, hard=2), Limit(resource=1, soft=3, hard=(1 << 64) - 1)],
    seccomp_filters=[b"12345678", b"abcdefgh"],
    cwd="/tmp",
    umask=0o27,
    descriptors=[
        Descriptor(fd=0, open_file=0, close_on_exec=False),
        Descriptor(fd=1, open_file=1, close_on_exec=True),
        Descriptor(fd=2, open_file=2, close_on_exec=False),
        Descriptor(fd=3, open_file=3, close_on_exec=False),
        Descriptor(fd=4, open_file=4, close_on_exec=False),
        Descriptor(fd=5, open_file=5, close_on_exec=False),
    ],
    locks=[FileLock(fd=0, kind="flock", mode="write", start=0, end=-1)],
    namespaces=[Namespace(kind="pid", inode=1), Namespace(kind="net", inode=2)],
    credentials=replace(plain_credentials(1, 2), groups=[3, 4], cap_effective=(5 << 32) + 6, cap_ambient=1),
    prctl={"dumpable": 1, "securebits": 8, "child_subreaper": 1, "tsc": 1, "mdwe": 1},
    monotonic_offset_ns=3,
)
OPEN_FILES = [
    open_file(0, OpenFileKind.FILE, "/tmp/file", offset=12, size_bytes=17, owner=-7, owner_signal=10),
    open_file(1, OpenFileKind.PIPE, "pipe:[99]", flags=0, inode=99),
    open_file(2, OpenFileKind.PIPE, "pipe:[99]", flags=1, inode=99),
    open_file(3, OpenFileKind.EVENTFD, "anon_inode:[eventfd]", eventfd=Eventfd(count=9, semaphore=False)),
    open_file(4, OpenFileKind.SOCKET, "socket:[5]"),
    open_file(5, OpenFileKind.FILE, "/tmp/gone", deleted=True),
]


def write_dump(checkpoint: Path) -> Manifest:
    """A dump with one of each: two processes, of which the second has another network, and a zombie."""
    images = {
        PID: ImageRound({0: page_of(1)}, (vma_of(0, 8), object_vma(8, 12, 1, 1))),
        CHILD: ImageRound({0: page_of(2)}, (vma_of(0, 8, "heap"), object_vma(8, 12, 1, 1, "file"))),
    }
    held = ImageObject(1, {2: page_of(3)}, 6 * PAGE_BYTES, "memfd")
    manifest = tree_manifest(1, images, [held], None)
    root, child = manifest.processes
    child_state = replace(
        plain_state(CHILD, process_group=CHILD, session=PID), namespaces=[Namespace(kind="net", inode=3)]
    )
    zombie = replace(child, pid=CHILD + 1, vmas=[], pages_data=0, zombie=zombie_of(CHILD + 1, 256), ppid=PID)
    filters = {"seccomp_mode": 2, "seccomp_filters": [0, 1]}
    processes = [
        replace(
            root,
            threads=[thread_of(PID, **filters), thread_of(PID + 100, seccomp_mode=2, seccomp_filters=[0])],
            state=STATE,
            guards=[PageRange(start_addr=addr_of(4), end_addr=addr_of(5))],
        ),
        replace(child, threads=[thread_of(CHILD)], state=child_state, ppid=PID),
        zombie,
    ]
    manifest = replace(
        manifest,
        processes=processes,
        open_files=OPEN_FILES,
        pipes=[Pipe(device="00:0e", inode=99, capacity_bytes=65536, content=b"in the pipe")],
        clocks=samples.DUMP.clocks,
        stats=replace(manifest.stats, frozen_ns=5_000_999, pages_present=2),
    )
    writer = RoundWriter(checkpoint, 1)
    for pid, image in images.items():
        fill_round(writer, image, pid)
    write_pages(writer.open_object(1), held.pages, base_addr=0)
    writer.commit(manifest)
    return manifest


@pytest.fixture
def dumped(tmp_path: Path) -> CriuReport:
    write_dump(tmp_path / "checkpoint")
    return export(tmp_path / "checkpoint", tmp_path / "out", CriuOptions(flat=True))


@needs_crit
def test_crit_reads_every_file(dumped: CriuReport) -> None:
    images = decode(*images_of(Path(dumped.images)))
    assert sorted(images) == sorted(
        [
            "inventory.img",
            "pstree.img",
            "files.img",
            "pipes-data.img",
            "seccomp.img",
            "timens-0.img",
            "stats-dump",
            "pagemap-shmem-2.img",
            f"core-{PID}.img",
            f"core-{PID + 100}.img",
            f"core-{CHILD}.img",
            f"core-{CHILD + 1}.img",
            *(f"{kind}-{pid}.img" for kind in ("ids", "mm", "fs", "pagemap") for pid in (PID, CHILD)),
            "fdinfo-2.img",
            "fdinfo-3.img",
        ]
    )
    assert images["pstree.img"] == [
        {"pid": PID, "ppid": 0, "pgid": PID, "sid": PID, "threads": [PID, PID + 100]},
        {"pid": CHILD, "ppid": PID, "pgid": CHILD, "sid": PID, "threads": [CHILD]},
        {"pid": CHILD + 1, "ppid": PID, "pgid": CHILD + 1, "sid": CHILD + 1, "threads": [CHILD + 1]},
    ]
    [inventory] = images["inventory.img"]
    ids = {pid: images[f"ids-{pid}.img"][0] for pid in (PID, CHILD)}
    assert inventory["img_version"] == 2
    assert inventory["fdinfo_per_id"] is inventory["ns_per_id"] is True
    assert not {"dump_uptime", "pre_dump_mode"} & inventory.keys(), "CRIU would continue it"
    assert inventory["root_ids"] == {**ids[PID], "vm_id": 1, "files_id": 1, "fs_id": 1, "sighand_id": 1}
    assert ids[CHILD]["net_ns_id"] != ids[PID]["net_ns_id"]
    assert ids[CHILD]["files_id"] == 3
    assert images["timens-0.img"] == [
        {"monotonic": {"tv_sec": 0, "tv_nsec": 5}, "boottime": {"tv_sec": 0, "tv_nsec": 3}}
    ]
    [stats] = images["stats-dump"]
    assert stats["dump"]["frozen_time"] == 5000
    assert images["seccomp.img"] == [
        {
            "seccomp_filters": [
                {"filter": base64.b64encode(b"12345678").decode() + "\n"},
                {"filter": base64.b64encode(b"abcdefgh").decode() + "\n", "prev": 0},
            ]
        }
    ]


@needs_crit
def test_crit_reads_threads(dumped: CriuReport) -> None:
    directory = Path(dumped.images)
    images = decode(*directory.glob("core-*.img"))
    [leader], [second] = images[f"core-{PID}.img"], images[f"core-{PID + 100}.img"]
    [zombie] = images[f"core-{CHILD + 1}.img"]
    assert leader["mtype"] == "X86_64"
    info = leader["thread_info"]
    assert info["clear_tid_addr"] == 88
    assert info["gpregs"] == {
        **{NAMES_OF_CRIU.get(name, name): value for name, value in REGISTERS.items()},
        "mode": "NATIVE",
    }
    fpregs = bytes(range(256)) * 2
    assert info["fpregs"]["cwd"] == int.from_bytes(fpregs[0:2], "little")
    assert info["fpregs"]["rdp"] == int.from_bytes(fpregs[16:24], "little")
    assert info["fpregs"]["mxcsr_mask"] == int.from_bytes(fpregs[28:32], "little")
    assert struct.pack("<32I", *info["fpregs"]["st_space"]) == fpregs[32:160]
    assert struct.pack("<64I", *info["fpregs"]["xmm_space"]) == fpregs[160:416]
    assert "xsave" not in info["fpregs"]
    process = leader["tc"]
    assert (process["task_state"], process["exit_code"], process["comm"]) == (1, 0, f"t{PID}")
    assert process["blk_sigset"] == 1 << 63
    assert process["timers"]["real"] == {"isec": 0, "iusec": 0, "vsec": 0, "vusec": 5}
    assert process["timers"]["posix"][0]["it_id"] == 5
    assert process["rlimits"]["rlimits"] == [{"cur": 1, "max": 2}, {"cur": 3, "max": (1 << 64) - 1}]
    assert len(process["sigactions"]) == 62
    assert [place for place, item in enumerate(process["sigactions"]) if item["sigaction"]] == [13]  # 15 without 9
    assert process["child_subreaper"] is True
    assert len(process["signals_s"]["signals"]) == 1
    thread = leader["thread_core"]
    assert (thread["futex_rla"], thread["futex_rla_len"], thread["pdeath_sig"]) == (77, 24, 9)
    assert (thread["sched_nice"], thread["sched_policy"], thread["sched_prio"]) == (-3, 1, 7)
    assert thread["sas"] == {"ss_sp": 4096, "ss_size": 8192, "ss_flags": 0}
    assert thread["rseq_entry"] == {
        "rseq_abi_pointer": 96,
        "rseq_abi_size": 32,
        "signature": 5,
        "rseq_cs_pointer": 99,
    }
    assert (thread["seccomp_mode"], thread["seccomp_filter"]) == ("filter", 1)
    assert thread["creds"] == {
        **dict.fromkeys(("uid", "euid", "suid", "fsuid"), 1),
        **dict.fromkeys(("gid", "egid", "sgid", "fsgid"), 2),
        "groups": [3, 4],
        **{name: [0, 0] for name in ("cap_inh", "cap_prm", "cap_bnd")},
        "cap_eff": [6, 5],
        "secbits": 8,
    }
    assert "tc" not in second
    assert "ids" not in second
    assert second["thread_core"]["seccomp_filter"] == 0
    assert (zombie["tc"]["task_state"], zombie["tc"]["exit_code"]) == (2, 256)
    assert "thread_info" not in zombie


@needs_crit
def test_crit_reads_the_address_space_and_the_files(dumped: CriuReport) -> None:
    images = decode(*images_of(Path(dumped.images)))
    files = {item["id"]: item for item in images["files.img"]}
    [memory], [child] = images[f"mm-{PID}.img"], images[f"mm-{CHILD}.img"]
    names = "start_code end_code start_data end_data start_stack start_brk brk arg_start arg_end env_start env_end"
    assert [memory[f"mm_{name}"] for name in names.split()] == list(range(1, 12))
    assert memory["mm_saved_auxv"] == [33, 4096, 6, 100]
    assert memory["dumpable"] == 1
    exe = files[memory["exe_file_id"]]["reg"]
    assert (exe["name"], exe["build_id"]) == ("/bin/target", [0x12AB])
    anonymous, shared = memory["vmas"]
    assert (anonymous["start"], anonymous["end"], anonymous["prot"]) == (addr_of(0), addr_of(8), 3)
    assert (anonymous["flags"], anonymous["status"]) == (0x22, 0x201)
    assert (shared["flags"], shared["status"], shared["shmid"], shared["pgoff"]) == (0x21, 0x101, 2, PAGE_BYTES)
    heap, private = child["vmas"]
    assert heap["status"] == 0x221
    assert private["status"] == 0x201, "what a memfd had is written as memory of the process's own"
    by_fd = {item["fd"]: item for item in images["fdinfo-2.img"]}
    assert {fd: item["type"] for fd, item in by_fd.items()} == {0: "REG", 1: "PIPE", 2: "PIPE", 3: "EVENTFD"}
    assert [item["flags"] for item in by_fd.values()] == [0, 1, 0, 0]
    regular = files[by_fd[0]["id"]]["reg"]
    assert (regular["name"], regular["pos"], regular["size"], regular["mode"]) == ("/tmp/file", 12, 17, 0o100644)
    assert (regular["fown"]["pid"], regular["fown"]["pid_type"], regular["fown"]["signum"]) == (7, 2, 10)
    ends = [files[by_fd[fd]["id"]]["pipe"] for fd in (1, 2)]
    assert [end["flags"] for end in ends] == [0, 1]
    assert len({end["pipe_id"] for end in ends}) == 1
    assert files[by_fd[3]["id"]]["efd"]["counter"] == 9
    [content] = images["pipes-data.img"]
    assert base64.b64decode(content["extra"]) == b"in the pipe"
    assert (content["pipe_id"], content["size"]) == (ends[0]["pipe_id"], 65536)
    [directories] = images[f"fs-{PID}.img"]
    assert [files[directories[name]]["reg"]["name"] for name in ("cwd_id", "root_id")] == ["/tmp", "/"]
    assert directories["umask"] == 0o27
    assert images["fdinfo-3.img"] == []


def test_memory_of_a_dump_with_one_of_each(dumped: CriuReport) -> None:
    directory = Path(dumped.images)
    third = {page: page_of(3) if page == 9 else ZERO_PAGE for page in range(8, 12)}
    for pid, seed in ((PID, 1), (CHILD, 2)):
        memory = {page: page_of(seed) if page == 0 else ZERO_PAGE for page in range(8)} | third
        assert_holds(directory, pid, memory, own=frozenset())


def test_what_has_no_place_is_named(dumped: CriuReport) -> None:
    assert [(item.what, item.reason[:20]) for item in dumped.left_out] == [
        ("cgroups", "predump does not wri"),
        (f"prctl mdwe of process {PID}", "CRIU's images do not"),
        (f"ambient capabilities of process {PID}", "predump does not wri"),
        (f"guard pages {addr_of(4):#x}-{addr_of(5):#x} of process {PID}", "written as plain mem"),
        (f"file of mapping {addr_of(8):#x}-{addr_of(12):#x} of process {PID}", "/object/1 is written"),
        (f"descriptor 4 (socket) of process {PID}", "predump does not wri"),
        (f"descriptor 5 (file) of process {PID}", "the file has no name"),
        (f"flock lock of descriptor 0 of process {PID}", "predump does not wri"),
        (f"net namespace of its own of process {CHILD}", "predump does not wri"),
        (f"boundaries of code, data, heap and stack of process {CHILD}", "the round does not h"),
        (f"file of mapping {addr_of(8):#x}-{addr_of(12):#x} of process {CHILD}", "/object/1 is written"),
    ]


@pytest.mark.parametrize(
    ("result", "before", "after"),
    [
        (-512, 7, (7, 98)),  # ERESTARTSYS: the call is made once more
        (-514, 7, (7, 98)),
        (-516, 7, (-4 % (1 << 64), 100)),  # ERESTART_RESTARTBLOCK: EINTR
        (-512, -1, (-512 % (1 << 64), 100)),  # in no system call
        (-11, 7, (-11 % (1 << 64), 100)),
        (5, 7, (5, 100)),
    ],
)
def test_an_interrupted_system_call_goes_on(result: int, before: int, after: tuple[int, int]) -> None:
    registers = REGISTERS | {"rax": result % (1 << 64), "orig_rax": before % (1 << 64), "rip": 100}
    assert restored_at(thread_of(PID, registers=registers)) == after


def test_a_section_that_was_interrupted_is_given_up() -> None:
    rseq = Rseq(addr=96, size_bytes=32, signature=5, flags=0, section_addr=99, abort_addr=123)
    thread = thread_of(PID, rseq=rseq)
    assert restored_at(thread)[1] == 123
    core = core_of(thread)
    assert core.thread.rseq.addr == 96
    assert not core.thread.rseq.HasField("section_addr")


def core_of(thread: Thread) -> Core:
    process = replace(samples.DUMP_PROCESS, threads=[thread], state=STATE)
    return core_of_thread(process, thread, SharedIds(memory=1, descriptors=1, directories=1, dispositions=1), None)


def restored_at(thread: Thread) -> tuple[int, int]:
    registers = core_of(thread).x86.registers
    return registers.rax, registers.rip


def test_vector_registers_are_those_of_the_state() -> None:
    """In the layout of Intel's processors: AVX, AVX-512 and protection keys."""
    xstate = bytearray(2696)
    struct.pack_into("<Q", xstate, 464, 0x2E7)
    struct.pack_into("<Q", xstate, 512, 0x2E7)
    places = {"ymm_high": (576, 256), "opmask": (1088, 64), "zmm_high": (1152, 512), "zmm_16": (1664, 1024)} | {
        "pkru": (2688, 8)
    }
    for seed, (start, n_bytes) in enumerate(places.values(), start=1):
        xstate[start : start + n_bytes] = bytes([seed]) * n_bytes
    xsave = core_of(thread_of(PID, xstate=bytes(xstate))).x86.floating_point.xsave
    assert xsave.xstate_bv == 0x2E7
    for seed, (name, (_, n_bytes)) in enumerate(places.items(), start=1):
        values = getattr(xsave, name)
        code = "I" if name in {"ymm_high", "pkru"} else "Q"
        assert struct.pack(f"<{len(values)}{code}", *values) == bytes([seed]) * n_bytes
    assert not xsave.bound_registers


@pytest.mark.parametrize(
    "changes", [{"umask": -1}, {"oom_score_adj": 1 << 40}, {"cwd": "\ud800"}, {"personality": 1 << 32}]
)
def test_values_that_no_kernel_tells_are_damage(tmp_path: Path, changes: dict[str, object]) -> None:
    manifest = write_dump(tmp_path / "checkpoint")
    root = manifest.processes[0]
    assert root.state is not None
    damaged = replace(
        manifest, processes=[replace(root, state=replace(root.state, **changes)), *manifest.processes[1:]]
    )
    shutil.rmtree(tmp_path / "checkpoint")
    writer = RoundWriter(tmp_path / "checkpoint", 1)
    writer.commit(replace(damaged, files=[]))
    with pytest.raises(ImageCorrupt, match="a value that cannot be"):
        export(tmp_path / "checkpoint", tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_a_circle_of_parents_is_written_below_the_root(tmp_path: Path) -> None:
    manifest = write_dump(tmp_path / "checkpoint")
    root, child, zombie = manifest.processes
    circle = [root, replace(child, ppid=zombie.pid), replace(zombie, ppid=child.pid)]
    assert [(entry.pid, entry.ppid) for entry in tree_entries(circle, PID)] == [
        (PID, 0),
        (CHILD, PID),
        (CHILD + 1, PID),
    ]


@pytest.mark.parametrize(
    ("vma", "status", "flags", "advice"),
    [
        (replace(vma_of(0, 1, "stack", "[stack]"), flags="rd wr gd ac"), 0x201, 0x122, 0),
        (replace(vma_of(0, 1), flags="rd wr lo nr hg dd"), 0x201, 0x6022, 1 << 14 | 1 << 16),
        (replace(vma_of(0, 1, "special", "[vdso]"), perms="r-xp"), 0x209, 0x22, 0),
        (replace(vma_of(0, 1, "special", "[vvar_vclock]"), perms="r--p"), 0x1201, 0x22, 0),
        (replace(vma_of(0, 1, "special", "[vsyscall]"), perms="--xp"), 0x204, 0x22, 0),
        (vma_of(0, 1, "file", "/lib/x"), 0x41, 0x02, 0),
        (replace(vma_of(0, 1, "file", "/data"), perms="rw-s", flags="rd wr sh mw"), 0x81, 0x01, 0),
        (replace(vma_of(0, 1, "hugetlb", "/anon_hugepage (deleted)"), flags="ht"), 0x201, 0x22, 0),
    ],
)
def test_kinds_of_mappings(vma: Vma, status: int, flags: int, advice: int) -> None:
    process = replace(samples.DUMP_PROCESS, vmas=[vma], exe_build_id="")
    table = FileTable(samples.DUMP)
    [message] = memory_of(process, {}, table).vmas
    assert (message.status, message.flags, message.advice, message.fd) == (status, flags, advice, -1)
    if status & 0xC0:
        [file] = [item for item in table.messages if item.id == message.shared_id]
        assert file.regular.path == vma.path.encode()
        assert file.regular.flags == message.open_flags == (2 if vma.is_shared else 0)
    else:
        assert not message.shared_id
