"""Changes of state, on records made by hand."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import fields, replace

from analysis.diff.processes import ProcessPair
from analysis.diff.state import OpenDescriptor, state_changes
from formats.manifest import Manifest, Process
from formats.openfiles import OpenFile, Pipe
from formats.processstate import Descriptor, Disposition, IntervalTimer, Limit, PosixTimer, ProcessState
from formats.threadstate import SystemCall, Thread
from tests.display import samples
from tests.display.samples import SERVER, file_of, manifest_of, process_of, server, state_of, thread_of

Shown = tuple[str, str, str, object, object]


def changes(before: Process, after: Process, rounds: tuple[Manifest, Manifest] | None = None) -> list[Shown]:
    rounds = rounds or (manifest_of(before), manifest_of(after))
    found = state_changes(rounds, ProcessPair(before, after))
    return [(one.subject.value, one.name, one.field, one.before, one.after) for one in found]


def with_state(**changed: object) -> Process:
    return process_of(SERVER, 1, "server", replace(state_of(SERVER), **changed))


PLAIN = with_state()


def test_nothing() -> None:
    assert changes(server(), server()) == []


def test_threads_that_came_and_ended() -> None:
    one, two = thread_of(5), thread_of(6)
    assert changes(replace(PLAIN, threads=[one]), replace(PLAIN, threads=[two])) == [
        ("thread", "5", "", one, None),
        ("thread", "6", "", None, two),
    ]


def test_a_thread() -> None:
    thread = thread_of(5)
    call = SystemCall(number=35, arguments=[0] * 6, restart=thread.system_call.restart) if thread.system_call else None
    registers = {**thread.registers, "rip": 7}
    other = replace(
        thread,
        registers=registers,
        xstate=b"other",
        fpregs=b"other, too",
        signal_mask=3,
        system_call=call,
        scheduling=samples.scheduling_of(nice=5),
    )
    assert changes(replace(PLAIN, threads=[thread]), replace(PLAIN, threads=[other])) == [
        ("thread", "5", "registers.rip", thread.registers["rip"], 7),
        ("thread", "5", "xstate", thread.xstate, b"other"),
        ("thread", "5", "signal_mask", 0, 3),
        ("thread", "5", "scheduling.nice", 0, 5),
        ("thread", "5", "system_call", thread.system_call, call),
    ]


def test_a_pre_dump_has_no_state_that_could_change() -> None:
    early = replace(process_of(SERVER, 1, "server"), threads=[Thread(tid=SERVER, name="old"), Thread(tid=9, name="x")])
    assert changes(early, PLAIN) == [
        ("thread", str(SERVER), "name", "old", "server"),
        ("thread", "9", "", early.threads[1], None),
    ]


def test_threads_of_another_process_are_told_by_their_order() -> None:
    other = replace(PLAIN, pid=99, start_time_ticks=3, threads=[thread_of(99), thread_of(100)])
    before = replace(PLAIN, threads=[thread_of(SERVER), thread_of(SERVER + 1)])
    assert [one for one in changes(before, other) if one[0] == "thread"] == []


def open_files(files: Mapping[int, OpenFile], pipes: tuple[Pipe, ...] = ()) -> tuple[Process, Manifest]:
    """A process with these files open, by descriptor."""
    descriptors = [Descriptor(fd=fd, open_file=file.id, close_on_exec=False) for fd, file in files.items()]
    process = with_state(descriptors=descriptors)
    return process, manifest_of(process, open_files=list(files.values()), pipes=list(pipes))


def test_files() -> None:
    """By descriptor and by what is open: the ids of the rounds' tables tell nothing."""
    log = file_of(1, path="/log", offset=100)
    before, first = open_files({3: log, 4: file_of(2, path="/a"), 5: file_of(3, path="/b")})
    moved = replace(log, id=7, offset=140, size_bytes=140)
    reopened = file_of(9, path="/c")
    after, second = open_files({3: moved, 5: reopened, 6: file_of(8, path="/d", flags=0)})
    found = changes(before, after, (first, second))
    assert [one[:3] for one in found] == [
        ("file", "3", "offset"),
        ("file", "3", "size_bytes"),
        ("file", "4", ""),
        ("file", "5", ""),
        ("file", "6", ""),
    ]
    assert found[0][3:] == (100, 140)
    assert found[2][4] is None
    assert found[4][3] is None
    reopening = found[3][4]
    assert isinstance(reopening, OpenDescriptor)
    assert reopening.file == reopened


def test_what_lies_in_a_pipe() -> None:
    pipe = Pipe(device="00:0f", inode=77, capacity_bytes=65536, content=b"old")
    end = file_of(1, samples.OpenFileKind.PIPE, "pipe:[77]", inode=77)
    before, first = open_files({3: end}, (pipe,))
    after, second = open_files({3: end}, (replace(pipe, content=b"new"),))
    assert changes(before, after, (first, second)) == [("file", "3", "pipe.content", b"old", b"new")]


def test_signals_limits_and_variables() -> None:
    handler = Disposition(number=15, handler_addr=0x1000, flags=4, restorer_addr=1, mask=0)
    limit = Limit(resource=7, soft=1024, hard=4096)
    before = with_state(dispositions=[handler], limits=[limit], environment=b"A=1\0B=2\0C=x\0")
    after = with_state(
        dispositions=[replace(handler, mask=1), replace(handler, number=16)],
        limits=[replace(limit, soft=4096)],
        environment=b"A=1\0B=3\0D=\0",
    )
    assert changes(before, after) == [
        ("signal", "15", "mask", 0, 1),
        ("signal", "16", "", None, replace(handler, number=16)),
        ("limit", "7", "", limit, replace(limit, soft=4096)),
        ("variable", "B", "", "2", "3"),
        ("variable", "C", "", "x", None),
        ("variable", "D", "", None, ""),
    ]


def test_a_timer_that_runs_is_no_news() -> None:
    timer = PosixTimer(id=1, clock=1, signal=14, value=0, notify=0, tid=0, interval_ns=9, remaining_ns=1000, overruns=0)
    interval = IntervalTimer(which=0, interval_us=0, remaining_us=500)
    before = with_state(posix_timers=[timer], interval_timers=[interval])
    later = with_state(
        posix_timers=[replace(timer, remaining_ns=3, overruns=2)], interval_timers=[replace(interval, remaining_us=7)]
    )
    disarmed = replace(timer, remaining_ns=0)
    assert changes(before, later) == []
    assert changes(before, with_state(posix_timers=[disarmed], interval_timers=[interval])) == [
        ("timer", "timer 1", "", timer, disarmed)
    ]


def test_every_field_of_the_state_is_compared() -> None:
    """Whatever a later version adds to the records."""
    state = server().state
    assert state is not None
    unseen = []
    for field in fields(ProcessState):
        value = getattr(state, field.name)
        other = _another(value)
        found = changes(with_state(**{field.name: value}), with_state(**{field.name: other}))
        unseen += [field.name] if not found and value != other else []
    assert unseen == ["auxv"]  # which execve sets once; what it tells is told by the mappings


def _another(value: object) -> object:
    match value:
        case bool():
            return not value
        case int():
            return value + 1
        case str():
            return value + "x"
        case bytes():
            return value + b"NEW=1\0"
        case list():
            return value[1:]
        case dict():
            return {**value, "new": 1}
        case None:
            return samples.credentials_of()
    changed = next(field.name for field in fields(value) if isinstance(getattr(value, field.name), int))
    return replace(value, **{changed: getattr(value, changed) + 1})


def test_credentials_and_what_is_set_once() -> None:
    after = with_state(credentials=samples.credentials_of(uid=5), cwd="/", umask=0o77, prctl={"dumpable": 0})
    found = {one[2]: one[4] for one in changes(PLAIN, after)}
    assert found["credentials.uids"] == [5] * 4
    assert (found["cwd"], found["umask"], found["prctl.dumpable"]) == ("/", 0o77, 0)
