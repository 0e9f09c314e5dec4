"""What was gathered of descriptors in the freeze, before anything is made of it."""

import os
from dataclasses import dataclass

from dumper.kernel.files import RawFile
from dumper.proc.fdinfo import FdInfo, parse_fdinfo
from dumper.proc.maps import DELETED
from dumper.state.filekinds import label_of
from dumper.state.terminals import FoundTerminal
from formats.openfiles import OpenFileKind

Key = tuple[int, int]  # st_dev, st_ino


@dataclass(slots=True)
class FoundDescriptor:
    """A descriptor of a process, as /proc tells of it; `fdinfo` is b"" where it could not be read."""

    pid: int
    tid: int
    fd: int
    raw: RawFile
    link: bytes
    fdinfo: bytes

    @property
    def key(self) -> Key:
        """Which file it is of."""
        return os.makedev(self.raw.device_major, self.raw.device_minor), self.raw.inode

    @property
    def label(self) -> str:
        """How it is named where something of it is missing."""
        return label_of(self.fd, self.link)

    @property
    def path(self) -> str:
        """What the link says, but that the name is gone."""
        return self.link.decode("utf-8", "surrogateescape")

    @property
    def info(self) -> FdInfo:
        """Raises ValueError or KeyError if its fdinfo was not understood, or not read."""
        return parse_fdinfo(self.fdinfo)

    @property
    def flags(self) -> int:
        """O_*, 0 if they are not known; in the freeze, where each microsecond counts."""
        start = self.fdinfo.find(b"flags:")
        end = self.fdinfo.find(b"\n", start)
        return int(self.fdinfo[start + 6 : end], 8) if start >= 0 else 0


@dataclass(slots=True)
class FoundFile:
    """An open file description: its descriptors, and what had to be asked through a copy of the first of them.

    problem: why it could not be asked; deleted: its name is gone; content_problem: why its bytes were not to be had.
    """

    kind: OpenFileKind
    descriptors: list[FoundDescriptor]
    deleted: bool = False
    owner: tuple[int, int] = (0, 0)
    terminal: FoundTerminal | None = None
    unread_bytes: int = 0
    problem: str = ""
    content_problem: str = ""

    @property
    def first(self) -> FoundDescriptor:
        """The descriptor that stands for it."""
        return self.descriptors[0]

    @property
    def path(self) -> str:
        """Without the mark of a name that is gone."""
        path = self.first.path
        return path.removesuffix(DELETED) if self.deleted else path
