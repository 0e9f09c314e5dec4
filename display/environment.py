"""What surrounds a process: who it is to others, its rights, its limits, its place in the file system."""

from collections.abc import Iterator
from itertools import chain

from rich.console import RenderableType

from display.credentials import capabilities_text, users_text
from display.listing import block, first_few
from display.names import limit_name, terminal_name
from display.program import COMMAND_COLUMNS, command_text, host_text
from display.threads import cpus_text, process_cpus
from display.units import clip, counted, duration_text
from formats.manifest import Manifest, Process
from formats.processstate import Limit, Lineage, ProcessState

_INFINITY = (1 << 64) - 1
_LIMITS_IN_BYTES = {"FSIZE", "DATA", "STACK", "CORE", "RSS", "MEMLOCK", "AS", "MSGQUEUE"}
_LIMITS_SHOWN = 16
_CGROUPS_SHOWN = 3
_SETTINGS_SHOWN = 8
_NAMESPACES_SHOWN = 10
_WORD_MAX = 40
_PATH_MAX = 300
_SUPPOSED_SETTINGS = {"dumpable": 1, "tsc": 1, "mce_kill": 2, "cpuid": 1}
"""What prctl(2) and arch_prctl(2) tell of a process that never called them, where that is not 0."""
_SETTINGS_OF_THE_CPU = {"xcomp_perm"}
_BINARY_SUFFIXES = ((1 << 30, "G"), (1 << 20, "M"), (1 << 10, "K"))


def _limit_value(value: int, *, is_bytes: bool) -> str:
    if value == _INFINITY:
        return "inf"
    if is_bytes and value > 0:
        for unit, suffix in _BINARY_SUFFIXES:
            if value % unit == 0:
                return f"{value // unit}{suffix}"
    return str(value)


def limit_text(limit: Limit) -> str:
    """A limit as "STACK 8M:inf", soft and hard; one number where they are the same."""
    name = limit_name(limit.resource)
    soft, hard = (_limit_value(value, is_bytes=name in _LIMITS_IN_BYTES) for value in (limit.soft, limit.hard))
    return f"{name} {soft}" if soft == hard else f"{name} {soft}:{hard}"


def _differing_namespaces(manifest: Manifest, state: ProcessState) -> str:
    """Namespaces in which not all processes of the tree are."""
    inodes: dict[str, set[int]] = {}
    for process in manifest.processes:
        for namespace in process.state.namespaces if process.state else ():
            inodes.setdefault(namespace.kind, set()).add(namespace.inode)
    own = [f"{clip(n.kind, _WORD_MAX)} {n.inode}" for n in state.namespaces if len(inodes[n.kind]) > 1]
    return f"{first_few(own, _NAMESPACES_SHOWN)} (not the same in the whole tree)" if own else ""


def _relations(process: Process, lineage: Lineage) -> str:
    parts = [f"parent {process.ppid}", f"group {lineage.process_group}", f"session {lineage.session}"]
    if lineage.terminal:
        parts.append(f"terminal {terminal_name(lineage.terminal)}")
    if len(lineage.ns_pids) > 1:
        parts.append(f"pid {lineage.ns_pids[-1]} in its pid namespace")
    return ", ".join(parts)


def _cgroups(state: ProcessState) -> str:
    """The path; of several hierarchies only where it is not the same in all."""
    paths = {line.split(":", 2)[-1] for line in state.cgroups}
    lines = list(paths) if len(paths) == 1 else state.cgroups
    return first_few([clip(line, _PATH_MAX) for line in lines], _CGROUPS_SHOWN)


def _settings(state: ProcessState) -> str:
    parts = [f"personality {state.personality:#x}"] if state.personality else []
    parts += [f"oom_score_adj {state.oom_score_adj}"] if state.oom_score_adj else []
    parts += ["transparent huge pages off"] if state.thp_disabled else []
    parts += [counted(len(state.seccomp_filters), "seccomp filter")] if state.seccomp_filters else []
    parts += [
        f"{clip(name, _WORD_MAX)} {value}"
        for name, value in state.prctl.items()
        if value != _SUPPOSED_SETTINGS.get(name, 0) and name not in _SETTINGS_OF_THE_CPU
    ]
    return first_few(parts, _SETTINGS_SHOWN)


def _clock_offsets(state: ProcessState) -> str:
    offsets = {"monotonic": state.monotonic_offset_ns, "boottime": state.boottime_offset_ns}
    return ", ".join(f"{name} {'+' if ns > 0 else ''}{duration_text(ns)}" for name, ns in offsets.items() if ns)


def _lines(manifest: Manifest, process: Process, state: ProcessState) -> Iterator[tuple[str, str]]:
    yield "relations", _relations(process, state.lineage)
    yield "users", users_text(state.credentials)
    yield "capabilities", capabilities_text(state.credentials)
    limits = [limit_text(limit) for limit in state.limits if (limit.soft, limit.hard) != (_INFINITY, _INFINITY)]
    yield "limits", first_few(limits, _LIMITS_SHOWN)
    yield "CPUs", cpus_text(process_cpus(process))
    yield "umask", f"{state.umask:04o}"
    yield "directory", clip(state.cwd, _PATH_MAX)
    yield "root", clip(state.root, _PATH_MAX)
    yield "cgroup", _cgroups(state)
    yield "namespaces", _differing_namespaces(manifest, state)
    yield "clocks", _clock_offsets(state)
    yield "settings", _settings(state)
    shared = [f"{clip(what, _WORD_MAX)} with process {pid}" for what, pid in state.shared.items()]
    yield "shared", first_few(shared, _SETTINGS_SHOWN)


def _program(manifest: Manifest, process: Process) -> Iterator[tuple[str, str]]:
    yield "command", command_text(process) or "-"
    build_id = f" (build id {clip(process.exe_build_id, _WORD_MAX)})" if process.exe_build_id else ""
    yield "executable", (clip(process.exe, COMMAND_COLUMNS) or "-") + build_id
    yield "host", host_text(manifest.host)


def environment_block(manifest: Manifest, process: Process, whose: str) -> RenderableType | None:
    """The program and its surroundings; what is not special is left out, and most of it comes with a dump only."""
    state = _lines(manifest, process, process.state) if process.state else ()
    return block(f"Environment{whose}", chain(_program(manifest, process), state))
