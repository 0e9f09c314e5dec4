"""Manifests of processes that can be restored, for tests to put something in the way."""

from __future__ import annotations

import socket
from dataclasses import replace

from formats.manifest import Manifest, Process
from formats.openfiles import OpenFile, OpenFileKind, Socket
from formats.processstate import Descriptor, MemoryLayout, ProcessState
from formats.threadstate import Thread
from tests.format.images import PID, ImageRound, process_of
from tests.format.samples import DUMP, OPEN_FILE
from tests.states import plain_state

LAYOUT = MemoryLayout(**dict.fromkeys(MemoryLayout.__dataclass_fields__, 4096))
THREAD = Thread(tid=PID, name="t", registers={"cs": 0x33, "rip": 0x1000})
STATE = replace(plain_state(PID, process_group=PID, session=PID), layout=LAYOUT)
PROCESS = replace(process_of(ImageRound({})), threads=[THREAD], state=STATE)
SOCKET = Socket(
    family=socket.AF_INET,
    type=socket.SOCK_STREAM,
    protocol=6,
    state="listen",
    local="",
    peer="",
    local_sockaddr=b"",
    peer_sockaddr=b"",
    options={},
)


def dump_of(*processes: Process, files: tuple[OpenFile, ...] = (), **changes: object) -> Manifest:
    """A dump of these processes, the first of which has all of these files open."""
    first, *others = processes or (PROCESS,)
    if files:
        assert first.state is not None
        descriptors = [Descriptor(fd=3 + n, open_file=item.id, close_on_exec=False) for n, item in enumerate(files)]
        first = replace(first, state=replace(first.state, descriptors=descriptors))
    empty = replace(DUMP, objects=[], pipes=[], ended=[], files=[])
    return replace(empty, processes=[first, *others], open_files=list(files), **changes)


def with_state(**changes: object) -> Process:
    return replace(PROCESS, state=replace(STATE, **changes))


def with_thread(**changes: object) -> Process:
    return replace(PROCESS, threads=[replace(THREAD, **changes)])


def file_of(kind: OpenFileKind, path: str = "/x", **changes: object) -> OpenFile:
    return replace(OPEN_FILE, kind=kind, path=path, deleted=False, object=None, **changes)


def child_of(parent: Process, **changes: object) -> Process:
    state: ProcessState | None = replace(STATE, lineage=replace(STATE.lineage, ns_pids=[PID + 1]))
    return replace(
        PROCESS, pid=PID + 1, ppid=parent.pid, threads=[replace(THREAD, tid=PID + 1)], state=state, **changes
    )
