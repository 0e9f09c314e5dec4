"""What CRIU's images say of a process beside memory, threads and open files, as our own record.

What they do not have is empty or 0 in it: see NOT_IN_IMAGES.
"""

from __future__ import annotations

import struct
from collections.abc import Sequence

from formats.criu.images_pb2 import Directories, Memory, ProcessCore, TreeEntry
from formats.criu.images_pb2 import Disposition as DispositionMessage
from formats.criu.images_pb2 import IntervalTimer as IntervalTimerMessage
from formats.criu.images_pb2 import PosixTimer as PosixTimerMessage
from formats.criu.reading.mappings import layout_of
from formats.criu.reading.openfiles import OpenFiles
from formats.criu.reading.threads import pending_of
from formats.manifest import Missing
from formats.processstate import Descriptor, Disposition, IntervalTimer, Limit, Lineage, PosixTimer, ProcessState
from formats.threadstate import Credentials

NOT_IN_IMAGES = Missing(
    what="start times, inode numbers, namespaces, CPUs, ambient capabilities, contents of pipes and sockets",
    reason="CRIU's images have them not, or in files that predump does not read",
)
NOT_IN_PRE_DUMP = Missing(
    what="mappings, names and state of the processes",
    reason="CRIU writes them with its dump; before that, mappings are known from their pages only",
)
_SIGCHLD = 17  # CRIU makes all processes with it
_NO_DISPOSITION = {9, 19}  # SIGKILL, SIGSTOP
_SIGNALS = 64
_LIMITS = 16  # RLIM_NLIMITS
_NS_PER_S = 10**9
_US_PER_S = 10**6


def lineage_of(entry: TreeEntry) -> Lineage:
    """What the tree says of a process."""
    return Lineage(
        process_group=entry.process_group,
        session=entry.session,
        terminal=0,
        exit_signal=_SIGCHLD,
        ns_pids=[],
        ns_process_groups=[],
        ns_sessions=[],
    )


def state_of(
    entry: TreeEntry,
    core: ProcessCore,
    memory: Memory,
    credentials: Credentials,
    directories: Directories,
    descriptors: list[Descriptor],
    files: OpenFiles,
    environment: bytes,
) -> ProcessState:
    """The state of a process, of the messages that are about it."""
    return ProcessState(
        lineage=lineage_of(entry),
        auxv=_auxv(memory.auxv),
        environment=environment,
        layout=layout_of(memory),
        dispositions=_dispositions(core.dispositions),
        pending=pending_of(core.pending.signals),
        posix_timers=[_posix_timer(timer) for timer in core.timers.posix],
        interval_timers=_interval_timers(core),
        limits=[
            Limit(resource=resource, soft=limit.soft, hard=limit.hard)
            for resource, limit in enumerate(core.limits.limits[:_LIMITS])
        ],
        credentials=credentials,
        seccomp_filters=[],
        umask=directories.umask,
        cwd=files.path(directories.cwd_file),
        root=files.path(directories.root_file),
        namespaces=[],
        monotonic_offset_ns=0,
        boottime_offset_ns=0,
        cgroups=[],
        personality=core.personality,
        oom_score_adj=core.oom_score_adj,
        coredump_filter=0,
        thp_disabled=memory.thp_disabled,
        prctl=_settings(core, memory),
        descriptors=descriptors,
    )


def _settings(core: ProcessCore, memory: Memory) -> dict[str, int]:
    """By the names that predump has for what prctl(2) tells."""
    settings = {"dumpable": memory.dumpable} if memory.HasField("dumpable") else {}
    if core.HasField("child_subreaper"):
        settings["child_subreaper"] = int(core.child_subreaper)
    return settings


def _auxv(words: Sequence[int]) -> bytes:
    """The vector with its end mark, which CRIU leaves out."""
    whole = list(words[: len(words) // 2 * 2])
    if not whole:
        return b""
    whole += [] if whole[-2] == 0 else [0, 0]
    return struct.pack(f"<{len(whole)}Q", *whole)


def _dispositions(messages: Sequence[DispositionMessage]) -> list[Disposition]:
    """Those that are not the default; CRIU stores them in the order of the signals."""
    numbers = [number for number in range(1, _SIGNALS + 1) if number not in _NO_DISPOSITION]
    return [
        Disposition(
            number=number,
            handler_addr=message.handler_addr,
            flags=message.flags,
            restorer_addr=message.restorer_addr,
            mask=message.mask,
        )
        for number, message in zip(numbers, messages, strict=False)
        if message.handler_addr or message.flags or message.mask
    ]


def _posix_timer(message: PosixTimerMessage) -> PosixTimer:
    return PosixTimer(
        id=message.id,
        clock=message.clock,
        signal=message.signal,
        value=message.value,
        notify=message.notify,
        tid=message.tid,
        interval_ns=message.interval_s * _NS_PER_S + message.interval_ns,
        remaining_ns=message.remaining_s * _NS_PER_S + message.remaining_ns,
        overruns=message.overruns,
    )


def _interval_timers(core: ProcessCore) -> list[IntervalTimer]:
    if not core.HasField("timers"):
        return []
    timers: list[IntervalTimerMessage] = [core.timers.real, core.timers.virtual, core.timers.profiling]
    return [
        IntervalTimer(
            which=which,
            interval_us=timer.interval_s * _US_PER_S + timer.interval_us,
            remaining_us=timer.remaining_s * _US_PER_S + timer.remaining_us,
        )
        for which, timer in enumerate(timers)
        if any(value for _, value in timer.ListFields())
    ]
