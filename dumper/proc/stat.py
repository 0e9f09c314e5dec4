"""/proc/PID/stat: proc_pid_stat(5)."""

from dataclasses import dataclass
from pathlib import Path

PF_KTHREAD = 0x00200000  # include/linux/sched.h


@dataclass(frozen=True, slots=True)
class Stat:
    """What predump needs of it; `start_time_ticks` counts clock ticks since boot, `cpu_ticks` those that it ran."""

    name: str
    state: str
    ppid: int
    flags: int
    cpu_ticks: int
    start_time_ticks: int

    @property
    def is_kernel_thread(self) -> bool:
        """It has no memory of its own."""
        return bool(self.flags & PF_KTHREAD)

    @property
    def has_ended(self) -> bool:
        """A zombie, or about to be reaped."""
        return self.state in "ZXx"


@dataclass(frozen=True, slots=True, kw_only=True)
class ProcessStat:
    """What a dump records of it; `exit_code` is the status of wait(2).

    Addresses are 0 for a thread that has ended, or where the kernel keeps them secret.
    """

    process_group: int
    session: int
    terminal: int
    exit_signal: int
    start_code_addr: int
    end_code_addr: int
    start_stack_addr: int
    start_data_addr: int
    end_data_addr: int
    start_brk_addr: int
    arg_start_addr: int
    arg_end_addr: int
    env_start_addr: int
    env_end_addr: int
    exit_code: int


def _split(text: bytes, n_fields: int) -> tuple[bytes, list[bytes]]:
    """The name, and the fields from the third on: the name may hold blanks and brackets. Raises ValueError."""
    name, _, rest = text.partition(b"(")[2].rpartition(b")")
    fields = rest.split()
    if len(fields) < n_fields:
        raise ValueError(f"not a line of /proc/PID/stat: {text!r}")
    return name, fields


def parse_stat(text: bytes) -> Stat:
    """Raises ValueError."""
    name, fields = _split(text, 20)
    return Stat(
        name=name.decode("utf-8", "surrogateescape"),
        state=fields[0].decode("ascii"),
        ppid=int(fields[1]),
        flags=int(fields[6]),
        cpu_ticks=int(fields[11]) + int(fields[12]),
        start_time_ticks=int(fields[19]),
    )


def parse_process_stat(text: bytes) -> ProcessStat:
    """Raises ValueError."""
    _, fields = _split(text, 50)

    def number(field: int) -> int:
        return int(fields[field - 3])

    return ProcessStat(
        process_group=number(5),
        session=number(6),
        terminal=number(7),
        exit_signal=number(38),
        # Without the right to trace, the kernel says 1 for the code, which no program begins at.
        start_code_addr=number(26) if number(26) != 1 else 0,
        end_code_addr=number(27) if number(27) != 1 else 0,
        start_stack_addr=number(28),
        start_data_addr=number(45),
        end_data_addr=number(46),
        start_brk_addr=number(47),
        arg_start_addr=number(48),
        arg_end_addr=number(49),
        env_start_addr=number(50),
        env_end_addr=number(51),
        exit_code=number(52),
    )


def parse_controlled_terminal(text: bytes) -> tuple[int, tuple[int, int]] | None:
    """Its controlling terminal (as the kernel numbers devices), with session and foreground group; None without one."""
    _, fields = _split(text, 6)
    session, terminal, foreground_group = (int(field) for field in fields[3:6])
    return (terminal, (session, foreground_group)) if terminal else None


def read_stat(pid: int, tid: int | None = None) -> Stat:
    """Of a process, or of one thread of it. Raises OSError: ENOENT or ESRCH if it is gone."""
    task = f"/task/{tid}" if tid is not None else ""
    return parse_stat(Path(f"/proc/{pid}{task}/stat").read_bytes())
