"""Manifests that are sound: a pre-dump, and a dump with one of each record."""

from __future__ import annotations

from dataclasses import replace

from formats.layout import pagemap_name, pages_name
from formats.manifest import (
    Clocks,
    EndedProcess,
    FileEntry,
    Gap,
    PageRange,
    Parent,
    RoundKind,
)
from formats.openfiles import OpenFile, OpenFileKind, Pipe
from formats.processstate import Descriptor, Disposition, IntervalTimer, Limit, Namespace, PosixTimer
from formats.threadstate import PendingSignal, Restart, SystemCall, Thread
from tests.format.images import BASE_ADDR, PID, ImageObject, ImageRound, manifest_of, object_vma, process_of, vma_of
from tests.states import plain_credentials, plain_state, zombie_of

SHA256 = "ab" * 32
FILES = [
    FileEntry(name=name, stored_bytes=17, sha256=SHA256, seek_table_sha256=SHA256)
    for name in (pages_name(PID), pagemap_name(PID))
]
PROCESS = replace(
    process_of(ImageRound({}, vmas=(vma_of(0, 8), vma_of(8, 9, "file", "/tmp/\udcff\u00e9")))),
    cmdline=["target", "\udc80"],
    threads=[Thread(tid=PID, name="t", registers={"rip": 2**64 - 1}, fpregs=b"\0\xff", xstate=b"x")],
    unreadable=[Gap(start_addr=BASE_ADDR, end_addr=BASE_ADDR + 4096, reason="device")],
)
MANIFEST = replace(manifest_of(3, PROCESS, Parent(round=2, sha256=SHA256)), files=FILES, full_reason="")


OBJECT = ImageObject(1, {}, 8 * 4096, "memfd").record()
OPEN_FILE = OpenFile(
    id=3,
    kind=OpenFileKind.MEMFD,
    path="/memfd:x",
    deleted=True,
    flags=2,
    offset=0,
    device="00:01",
    inode=1001,
    mode=0o100777,
    size_bytes=8 * 4096,
    mount_id=1,
    object=1,
)
CREDENTIALS = plain_credentials()
SIGNAL = PendingSignal(number=10, siginfo=bytes(128))
STATE = replace(
    plain_state(PID, process_group=PID, session=PID),
    environment=b"A=b",
    dispositions=[Disposition(number=15, handler_addr=1, flags=0, restorer_addr=0, mask=0)],
    pending=[SIGNAL],
    posix_timers=[
        PosixTimer(id=5, clock=1, signal=14, value=0, notify=0, tid=0, interval_ns=0, remaining_ns=0, overruns=0)
    ],
    interval_timers=[IntervalTimer(which=0, interval_us=0, remaining_us=5)],
    limits=[Limit(resource=7, soft=1024, hard=2**64 - 1)],
    seccomp_filters=[b"12345678"],
    namespaces=[Namespace(kind="pid", inode=1)],
    cgroups=["0::/"],
    descriptors=[Descriptor(fd=4, open_file=3, close_on_exec=True)],
)
THREAD = Thread(
    tid=PID,
    name="t",
    pending=[SIGNAL],
    system_call=SystemCall(number=35, arguments=[0] * 6, restart=Restart.REMAINING),
    seccomp_filters=[0],
    credentials=CREDENTIALS,
)
DUMP_PROCESS = replace(
    PROCESS,
    vmas=[object_vma(0, 8, 1), vma_of(8, 9)],
    threads=[THREAD],
    state=STATE,
    guards=[PageRange(start_addr=BASE_ADDR, end_addr=BASE_ADDR + 4096)],
)
ZOMBIE = replace(process_of(ImageRound({}, vmas=())), pid=PID + 1, zombie=zombie_of(PID + 1, 256))
DUMP = replace(
    MANIFEST,
    kind=RoundKind.DUMP,
    processes=[DUMP_PROCESS, ZOMBIE],
    objects=[OBJECT],
    open_files=[OPEN_FILE],
    pipes=[Pipe(device="00:0e", inode=7, capacity_bytes=65536, content=b"x")],
    ended=[EndedProcess(pid=7, start_time_ticks=1, name="gone")],
    clocks=Clocks(realtime_ns=1, monotonic_ns=2, boottime_ns=3),
    files=[
        replace(FILES[0], name=name)
        for name in ("pages-42.zst", "pagemap-42.zst", "pages-object-1.zst", "pagemap-object-1.zst")
    ],
)
