"""Terminals: ioctl_tty(2). All of it are questions, which job control lets pass."""

import os
from dataclasses import dataclass

from dumper.state.notes import Notes
from dumper.state.queries import FIONREAD, query_bytes, query_int
from formats.openfiles import Terminal

TCGETS2, TERMIOS2_BYTES = 0x802C542A, 44
TIOCGWINSZ, WINSIZE_BYTES = 0x5413, 8
TIOCGPGRP, TIOCGSID = 0x540F, 0x5429
TIOCGDEV, TIOCGPTLCK, TIOCGPKT, TIOCGEXCL = 0x80045432, 0x80045439, 0x80045438, 0x80045440
PTY_SLAVE_MAJOR = 136
PTMX = (5, 2)


@dataclass(frozen=True, slots=True)
class FoundTerminal:
    """What was gathered of a terminal in the freeze; `device` as in field 7 of /proc/PID/stat."""

    termios: bytes
    window: bytes
    device: int
    session: int
    foreground_group: int
    waiting_bytes: int
    is_master: bool
    locked: bool
    packet_mode: bool
    exclusive: bool


def _query(fd: int, request: int) -> int:
    try:
        return query_int(fd, request)
    except OSError:  # not of this end, or only for those whose controlling terminal it is
        return 0


def read_terminal(copy_fd: int, special: tuple[int, int]) -> FoundTerminal:
    """In the freeze: through a copy of its descriptor. Raises OSError: ENOTTY, EIO if it was hung up."""
    is_master = special == PTMX
    return FoundTerminal(
        termios=query_bytes(copy_fd, TCGETS2, TERMIOS2_BYTES),
        window=query_bytes(copy_fd, TIOCGWINSZ, WINSIZE_BYTES),
        device=_query(copy_fd, TIOCGDEV),
        session=_query(copy_fd, TIOCGSID),
        foreground_group=_query(copy_fd, TIOCGPGRP),
        waiting_bytes=_query(copy_fd, FIONREAD),
        is_master=is_master,
        locked=is_master and bool(_query(copy_fd, TIOCGPTLCK)),
        packet_mode=is_master and bool(_query(copy_fd, TIOCGPKT)),
        exclusive=bool(_query(copy_fd, TIOCGEXCL)),
    )


def terminal_record(found: FoundTerminal, controlled: dict[int, tuple[int, int]], notes: Notes) -> Terminal:
    """`controlled`: session and foreground group by controlling terminal, from the processes that have one."""
    rows, columns = (int.from_bytes(found.window[start : start + 2], "little") for start in (0, 2))
    session, foreground_group = controlled.get(found.device, (found.session, found.foreground_group))
    if found.waiting_bytes:
        notes.add("input waiting in {}", f"{found.waiting_bytes} bytes of it are not captured")
    return Terminal(
        termios=found.termios,
        rows=rows,
        columns=columns,
        index=os.minor(found.device) if os.major(found.device) == PTY_SLAVE_MAJOR else -1,
        session=session,
        foreground_group=foreground_group,
        is_master=found.is_master,
        locked=found.locked,
        packet_mode=found.packet_mode,
        exclusive=found.exclusive,
    )
