"""Terminals: pty(7), ioctl_tty(2). Of a pseudoterminal both ends are made anew; another one is opened where it is."""

from __future__ import annotations

import fcntl
import os
import struct
import sys
from contextlib import ExitStack

from dumper.state.queries import query_int
from dumper.state.terminals import TERMIOS2_BYTES
from formats.openfiles import OpenFile, Terminal
from restorer.files.choices import OUTSIDE, FileChoices, OutsideChoice
from restorer.files.paths import open_again
from restorer.files.records import FileRecords, is_path_only
from restorer.files.workshop import Workshop, set_status

TCSETS2, TIOCSWINSZ = 0x402C542B, 0x5414
TIOCSPTLCK, TIOCPKT, TIOCEXCL, TIOCGPTN, TIOCGPTPEER = 0x40045431, 0x5420, 0x540C, 0x80045430, 0x5441
PTMX = "/dev/ptmx"
NO_PTY = -1
TRIES_FOR_NUMBER = 64
_INT = struct.Struct("i")


class Terminals:
    """Makes each pseudoterminal once."""

    def __init__(self, shop: Workshop) -> None:
        self._shop = shop
        self._masters: dict[int, int] = {}
        """Our descriptors of controlling ends, by the number of the terminal in the image."""
        self._slaves: dict[int, int] = {}

    def open_end(self, one: OpenFile) -> int:
        """Either end of a pseudoterminal, or a terminal of another kind. Raises RestoreFailed, OSError."""
        terminal = one.terminal
        if is_path_only(one) or (terminal is not None and terminal.index == NO_PTY):
            return open_again(self._shop, one)
        if problem := terminal_problem(one, self._shop.records, self._shop.choices):
            self._shop.refuse(one, problem, "A terminal of the caller can take its place.")
        assert terminal is not None
        if not self._shop.records.terminals(terminal.index, master=not terminal.is_master):
            return self._without_master(one)
        if terminal.index not in self._masters:
            self._make(terminal.index)
        if terminal.is_master:
            fd = self._masters[terminal.index]
            set_status(fd, one.flags)
            return fd
        return self._shop.reopen(self._slaves[terminal.index], one.flags)

    def slave(self, index: int) -> int | None:
        """Our descriptor of a pseudoterminal by its number in the image, until the temporary ones are closed."""
        return self._slaves.get(index)

    def complete(self) -> None:
        """Settings, once all ends are open: some of them keep others out. Raises RestoreFailed, OSError."""
        for one in self._shop.records.open_files:
            terminal = one.terminal
            if terminal is None or is_path_only(one):
                continue
            fd = self._shop.made[one.id]
            if self._is_caller_s(one, terminal) or not os.isatty(fd):
                continue  # as the caller has it, or hung up
            self._set_up(fd, one, terminal)

    def _is_caller_s(self, one: OpenFile, terminal: Terminal) -> bool:
        return one.id in self._shop.records.inherited or not (
            terminal.index == NO_PTY or terminal.index in self._masters
        )

    def _make(self, index: int) -> None:
        """A new one, with the number `index` if that is free and near."""
        shop = self._shop
        with ExitStack() as others:
            for _ in range(TRIES_FOR_NUMBER):
                fd = os.open(PTMX, os.O_RDWR | os.O_NOCTTY | os.O_CLOEXEC)
                others.callback(os.close, fd)
                number = query_int(fd, TIOCGPTN)
                if number >= index:
                    break
            master = shop.own(fcntl.fcntl(fd, fcntl.F_DUPFD_CLOEXEC, 0))
        if number != index:
            shop.tell(f"the terminal that was /dev/pts/{index} is /dev/pts/{number} now")
        fcntl.ioctl(master, TIOCSPTLCK, _INT.pack(0))
        flags = os.O_RDWR | os.O_NOCTTY | os.O_CLOEXEC
        self._slaves[index] = shop.own_for_now(fcntl.ioctl(master, TIOCGPTPEER, flags))
        self._masters[index] = master

    def _without_master(self, one: OpenFile) -> int:
        """The end of a terminal that is not ours to make."""
        shop = self._shop
        if shop.choices.tty:
            if (path := caller_terminal()) is None:
                shop.refuse(one, "the caller has no terminal that could take its place")
            place = shop.own_for_now(os.open(path, os.O_RDWR | os.O_NOCTTY | os.O_CLOEXEC))
            return shop.reopen(place, one.flags)
        shop.tell(f"{one.path}, the other end of which is closed")
        master = os.open(PTMX, os.O_RDWR | os.O_NOCTTY | os.O_CLOEXEC)
        try:
            fcntl.ioctl(master, TIOCSPTLCK, _INT.pack(0))
            slave = shop.own_for_now(fcntl.ioctl(master, TIOCGPTPEER, os.O_RDWR | os.O_NOCTTY | os.O_CLOEXEC))
            return shop.reopen(slave, one.flags)
        finally:
            os.close(master)

    def _set_up(self, fd: int, one: OpenFile, terminal: Terminal) -> None:
        if len(terminal.termios) != TERMIOS2_BYTES:
            self._shop.refuse(one, "its settings are not those of a terminal")
        fcntl.ioctl(fd, TCSETS2, terminal.termios)
        fcntl.ioctl(fd, TIOCSWINSZ, struct.pack("HHHH", terminal.rows, terminal.columns, 0, 0))
        if terminal.is_master:
            fcntl.ioctl(fd, TIOCPKT, _INT.pack(terminal.packet_mode))
            fcntl.ioctl(fd, TIOCSPTLCK, _INT.pack(terminal.locked))
        if terminal.exclusive:
            fcntl.ioctl(fd, TIOCEXCL)


def terminal_problem(one: OpenFile, records: FileRecords, choices: FileChoices) -> str:
    """Why it cannot come back; "" if it can."""
    terminal = one.terminal
    if terminal is None:
        return "the image does not have its settings"
    if terminal.index == NO_PTY or records.terminals(terminal.index, master=not terminal.is_master):
        return ""
    if terminal.is_master or not (choices.tty or choices.outside is OutsideChoice.CLOSE):
        return OUTSIDE
    return ""


def caller_terminal() -> str | None:
    """The path of the terminal that one of our standard descriptors is; None if none is one."""
    for stream in (sys.__stdin__, sys.__stdout__, sys.__stderr__):
        if stream is not None and stream.isatty():
            return os.ttyname(stream.fileno())
    return None
