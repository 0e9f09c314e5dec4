"""What is not memory of a process in two rounds: record by record, field by field.

Records that come in lists have a name of their own (a thread its tid, a descriptor its number), by which one of the
earlier round is found in the later one.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Container, Iterator, Mapping
from dataclasses import dataclass, replace
from enum import StrEnum
from typing import TypeVar

from analysis.diff.processes import ProcessPair
from analysis.diff.vmas import is_same_process
from formats.manifest import Manifest, Process
from formats.openfiles import OpenFile, Pipe
from formats.processstate import Disposition, IntervalTimer, Limit, PosixTimer, ProcessState, Zombie
from formats.threadstate import PendingSignal, SystemCall

Key = TypeVar("Key")
Value = TypeVar("Value")
Timer = PosixTimer | IntervalTimer


class Subject(StrEnum):
    """What a change is of."""

    PROCESS = "process"
    THREAD = "thread"
    FILE = "file"
    SIGNAL = "signal"
    TIMER = "timer"
    LIMIT = "limit"
    VARIABLE = "variable"


@dataclass(frozen=True, slots=True)
class StateChange:
    """A field of a record, `name` of the subject's kind; all of the record, with field "", that came or is gone (None).

    `field` is that of formats.threadstate, .processstate or .openfiles, such as "registers.rip". `before` and `after`
    are as in the records, whole ones where they mean something only as a whole.
    """

    subject: Subject
    name: str
    field: str
    before: object
    after: object


@dataclass(frozen=True, slots=True)
class OpenDescriptor:
    """A descriptor with what it is open for, and what lies in that if it is a pipe."""

    close_on_exec: bool
    file: OpenFile | None
    pipe: Pipe | None


_WHOLE = (Limit, PendingSignal, SystemCall, Zombie)
_COUNTS_DOWN = "remaining_ns"
_OF_PROCESS = ("name", "exe", "exe_build_id", "cmdline", "ppid", "zombie")
_OF_STATE = {  # what is compared by itself
    "auxv",  # never changes, but with the program
    "descriptors",
    "dispositions",
    "environment",
    "interval_timers",
    "limits",
    "locks",
    "namespaces",
    "posix_timers",
}
_OF_FILE = {"id", "object", "mount_id"}  # numbers that each round, or each boot, gives anew
_IDENTITY = ("kind", "path", "device", "inode", "special", "pid")


def state_changes(rounds: tuple[Manifest, Manifest], pair: ProcessPair) -> Iterator[StateChange]:
    """All changes of a process that is in both rounds, its threads first; nothing for one that is not.

    Where one of the rounds is a pre-dump, which takes no state, threads are told by their ids and names.
    """
    before, after = pair
    if before is None or after is None:
        return
    yield from _thread_changes(before, after)
    for name in _OF_PROCESS:
        yield from _changes(Subject.PROCESS, "", name, getattr(before, name), getattr(after, name))
    if before.state is None or after.state is None:
        return
    old, new = before.state, after.state
    descriptors = _descriptors(rounds[0], old), _descriptors(rounds[1], new)
    for fd, was, became in _in_both(*descriptors):
        yield from _descriptor_changes(str(fd), was, became)
    yield from _keyed(Subject.SIGNAL, _dispositions(old), _dispositions(new))
    yield from _timer_changes(_timers(old), _timers(new))
    yield from _keyed(Subject.LIMIT, *({str(item.resource): item for item in s.limits} for s in (old, new)))
    yield from _keyed(Subject.VARIABLE, _variables(old.environment), _variables(new.environment))
    spaces = ({space.kind: space.inode for space in s.namespaces} for s in (old, new))
    yield from _changes(Subject.PROCESS, "", "namespaces", *spaces)
    yield from _changes(Subject.PROCESS, "", "locks", old.locks, new.locks)
    yield from _field_changes(Subject.PROCESS, "", "", old, new, _OF_STATE)


def _thread_changes(before: Process, after: Process) -> Iterator[StateChange]:
    has_state = before.state is not None and after.state is not None
    by_tid = is_same_process(before, after)
    threads = [
        {(thread.tid if by_tid else n): thread for n, thread in enumerate(process.threads)}
        for process in (before, after)
    ]
    for _, old, new in _in_both(*threads):
        thread = new or old
        assert thread is not None
        name = str(thread.tid)
        if old is None or new is None:
            yield StateChange(Subject.THREAD, name, "", old, new)
        elif has_state:
            ids = {"tid", "ns_tids"} if not by_tid else set[str]()
            # The floating point registers are a part of the extended state.
            yield from _field_changes(Subject.THREAD, name, "", old, new, ids | ({"fpregs"} if old.xstate else set()))
        else:
            yield from _changes(Subject.THREAD, name, "name", old.name, new.name)


def _descriptor_changes(fd: str, old: OpenDescriptor | None, new: OpenDescriptor | None) -> Iterator[StateChange]:
    was, became = old and old.file, new and new.file
    if not old or not new or not was or not became or _identity(was) != _identity(became):
        if old != new:
            yield StateChange(Subject.FILE, fd, "", old, new)
        return
    yield from _changes(Subject.FILE, fd, "close_on_exec", old.close_on_exec, new.close_on_exec)
    yield from _field_changes(Subject.FILE, fd, "", was, became, _OF_FILE)
    yield from _changes(Subject.FILE, fd, "pipe", old.pipe, new.pipe)


def _identity(file: OpenFile) -> tuple[object, ...]:
    return tuple(getattr(file, name) for name in _IDENTITY)


def _descriptors(manifest: Manifest, state: ProcessState) -> dict[int, OpenDescriptor]:
    files = {item.id: item for item in manifest.open_files}
    pipes = {(pipe.device, pipe.inode): pipe for pipe in manifest.pipes}
    found = {}
    for item in state.descriptors:
        file = files.get(item.open_file)
        pipe = pipes.get((file.device, file.inode)) if file else None
        found[item.fd] = OpenDescriptor(item.close_on_exec, file, pipe)
    return found


def _dispositions(state: ProcessState) -> dict[str, Disposition]:
    """Those that are not the default."""
    return {str(item.number): item for item in state.dispositions if item.handler_addr}


def _timers(state: ProcessState) -> dict[str, Timer]:
    posix: dict[str, Timer] = {f"timer {timer.id}": timer for timer in state.posix_timers}
    running = [timer for timer in state.interval_timers if timer.remaining_us or timer.interval_us]
    return posix | {f"interval timer {timer.which}": timer for timer in running}


def _timer_changes(before: Mapping[str, Timer], after: Mapping[str, Timer]) -> Iterator[StateChange]:
    for name, old, new in _in_both(before, after):
        if old is None or new is None or _as_set(old) != _as_set(new):
            yield StateChange(Subject.TIMER, name, "", old, new)


def _as_set(timer: Timer) -> Timer:
    """Without what passes by itself: that a timer that runs has less time left is nothing new."""
    if isinstance(timer, PosixTimer):
        return replace(timer, remaining_ns=bool(timer.remaining_ns), overruns=0)
    return replace(timer, remaining_us=bool(timer.remaining_us))


def _variables(environment: bytes) -> dict[str, str]:
    text = environment.decode(errors="surrogateescape")
    pairs = (entry.partition("=") for entry in text.split("\0") if entry)
    return {name: value for name, _, value in pairs}


def _changes(subject: Subject, name: str, field: str, before: object, after: object) -> Iterator[StateChange]:
    if before == after:
        return
    if isinstance(before, dict) and isinstance(after, dict):
        for key, old, new in _in_both(before, after):
            yield from _changes(subject, name, f"{field}.{key}" if field else str(key), old, new)
    elif dataclasses.is_dataclass(before) and type(before) is type(after) and not isinstance(before, _WHOLE):
        yield from _field_changes(subject, name, field, before, after)
    elif not (field.endswith(_COUNTS_DOWN) and before and after):
        yield StateChange(subject, name, field, before, after)


def _field_changes(
    subject: Subject, name: str, prefix: str, before: object, after: object, left_out: Container[str] = ()
) -> Iterator[StateChange]:
    """Of two records of one type."""
    assert dataclasses.is_dataclass(before)
    for field in dataclasses.fields(before):
        if field.name not in left_out:
            path = f"{prefix}.{field.name}" if prefix else field.name
            yield from _changes(subject, name, path, getattr(before, field.name), getattr(after, field.name))


def _keyed(subject: Subject, before: Mapping[str, object], after: Mapping[str, object]) -> Iterator[StateChange]:
    for name, old, new in _in_both(before, after):
        yield from _changes(subject, name, "", old, new)


def _in_both(
    before: Mapping[Key, Value], after: Mapping[Key, Value]
) -> Iterator[tuple[Key, Value | None, Value | None]]:
    """What is there under each key, None where there is nothing; in the order of before, what came at the end."""
    for key, value in before.items():
        yield key, value, after.get(key)
    for key, value in after.items():
        if key not in before:
            yield key, None, value
