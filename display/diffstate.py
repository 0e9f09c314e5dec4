"""Changes of state in words: what it is of, what it was, what it is."""

from collections.abc import Callable, Iterable
from dataclasses import is_dataclass

from analysis.diff.state import OpenDescriptor, StateChange, Subject
from display.environment import limit_text
from display.listing import CELL_MAX
from display.names import (
    capability_set_text,
    interval_timer_name,
    limit_name,
    open_flag_names,
    sigaction_flag_names,
    signal_name,
    signal_set_text,
)
from display.openfiles import kind_text, what_text
from display.signals import interval_timer_text, posix_timer_text
from display.threads import call_text, pending_text
from display.units import bytes_text, clip, counted
from formats.openfiles import Pipe
from formats.processstate import Disposition, IntervalTimer, Limit, PosixTimer
from formats.threadstate import PendingSignal, SystemCall, Thread

_NOTHING = "-"
_WORDS_MAX = 20
_HANDLERS = {0: "default", 1: "ignored"}
_N_ARGUMENTS = 6
_EXTENDED = {"xstate", "fpregs"}


def _handler(addr: int) -> str:
    return _HANDLERS.get(addr, f"{addr:#x}")


_NUMBERS: dict[str, Callable[[int], str]] = {
    "signal_mask": signal_set_text,
    "mask": signal_set_text,
    "signalfd_mask": signal_set_text,
    "handler_addr": _handler,
    "umask": lambda mask: f"{mask:04o}",
    "mode": lambda mode: f"{mode:o}",
    "personality": hex,
    "coredump_filter": hex,
    "parent_death_signal": lambda number: signal_name(number) if number else "none",
}
"""By the last word of a field's name."""


def change_rows(changes: Iterable[StateChange]) -> list[tuple[str, str, str]]:
    """What changed, before, after: a line each."""
    return [(_what(change), *_sides(change)) for change in changes]


def _sides(change: StateChange) -> tuple[str, str]:
    before, after = change.before, change.after
    if isinstance(before, bytes) and isinstance(after, bytes):
        sizes = bytes_text(len(before)), bytes_text(len(after))
        return sizes if sizes[0] != sizes[1] else (_NOTHING, "changed")
    return _value(change, before), _value(change, after)


def _what(change: StateChange) -> str:
    field = change.field.removeprefix("registers.").removesuffix("_addr").replace("_", " ").replace(".", " ")
    match change.subject:
        case Subject.PROCESS:
            return field
        case Subject.SIGNAL:
            owner = signal_name(int(change.name))
        case Subject.LIMIT:
            owner = f"limit {limit_name(int(change.name))}"
        case Subject.FILE:
            owner = f"fd {change.name}"
        case Subject.TIMER:
            kind, _, number = change.name.rpartition(" ")
            owner = interval_timer_name(int(number)) if kind.startswith("interval") else change.name
        case Subject.VARIABLE:
            owner = f"${clip(change.name, CELL_MAX)}"
        case Subject.THREAD:
            owner = f"thread {change.name}"
            field = "extended registers" if field in _EXTENDED else field
    return f"{owner} {field}" if field else owner


def _value(change: StateChange, value: object) -> str:
    """One of the two sides."""
    if value is None:
        return "default" if change.subject is Subject.SIGNAL else _NOTHING
    last = change.field.rpartition(".")[2]
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, int):
        return _number(change, last, value)
    if isinstance(value, str):
        return clip(value, CELL_MAX) or _NOTHING
    if isinstance(value, bytes):
        return bytes_text(len(value))
    if isinstance(value, list):
        return _list(value)
    return _record(value)


def _number(change: StateChange, last: str, value: int) -> str:
    if last in _NUMBERS:
        return _NUMBERS[last](value)
    if last.startswith("cap_"):
        return capability_set_text(value)
    if last == "flags" and change.subject is Subject.FILE:
        return "|".join(open_flag_names(value))
    if last == "flags" and change.subject is Subject.SIGNAL:
        return " ".join(sigaction_flag_names(value)) or _NOTHING
    if last.endswith("_bytes"):
        return bytes_text(value)
    if last.endswith("_addr") or change.field.startswith("registers."):
        return f"{value:#x}"
    return str(value)


def _list(values: list[object]) -> str:
    signals = [value for value in values if isinstance(value, PendingSignal)]
    if signals:
        return pending_text(signals)
    if any(is_dataclass(value) or isinstance(value, bytes) for value in values):
        return counted(len(values), "entry", "entries")
    words = [clip(str(value), CELL_MAX) for value in values[:_WORDS_MAX]]
    return (" ".join(words) + (" ..." if len(values) > _WORDS_MAX else "")) or _NOTHING


def _record(value: object) -> str:
    match value:
        case Thread():
            doing = f", in {call_text(value.system_call)}" if value.system_call else ""
            return clip(value.name, CELL_MAX) + doing
        case OpenDescriptor(file=None):
            return "open"
        case OpenDescriptor():
            return _open_file(value)
        case Disposition():
            return _handler(value.handler_addr)
        case Limit():
            return limit_text(value).partition(" ")[2]
        case PosixTimer():
            return posix_timer_text(value)[1]
        case IntervalTimer():
            return interval_timer_text(value)[1]
        case SystemCall():
            arguments = ", ".join(f"{argument:#x}" for argument in value.arguments[:_N_ARGUMENTS])
            return f"{call_text(value)} ({arguments})"
        case Pipe():
            return f"{bytes_text(len(value.content))} in it"
    return "there" if is_dataclass(value) else clip(str(value), CELL_MAX)


def _open_file(value: OpenDescriptor) -> str:
    assert value.file is not None
    flags = "|".join(open_flag_names(value.file.flags, close_on_exec=value.close_on_exec))
    return f"{kind_text(value.file)} {what_text(value.file)} {flags}"
