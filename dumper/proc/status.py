"""/proc/PID/status: proc_pid_status(5)."""

from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True, slots=True)
class Status:
    """Who traces it, under which user ids (real, effective, saved, file system) and seccomp mode it runs."""

    tracer_pid: int
    uids: tuple[int, ...]
    seccomp_mode: int
    shadow_stack: bool


def parse_status(text: bytes) -> Status:
    """Raises ValueError or KeyError if a line is missing."""
    lines = dict(line.split(b":", 1) for line in text.splitlines() if b":" in line)
    return Status(
        tracer_pid=int(lines[b"TracerPid"]),
        uids=tuple(int(uid) for uid in lines[b"Uid"].split()),
        seccomp_mode=int(lines.get(b"Seccomp", b"0")),
        shadow_stack=b"shstk" in lines.get(b"x86_Thread_features", b"").split(),
    )


def read_status(pid: int) -> Status:
    """Raises OSError: ENOENT or ESRCH if the process is gone."""
    return parse_status(Path(f"/proc/{pid}/status").read_bytes())
