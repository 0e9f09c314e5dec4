"""What must hold in a manifest for the state of processes and threads and for open files."""

from __future__ import annotations

from collections.abc import Hashable, Iterable, Iterator
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from formats.manifest import Manifest, Process
    from formats.openfiles import OpenFile, Socket, TcpConnection
    from formats.processstate import ProcessState
    from formats.threadstate import Credentials, PendingSignal, Thread

_SIGINFO_BYTES = 128
_ARGUMENTS = 6
_ID_KINDS = 4
_SOCKADDR_BYTES = {2: 16, 10: 28}  # AF_INET, AF_INET6
_WINDOW_NUMBERS = 5
_WINDOW_SCALE_MAX = 14  # RFC 7323
_MSS_MAX = (1 << 16) - 1


def problems_of_state(manifest: Manifest, object_ids: set[int]) -> Iterator[str]:
    """What is wrong, as half sentences; `object_ids` are those of the round's memory objects."""
    yield from _problems_of_open_files(manifest.open_files, object_ids)
    if has_twice((pipe.device, pipe.inode) for pipe in manifest.pipes):
        yield "it has a pipe twice"
    if any(pipe.capacity_bytes < 0 for pipe in manifest.pipes):
        yield "it has a pipe of a negative capacity"
    if has_twice((item.pid, item.start_time_ticks) for item in manifest.ended):
        yield "it has an ended process twice"
    open_file_ids = {item.id for item in manifest.open_files}
    for process in manifest.processes:
        yield from _problems_of_process(process, open_file_ids)


def has_twice(keys: Iterable[Hashable]) -> bool:
    """Whether a key occurs more than once."""
    keys = list(keys)
    return len(set(keys)) != len(keys)


def _problems_of_open_files(open_files: list[OpenFile], object_ids: set[int]) -> Iterator[str]:
    if has_twice(item.id for item in open_files):
        yield "it has an open file's id twice"
    for item in open_files:
        if item.id < 0:
            yield f"open file {item.id} is not an id"
        if item.object is not None and item.object not in object_ids:
            yield f"open file {item.id} refers to object {item.object}, which is not in it"
        if item.socket and item.socket.connection:
            yield from _problems_of_connection(item.socket, item.socket.connection, f"open file {item.id}")


def _problems_of_connection(socket: Socket, connection: TcpConnection, where: str) -> Iterator[str]:
    n_bytes = _SOCKADDR_BYTES.get(socket.family)
    if any(len(address) != n_bytes for address in (socket.local_sockaddr, socket.peer_sockaddr)):
        yield f"{where} is a TCP connection without two addresses of its family"
    numbers = [connection.receive_sequence, connection.send_sequence, connection.timestamp or 0, *connection.window]
    if len(connection.window) != _WINDOW_NUMBERS or not all(0 <= number < 1 << 32 for number in numbers):
        yield f"{where} is a TCP connection with an impossible sequence number, time or window"
    if not 0 <= connection.unsent_bytes <= len(connection.sent):
        yield f"{where} is a TCP connection that has more bytes to send than it has"
    if not 0 < connection.mss <= _MSS_MAX:
        yield f"{where} is a TCP connection with an impossible segment size"
    scales = (connection.send_window_scale, connection.receive_window_scale)
    if scales != (-1, -1) and not all(0 <= scale <= _WINDOW_SCALE_MAX for scale in scales):
        yield f"{where} is a TCP connection with an impossible window scale"


def _problems_of_process(process: Process, open_file_ids: set[int]) -> Iterator[str]:
    where = f"process {process.pid}"
    n_filters = 0
    if process.state is not None:
        n_filters = len(process.state.seccomp_filters)
        yield from _problems_of_process_state(process.state, where, open_file_ids)
    for thread in process.threads:
        yield from _problems_of_thread(thread, f"thread {thread.tid} of {where}", n_filters)


def _problems_of_process_state(state: ProcessState, where: str, open_file_ids: set[int]) -> Iterator[str]:
    if has_twice(item.fd for item in state.descriptors):
        yield f"{where} has a descriptor twice"
    for descriptor in state.descriptors:
        if descriptor.fd < 0:
            yield f"{where}: {descriptor.fd} is not a descriptor"
        if descriptor.open_file not in open_file_ids:
            yield f"{where}: descriptor {descriptor.fd} refers to open file {descriptor.open_file}, which is not in it"
    for what, numbers in (
        ("a timer", [timer.id for timer in state.posix_timers]),
        ("an interval timer", [timer.which for timer in state.interval_timers]),
        ("a signal's disposition", [item.number for item in state.dispositions]),
        ("a limit", [limit.resource for limit in state.limits]),
    ):
        if has_twice(numbers):
            yield f"{where} has {what} twice"
    yield from _problems_of_signals(state.pending, where)
    yield from _problems_of_credentials(state.credentials, where)


def _problems_of_thread(thread: Thread, where: str, n_filters: int) -> Iterator[str]:
    if not all(0 <= index < n_filters for index in thread.seccomp_filters):
        yield f"{where} refers to a seccomp filter that its process does not have"
    if thread.system_call is not None and len(thread.system_call.arguments) != _ARGUMENTS:
        yield f"{where} has a system call without its {_ARGUMENTS} arguments"
    yield from _problems_of_signals(thread.pending, where)
    if thread.credentials is not None:
        yield from _problems_of_credentials(thread.credentials, where)


def _problems_of_signals(pending: list[PendingSignal], where: str) -> Iterator[str]:
    if any(len(signal.siginfo) != _SIGINFO_BYTES for signal in pending):
        yield f"{where} has a pending signal whose siginfo is not {_SIGINFO_BYTES} bytes"


def _problems_of_credentials(credentials: Credentials, where: str) -> Iterator[str]:
    if len(credentials.uids) != _ID_KINDS or len(credentials.gids) != _ID_KINDS:
        yield f"{where} lacks one of its {_ID_KINDS} user or group ids"
