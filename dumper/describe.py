"""What the manifest says about the host and the process, read from /proc."""

import contextlib
import platform
import socket
import uuid
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path

from dumper.kernel.ptrace import ThreadRegisters
from dumper.output import Figures
from dumper.proc.buildid import build_id
from dumper.proc.stat import read_stat
from dumper.target import Target, gone, read_live_stat
from formats.manifest import Gap, Host, Process, Vma
from formats.threadstate import Thread

MAX_CMDLINE_BYTES = 1 << 20


@cache
def host() -> Host:
    """This machine."""
    return Host(
        boot_id=Path("/proc/sys/kernel/random/boot_id").read_text().strip(),
        hostname=socket.gethostname(),
        kernel_release=platform.release(),
        machine=platform.machine(),
    )


def new_checkpoint_id() -> str:
    """32 hex digits that no other checkpoint has."""
    return uuid.uuid4().hex


def executable(target: Target) -> tuple[str, str]:
    """Path and build id of the executable, "" where it cannot be told."""
    path = identity = ""
    with contextlib.suppress(OSError):
        path = str(Path(f"/proc/{target.tid}/exe").readlink())
    with contextlib.suppress(OSError), Path(f"/proc/{target.tid}/exe").open("rb") as file:
        identity = build_id(file)
    return path, identity


def cmdline(target: Target) -> list[str]:
    """Its arguments; the first MAX_CMDLINE_BYTES of them."""
    with Path(f"/proc/{target.tid}/cmdline").open("rb") as file:
        text = file.read(MAX_CMDLINE_BYTES)
    return [argument.decode("utf-8", "surrogateescape") for argument in text.rstrip(b"\0").split(b"\0")]


def thread_names(target: Target) -> dict[int, str]:
    """The name of each thread."""
    names = {}
    for entry in Path(f"/proc/{target.pid}/task").iterdir():
        with contextlib.suppress(FileNotFoundError, ProcessLookupError):
            names[int(entry.name)] = read_stat(target.pid, int(entry.name)).name
    return names


def threads(names: dict[int, str], registers: Sequence[ThreadRegisters]) -> list[Thread]:
    """Threads with their registers where they were read, by thread id."""
    by_tid = {r.tid: r for r in registers}
    found = []
    for tid in sorted(by_tid or names):
        state = by_tid.get(tid)
        found.append(
            Thread(
                tid=tid,
                name=names.get(tid, ""),
                registers=state.general if state else {},
                fpregs=state.fpregs if state else b"",
                xstate=state.xstate if state else b"",
            )
        )
    return found


@dataclass(frozen=True, slots=True)
class Identity:
    """What /proc says of a process apart from its memory."""

    ppid: int
    name: str
    exe: str
    exe_build_id: str
    cmdline: list[str]
    thread_names: dict[int, str]


def identify(target: Target) -> Identity:
    """Read before the freeze, or the process may be gone when it is asked for. Raises TargetGone."""
    stat = read_live_stat(target.pid)
    try:
        exe, exe_build_id = executable(target)
        return Identity(stat.ppid, stat.name, exe, exe_build_id, cmdline(target), thread_names(target))
    except (FileNotFoundError, ProcessLookupError):
        raise gone(target.pid) from None


def process(
    target: Target,
    identity: Identity,
    *,
    vmas: list[Vma],
    registers: Sequence[ThreadRegisters],
    unreadable: list[Gap],
    figures: Figures,
) -> Process:
    """The process of a round; `figures` are those of its pages."""
    return Process(
        pid=target.pid,
        start_time_ticks=target.start_time_ticks,
        ppid=identity.ppid,
        name=identity.name,
        exe=identity.exe,
        exe_build_id=identity.exe_build_id,
        cmdline=identity.cmdline,
        vmas=vmas,
        threads=threads(identity.thread_names, registers),
        unreadable=unreadable,
        pages_present=figures.pages_present,
        pages_written=figures.pages_written,
        pages_data=figures.pages_data,
        pages_zero=figures.pages_zero,
        pages_parent=figures.pages_parent,
    )
