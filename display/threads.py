"""The threads of a process: what each one was doing, and what is its own."""

from collections.abc import Iterable, Iterator

from rich.console import RenderableType

from display.credentials import credentials_text
from display.listing import ROWS_MAX, Column, first_few, listing, numbers
from display.names import io_priority_text, policy_name, signal_name, signal_set_text
from display.systemcalls import system_call_name
from display.tree import NAME_MAX
from display.units import clip, counted, duration_text
from formats.manifest import Process
from formats.threadstate import PendingSignal, Restart, Scheduling, SystemCall, Thread

WIDE_COLUMNS = 110  # from here on there is room for the stack pointer
_SIGNALS_SHOWN = 4
_CPU_RANGES_SHOWN = 4
_DEFAULT_IO_PRIORITIES = (0, 2 << 13 | 4)  # ioprio_set(2): none, which means best-effort 4
_DEFAULT_SLACK_NS = 50_000

_RESTARTS = {
    Restart.FINISHED: "finished",
    Restart.AGAIN: "made again",
    Restart.REMAINING: "goes on with the time left",
    Restart.AGAIN_INSTEAD_OF_EINTR: "made again, not EINTR",
}


def pending_text(pending: Iterable[PendingSignal]) -> str:
    """Signals that wait: "SIGUSR1, SIGRTMIN+1 (3 times)"; "" for none."""
    counts: dict[int, int] = {}
    for item in pending:
        counts[item.number] = counts.get(item.number, 0) + 1
    items = [signal_name(number) + (f" ({count:,} times)" if count > 1 else "") for number, count in counts.items()]
    return first_few(items, _SIGNALS_SHOWN)


def cpus_text(cpus: list[int]) -> str:
    """CPU numbers as ranges: "0-3,8"."""
    ranges: list[tuple[int, int]] = []
    for cpu in sorted(cpus):
        if ranges and cpu == ranges[-1][1] + 1:
            ranges[-1] = (ranges[-1][0], cpu)
        else:
            ranges.append((cpu, cpu))
    items = [str(first) if first == last else f"{first}-{last}" for first, last in ranges]
    return first_few(items, _CPU_RANGES_SHOWN, ",")


def scheduling_notes(scheduling: Scheduling) -> list[str]:
    """What of the scheduling is not the default, but for the CPUs."""
    notes = []
    if scheduling.policy:
        text = policy_name(scheduling.policy)
        if scheduling.priority:
            text += f" priority {scheduling.priority}"
        if scheduling.period_ns:
            times = (scheduling.runtime_ns, scheduling.deadline_ns, scheduling.period_ns)
            text += " " + "/".join(duration_text(ns) for ns in times)
        notes.append(text)
    if scheduling.flags:
        notes.append(f"scheduling flags {scheduling.flags:#x}")
    if scheduling.nice:
        notes.append(f"nice {scheduling.nice}")
    if scheduling.io_priority not in _DEFAULT_IO_PRIORITIES:
        notes.append(f"I/O {io_priority_text(scheduling.io_priority)}")
    if scheduling.timer_slack_ns not in (0, _DEFAULT_SLACK_NS):
        notes.append(f"timer slack {duration_text(scheduling.timer_slack_ns)}")
    return notes


def seccomp_text(thread: Thread) -> str:
    """seccomp(2) in words, "" where there is none."""
    if thread.seccomp_mode == 0:
        return ""
    if thread.seccomp_mode == 1:
        return "seccomp strict"
    return f"seccomp, {counted(len(thread.seccomp_filters), 'filter')}"


def call_text(call: SystemCall | None) -> str:
    """A system call that a thread was in, and how it goes on; "-" for none."""
    return f"{system_call_name(call.number)}, {_RESTARTS[call.restart]}" if call else "-"


def thread_notes(thread: Thread, process_cpus: list[int]) -> Iterator[str]:
    """What of a thread's state is out of the ordinary, in words."""
    if thread.signal_mask:
        yield f"blocks {signal_set_text(thread.signal_mask)}"
    if thread.pending:
        yield f"pending {pending_text(thread.pending)}"
    if thread.scheduling:
        yield from scheduling_notes(thread.scheduling)
        if thread.scheduling.cpus != process_cpus:
            yield f"CPUs {cpus_text(thread.scheduling.cpus)}"
    if thread.seccomp_mode:
        yield seccomp_text(thread)
    if thread.parent_death_signal:
        yield f"{signal_name(thread.parent_death_signal)} when its parent dies"
    if thread.rseq and thread.rseq.abort_addr:
        yield "stopped in an rseq section"
    if thread.credentials:
        yield f"own credentials: {credentials_text(thread.credentials)}"
    if len(thread.ns_tids) > 1:
        yield f"tid {thread.ns_tids[-1]} inside"


def process_cpus(process: Process) -> list[int]:
    """The CPUs of its main thread."""
    scheduling = process.threads[0].scheduling if process.threads else None
    return scheduling.cpus if scheduling else []


def threads_table(process: Process, whose: str, columns: int, rows_max: int = ROWS_MAX) -> RenderableType | None:
    """One line a thread; what it was doing stands in dump rounds only."""
    pointers = ("rip", "rsp") if columns >= WIDE_COLUMNS else ("rip",)
    cpus = process_cpus(process)
    has_state = any(thread.registers for thread in process.threads)

    def row(thread: Thread) -> tuple[str, ...]:
        values = (f"{thread.registers[name]:#x}" if name in thread.registers else "-" for name in pointers)
        state = (*values, call_text(thread.system_call), "; ".join(thread_notes(thread, cpus))) if has_state else ()
        return str(thread.tid), clip(thread.name, NAME_MAX), *state

    state_columns = (*map(Column, pointers), Column("system call", wraps=True), Column("state", wraps=True))
    head = (*numbers("tid"), Column("name"), *(state_columns if has_state else ()))
    return listing(f"Threads{whose}", head, map(row, process.threads), len(process.threads), rows_max)
