"""Open files that stand in the way: always (`formats.restorable`), or by what the caller chose about them."""

from __future__ import annotations

import socket
from pathlib import PurePosixPath

from formats.manifest import Manifest
from formats.openfiles import OpenFile, OpenFileKind
from formats.restorable import Obstacle, Verdict
from formats.restorable.openfiles import label, look
from restorer.files.choices import OUTSIDE, FileChoices, OutsideChoice, TcpChoice
from restorer.files.epolls import watched_file
from restorer.files.inetsockets import is_tcp_connection
from restorer.files.pipes import lost_end
from restorer.files.records import FileRecords, is_path_only
from restorer.files.terminals import terminal_problem
from restorer.files.unixsockets import has_peer_outside


def refusals(manifest: Manifest, choices: FileChoices) -> list[Obstacle]:
    """What would be refused when it is opened, known before anything is made; each open file once."""
    records = FileRecords(manifest, choices)
    verdict = Verdict()
    look(manifest, verdict)
    inherited = {
        (holder.pid, label(holder.fd, records.by_id[number]))
        for number in records.inherited
        for holder in records.holders[number]
    }
    for one in records.open_files:
        if reason := _reason(one, records, choices):
            holder = records.holders[one.id][0]
            verdict.stop(holder.pid, label(holder.fd, one), reason)
    return [item for item in verdict.obstacles if (item.pid, item.what) not in inherited]


def _reason(one: OpenFile, records: FileRecords, choices: FileChoices) -> str:
    if one.path.startswith("/") and (".." in PurePosixPath(one.path).parts or "\0" in one.path):
        return "its path is none that the kernel tells"
    if is_path_only(one):
        return ""
    refuses = choices.outside is OutsideChoice.REFUSE
    match one.kind:
        case OpenFileKind.TERMINAL:
            return terminal_problem(one, records, choices)
        case OpenFileKind.PIPE if refuses and lost_end(one, records):
            return OUTSIDE
        case OpenFileKind.SOCKET if refuses and one.socket and one.socket.family == socket.AF_UNIX:
            return OUTSIDE if has_peer_outside(one, records) else ""
        case OpenFileKind.SOCKET if one.socket and is_tcp_connection(one.socket):
            is_lost = one.socket.connection is None and choices.tcp is TcpChoice.RESTORE
            return "the TCP connection is not in the image: it can only be reset (--tcp close)" if is_lost else ""
        case OpenFileKind.EPOLL:
            for watch in one.epoll or []:
                if watched_file(records, one, watch) is None:
                    return f"what it watches by the number {watch.fd}, which has been closed since, is not known"
    return ""
