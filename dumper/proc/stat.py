"""/proc/PID/stat: proc_pid_stat(5)."""

from dataclasses import dataclass
from pathlib import Path

PF_KTHREAD = 0x00200000  # include/linux/sched.h


@dataclass(frozen=True, slots=True)
class Stat:
    """What predump needs of it; `start_time_ticks` counts clock ticks since boot."""

    name: str
    state: str
    ppid: int
    flags: int
    start_time_ticks: int

    @property
    def is_kernel_thread(self) -> bool:
        """It has no memory of its own."""
        return bool(self.flags & PF_KTHREAD)

    @property
    def has_ended(self) -> bool:
        """A zombie, or about to be reaped."""
        return self.state in "ZXx"


def parse_stat(text: bytes) -> Stat:
    """Raises ValueError. The name may hold blanks and brackets, so fields count from the last bracket."""
    name, _, rest = text.partition(b"(")[2].rpartition(b")")
    fields = rest.split()
    if len(fields) < 20:
        raise ValueError(f"not a line of /proc/PID/stat: {text!r}")
    return Stat(
        name=name.decode("utf-8", "surrogateescape"),
        state=fields[0].decode("ascii"),
        ppid=int(fields[1]),
        flags=int(fields[6]),
        start_time_ticks=int(fields[19]),
    )


def read_stat(pid: int, tid: int | None = None) -> Stat:
    """Of a process, or of one thread of it. Raises OSError: ENOENT or ESRCH if it is gone."""
    task = f"/task/{tid}" if tid is not None else ""
    return parse_stat(Path(f"/proc/{pid}{task}/stat").read_bytes())
