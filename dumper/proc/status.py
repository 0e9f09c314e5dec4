"""/proc/PID/status: proc_pid_status(5)."""

import re
from dataclasses import dataclass
from pathlib import Path

HANDLED = re.compile(rb"^SigIgn:\t([0-9a-f]+)\nSigCgt:\t([0-9a-f]+)$", re.MULTILINE)


@dataclass(frozen=True, slots=True)
class Status:
    """Who traces it, under which user ids (real, effective, saved, file system) and seccomp mode it runs."""

    tracer_pid: int
    uids: tuple[int, ...]
    seccomp_mode: int
    shadow_stack: bool


@dataclass(frozen=True, slots=True)
class Memory:
    """Anonymous memory of a process, resident or swapped out."""

    anonymous_bytes: int


@dataclass(frozen=True, slots=True, kw_only=True)
class ThreadStatus:
    """What a dump records of it. `caps` has the sets inheritable, permitted, effective, bounding, ambient; signal sets
    have bit n-1 for signal n. `umask` is None of a thread that has ended.
    """

    name: str
    ns_pids: list[int]
    ns_tids: list[int]
    ns_process_groups: list[int]
    ns_sessions: list[int]
    umask: int | None
    uids: list[int]
    gids: list[int]
    groups: list[int]
    caps: tuple[int, int, int, int, int]
    no_new_privs: bool
    seccomp_mode: int
    pending_signals: int
    shared_pending_signals: int
    ignored_signals: int
    caught_signals: int
    thp_disabled: bool


def _fields(text: bytes) -> dict[bytes, bytes]:
    return dict(line.split(b":", 1) for line in text.split(b"\n") if b":" in line)


def _unescaped(name: bytes) -> str:
    """The kernel writes a newline and a backslash in a name as two characters: proc_task_name in fs/proc/array.c."""
    text = re.sub(rb"\\(.)", lambda match: b"\n" if match[1] == b"n" else match[1], name, flags=re.DOTALL)
    return text.decode("utf-8", "surrogateescape")


def parse_thread_status(text: bytes) -> ThreadStatus:
    """Raises ValueError or KeyError if a line is missing."""
    lines = _fields(text)

    def numbers(name: bytes, otherwise: bytes = b"") -> list[int]:
        # The lines of pid namespaces are absent in a kernel without them.
        return [int(word) for word in lines.get(name, lines[otherwise] if otherwise else b"").split()]

    def bits(name: bytes) -> int:
        return int(lines[name], 16)

    return ThreadStatus(
        name=_unescaped(lines[b"Name"].removeprefix(b"\t")),
        ns_pids=numbers(b"NStgid", b"Tgid"),
        ns_tids=numbers(b"NSpid", b"Pid"),
        ns_process_groups=numbers(b"NSpgid"),
        ns_sessions=numbers(b"NSsid"),
        umask=int(lines[b"Umask"], 8) if b"Umask" in lines else None,
        uids=[int(uid) for uid in lines[b"Uid"].split()],
        gids=[int(gid) for gid in lines[b"Gid"].split()],
        groups=numbers(b"Groups"),
        caps=(bits(b"CapInh"), bits(b"CapPrm"), bits(b"CapEff"), bits(b"CapBnd"), bits(b"CapAmb")),
        no_new_privs=int(lines[b"NoNewPrivs"]) != 0,
        seccomp_mode=int(lines.get(b"Seccomp", b"0")),
        pending_signals=bits(b"SigPnd"),
        shared_pending_signals=bits(b"ShdPnd"),
        ignored_signals=bits(b"SigIgn"),
        caught_signals=bits(b"SigCgt"),
        thp_disabled=int(lines.get(b"THP_enabled", b"1")) == 0,
    )


def handled_signals(text: bytes) -> int:
    """The signals that are caught or ignored, as bits, and nothing else: fast. Raises ValueError."""
    found = HANDLED.search(text)
    if not found:
        raise ValueError(f"not /proc/PID/status: {text[:100]!r}")
    return int(found[1], 16) | int(found[2], 16)


def parse_status(text: bytes) -> Status:
    """Raises ValueError or KeyError if a line is missing."""
    lines = _fields(text)
    return Status(
        tracer_pid=int(lines[b"TracerPid"]),
        uids=tuple(int(uid) for uid in lines[b"Uid"].split()),
        seccomp_mode=int(lines.get(b"Seccomp", b"0")),
        shadow_stack=b"shstk" in lines.get(b"x86_Thread_features", b"").split(),
    )


def read_memory(pid: int) -> Memory:
    """Raises OSError: ENOENT or ESRCH if the process is gone."""
    lines = _fields(Path(f"/proc/{pid}/status").read_bytes())
    return Memory(sum(int(lines.get(name, b"0").split()[0]) << 10 for name in (b"RssAnon", b"VmSwap")))


def read_status(pid: int) -> Status:
    """Raises OSError: ENOENT or ESRCH if the process is gone."""
    return parse_status(Path(f"/proc/{pid}/status").read_bytes())


def read_thread_status(pid: int | str) -> ThreadStatus:
    """Of a process or thread, or of the caller ("self"). Raises OSError: ENOENT or ESRCH if it is gone."""
    return parse_thread_status(Path(f"/proc/{pid}/status").read_bytes())
