"""Manifests made by hand: a tree of a server, its worker and a zombie, with something of everything to show."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import fields, is_dataclass, replace
from io import StringIO
from pathlib import Path

from rich.console import Console, RenderableType

from analysis.mappings import Order
from analysis.selection import VmaSelection
from analysis.subject import subject_of
from commands.inspect import SECTIONS
from display.inspect import shown
from display.view import View
from formats.checkpoint import Checkpoint, RoundInfo, RoundOutline
from formats.layout import round_name
from formats.manifest import (
    EndedProcess,
    Gap,
    Host,
    Manifest,
    MemoryObject,
    Missing,
    PageRange,
    Process,
    RoundKind,
    Stats,
    Vma,
)
from formats.openfiles import (
    EpollWatch,
    Eventfd,
    OpenFile,
    OpenFileKind,
    Pipe,
    Socket,
    Terminal,
    Timerfd,
)
from formats.processstate import (
    Descriptor,
    Disposition,
    FileLock,
    IntervalTimer,
    Limit,
    Namespace,
    PosixTimer,
    ProcessState,
    Zombie,
)
from formats.threadstate import Credentials, PendingSignal, Restart, Scheduling, SystemCall, Thread
from tests.states import lineage_of, plain_credentials, plain_state

SERVER, WORKER, ZOMBIE = 4242, 4243, 4244
INFINITY = (1 << 64) - 1
ALL_CAPS = (1 << 41) - 1
SIGUSR1, SIGHUP, SIGPIPE, SIGTERM, SIGCHLD = 10, 1, 13, 15, 17
SA_RESTORER, SA_RESTART, SA_SIGINFO = 0x04000000, 0x10000000, 4
BASE_ADDR = 0x5581_0000_0000


def mask_of(*signals: int) -> int:
    return sum(1 << (number - 1) for number in signals)


def credentials_of(uid: int = 0, caps: int = ALL_CAPS) -> Credentials:
    return replace(plain_credentials(uid, uid), cap_permitted=caps, cap_effective=caps, cap_bounding=ALL_CAPS)


def scheduling_of(policy: int = 0, nice: int = 0, priority: int = 0, cpus: Sequence[int] = (0, 1)) -> Scheduling:
    return Scheduling(
        policy=policy,
        flags=0,
        nice=nice,
        priority=priority,
        runtime_ns=0,
        deadline_ns=0,
        period_ns=0,
        cpus=list(cpus),
        io_priority=0,
        timer_slack_ns=50_000,
    )


def thread_of(tid: int, name: str = "server", number: int = 232, restart: Restart = Restart.AGAIN) -> Thread:
    return Thread(
        tid=tid,
        name=name,
        registers={"rip": 0x7F12_3456_789A, "rsp": 0x7FFC_0000_1000, "fs_base": 0x7F12_0000_0740},
        xstate=bytes(832),
        scheduling=scheduling_of(),
        system_call=SystemCall(number=number, arguments=[0] * 6, restart=restart),
    )


def state_of(pid: int, descriptors: Sequence[Descriptor] = ()) -> ProcessState:
    return replace(
        plain_state(pid, process_group=SERVER, session=4000),
        credentials=credentials_of(),
        cwd="/srv/app",
        namespaces=[Namespace(kind="net", inode=4026531840)],
        cgroups=["0::/system.slice/app.service"],
        prctl={"dumpable": 1, "child_subreaper": 0},
        descriptors=list(descriptors),
    )


def vma_of(index: int, path: str = "", kind: str = "anon", **changes: object) -> Vma:
    start_addr = BASE_ADDR + index * (1 << 20)
    vma = Vma(
        start_addr=start_addr,
        end_addr=start_addr + (1 << 19),
        perms="rw-p",
        offset_bytes=0,
        device="00:00",
        inode=0,
        path=path,
        kind=kind,
        tracked=True,
    )
    return replace(vma, **changes)


def process_of(pid: int, ppid: int, name: str, state: ProcessState | None = None) -> Process:
    return Process(
        pid=pid,
        start_time_ticks=pid,
        ppid=ppid,
        name=name,
        exe=f"/usr/bin/{name}",
        exe_build_id="",
        cmdline=[name, "--serve"],
        vmas=[],
        threads=[thread_of(pid, name)] if state else [],
        unreadable=[],
        state=state,
        pages_present=512,
    )


def file_of(number: int, kind: OpenFileKind = OpenFileKind.FILE, path: str = "", **changes: object) -> OpenFile:
    item = OpenFile(
        id=number,
        kind=kind,
        path=path,
        deleted=False,
        flags=2,
        offset=0,
        device="00:0f",
        inode=1000 + number,
        mode=0o100644,
        size_bytes=0,
        mount_id=1,
    )
    return replace(item, **changes)


def socket_of(family: int = 2, kind: int = 1, state: str = "established", **changes: object) -> Socket:
    item = Socket(
        family=family,
        type=kind,
        protocol=0,
        state=state,
        local="",
        peer="",
        local_sockaddr=b"",
        peer_sockaddr=b"",
        options={},
    )
    return replace(item, **changes)


def open_files() -> list[OpenFile]:
    """One of each kind that has something special to show."""
    terminal = Terminal(termios=b"", rows=24, columns=80, index=3, session=4000, foreground_group=SERVER)
    watches = [
        EpollWatch(fd=5, events=1 | 1 << 31, data=5, device="", inode=0),
        EpollWatch(fd=6, events=4, data=6, device="", inode=0),
    ]
    timer = Timerfd(clock=1, ticks=3, flags=0, remaining_ns=1_200_000_000, interval_ns=1_000_000_000)
    listening = socket_of(state="listen", local="127.0.0.1:6379", backlog=511)
    unix = {"family": 1, "state": "established"}
    return [
        file_of(0, OpenFileKind.TERMINAL, "/dev/pts/3", terminal=terminal),
        file_of(1, OpenFileKind.FILE, "/var/log/app.log", flags=0o102001, offset=123_456),
        file_of(2, OpenFileKind.FILE, "/tmp/scratch", deleted=True, object=2, flags=0o2004002),
        file_of(3, OpenFileKind.PIPE, "pipe:[77]", inode=77, flags=0),
        file_of(4, OpenFileKind.PIPE, "pipe:[77]", inode=77, flags=1),
        file_of(5, OpenFileKind.SOCKET, "socket:[1005]", socket=listening),
        file_of(6, OpenFileKind.SOCKET, "socket:[1006]", socket=socket_of(**unix, peer_inode=1007, queue=[b"abc"])),
        file_of(7, OpenFileKind.SOCKET, "socket:[1007]", socket=socket_of(**unix, peer_inode=1006)),
        file_of(8, OpenFileKind.EPOLL, "anon_inode:[eventpoll]", epoll=watches),
        file_of(9, OpenFileKind.EVENTFD, "anon_inode:[eventfd]", eventfd=Eventfd(count=4, semaphore=True)),
        file_of(10, OpenFileKind.TIMERFD, "anon_inode:[timerfd]", timerfd=timer),
        file_of(11, OpenFileKind.SIGNALFD, "anon_inode:[signalfd]", signalfd_mask=mask_of(SIGHUP, SIGTERM)),
    ]


def server() -> Process:
    descriptors = [Descriptor(fd=n, open_file=n, close_on_exec=n > 3) for n in (*range(4), 5, 6, *range(8, 12))]
    state = replace(
        state_of(SERVER, descriptors),
        dispositions=[
            Disposition(number=SIGPIPE, handler_addr=1, flags=SA_RESTORER, restorer_addr=1, mask=0),
            Disposition(
                number=SIGTERM,
                handler_addr=BASE_ADDR + 0x123,
                flags=SA_RESTORER | SA_RESTART | SA_SIGINFO,
                restorer_addr=1,
                mask=mask_of(SIGHUP),
            ),
            Disposition(number=SIGCHLD, handler_addr=0, flags=0, restorer_addr=0, mask=0),
        ],
        pending=[PendingSignal(number=SIGUSR1, siginfo=bytes(128))],
        posix_timers=[
            PosixTimer(
                id=0,
                clock=1,
                signal=35,
                value=0,
                notify=4,
                tid=SERVER,
                interval_ns=0,
                remaining_ns=250_000_000,
                overruns=2,
            )
        ],
        interval_timers=[
            IntervalTimer(which=0, interval_us=1_000_000, remaining_us=400_000),
            IntervalTimer(which=1, interval_us=0, remaining_us=0),
        ],
        limits=[
            Limit(resource=0, soft=INFINITY, hard=INFINITY),
            Limit(resource=3, soft=8 << 20, hard=INFINITY),
            Limit(resource=7, soft=1024, hard=524288),
        ],
        locks=[FileLock(fd=1, kind="flock", mode="write", start=0, end=-1)],
    )
    sleeper = replace(
        thread_of(SERVER + 100, "bio_lazy_free", 202, Restart.REMAINING),
        signal_mask=mask_of(*range(1, 65)),
        pending=[PendingSignal(number=36, siginfo=bytes(128))] * 3,
        scheduling=scheduling_of(policy=2, priority=10, cpus=[1]),
        seccomp_mode=2,
        seccomp_filters=[0, 1],
    )
    process = process_of(SERVER, 1, "server", state)
    return replace(
        process,
        threads=[thread_of(SERVER), sleeper],
        vmas=[
            vma_of(0, "/usr/bin/server", "file", perms="r-xp", pages_data=0),
            vma_of(1, "[heap]", "heap", pages_data=100, pages_zero=2, pages_parent=20),
            vma_of(2, "/dev/shm/board", "shmem", perms="rw-s", object=1),
        ],
        guards=[PageRange(start_addr=BASE_ADDR, end_addr=BASE_ADDR + 8192)],
        unreadable=[Gap(start_addr=BASE_ADDR, end_addr=BASE_ADDR + 4096, reason="memfd_secret")],
        missing=[
            Missing(what=f"queue of descriptor {fd}", reason="connections that nobody accepted yet")
            for fd in range(20, 520)
        ],
    )


def worker() -> Process:
    descriptors = [Descriptor(fd=fd, open_file=n, close_on_exec=False) for fd, n in ((0, 0), (1, 1), (3, 4), (4, 7))]
    state = replace(state_of(WORKER, descriptors), namespaces=[Namespace(kind="net", inode=4026532000)])
    board = vma_of(2, "/dev/shm/board", "shmem", perms="rw-s", object=1)
    return replace(process_of(WORKER, SERVER, "worker", state), vmas=[board])


def zombie(pid: int = ZOMBIE, exit_code: int = 9) -> Process:
    left = Zombie(exit_code=exit_code, lineage=lineage_of(pid, process_group=SERVER, session=4000))
    return replace(process_of(pid, WORKER, "helper"), zombie=left, pages_present=0, cmdline=[], exe="")


def object_of(number: int, kind: str, path: str, **changes: object) -> MemoryObject:
    item = MemoryObject(
        id=number, device="00:01", inode=number, path=path, kind=kind, size_bytes=1 << 20, mode=0o100600, uid=0, gid=0
    )
    return replace(item, **changes)


def manifest_of(*processes: Process, kind: RoundKind = RoundKind.DUMP, **changes: object) -> Manifest:
    """A round of these processes, the first of them the root; it is full, of nothing but the manifest."""
    manifest = Manifest(
        checkpoint_id="0" * 32,
        round=1,
        kind=kind,
        created_ns=1_750_000_000_000_000_000,
        tool_version="0.1.0",
        full=True,
        full_reason="it is the first round",
        host=Host(boot_id="b", hostname="box", kernel_release="6.18", machine="x86_64"),
        root_pid=processes[0].pid,
        processes=list(processes),
        stats=Stats(pages_present=1024, stored_bytes=400_000, raw_bytes=1_000_000, duration_ns=5_000_000),
    )
    return replace(manifest, **changes)


def tree_manifest() -> Manifest:
    return manifest_of(
        server(),
        worker(),
        zombie(),
        ended=[EndedProcess(pid=4300, start_time_ticks=1, name="gone")],
        open_files=open_files(),
        pipes=[Pipe(device="00:0f", inode=77, capacity_bytes=65536, content=b"hello")],
        objects=[
            object_of(1, "shmem", "/dev/shm/board", pages_data=200),
            object_of(2, "deleted", "/tmp/scratch", pages_data=1),
        ],
    )


_EXACT = {"pid", "root_pid", "round"}  # what the round and its processes are found by


def spoiled(value: object, number: int, name: str = "") -> object:
    """A record with this number in every place that has one, as an image may have it."""
    if isinstance(value, bool) or value is None or name in _EXACT:
        return value
    if isinstance(value, int):
        return number
    if isinstance(value, list):
        return [spoiled(item, number) for item in value]
    if isinstance(value, dict):
        return {key: spoiled(item, number) for key, item in value.items()}
    if is_dataclass(value) and not isinstance(value, type):
        return replace(
            value, **{one.name: spoiled(getattr(value, one.name), number, one.name) for one in fields(value)}
        )
    return value


class MemoryCheckpoint(Checkpoint):
    """A checkpoint that was never on disk: nobody checked what its manifests say."""

    def __init__(self, *manifests: Manifest) -> None:
        numbers = [manifest.round for manifest in manifests]
        super().__init__(Path("/var/tmp/ck"), numbers, numbers[-1])
        self._manifests = {manifest.round: manifest for manifest in manifests}

    def outline(self, number: int) -> RoundOutline:
        return self.round(number).outline

    def _load(self, number: int) -> RoundInfo:
        return RoundInfo(number, self.path / round_name(number), self._manifests[number], "")


def render(view: RenderableType | None, columns: int) -> str:
    """What a terminal of so many columns shows, with the settings of the commands' console."""
    console = Console(file=StringIO(), width=columns, soft_wrap=True, force_terminal=True, color_system=None)
    if view is not None:
        console.print(view)
    assert isinstance(console.file, StringIO)
    return console.file.getvalue()


def inspected(
    columns: int,
    *manifests: Manifest,
    pid: int | None = None,
    sections: Sequence[str] = SECTIONS,
    selection: VmaSelection | None = None,
    order: Order = Order.ADDRESS,
    limit: int | None = None,
) -> str:
    """What `inspect` shows of the last of these rounds, by default everything."""
    subject = subject_of(MemoryCheckpoint(*manifests), pid=pid, selection=selection, order=order)
    return render(shown(subject, View(columns, limit=limit), sections), columns)
