"""/proc/PID/maps: proc_pid_maps(5)."""

from dataclasses import dataclass
from pathlib import Path

DELETED = " (deleted)"


@dataclass(frozen=True, slots=True)
class Mapping:
    """One VMA: [start_addr, end_addr), its permissions ("rw-p"), and what is mapped there."""

    start_addr: int
    end_addr: int
    perms: str
    offset_bytes: int
    device: str
    inode: int
    path: str

    @property
    def n_pages(self) -> int:
        """Pages of the range, populated or not."""
        return (self.end_addr - self.start_addr) // 4096

    @property
    def is_shared(self) -> bool:
        """Writes are seen by whoever else maps or opens the same thing."""
        return self.perms[3] == "s"

    @property
    def is_executable(self) -> bool:
        """Code may run there."""
        return self.perms[2] == "x"

    @property
    def has_file(self) -> bool:
        """A file (of a disk or of memory) is behind it; anonymous and special VMAs have no inode."""
        return self.inode != 0 or self.is_sysv

    @property
    def is_sysv(self) -> bool:
        """System V shared memory: its inode number is its id, which begins with 0 (newseg in ipc/shm.c)."""
        return self.path.startswith("/SYSV")


def parse_line(line: bytes) -> Mapping:
    """One line. Raises ValueError if it is none: a line that is not understood must not be skipped."""
    fields = line.split(None, 5)
    if len(fields) < 5:
        raise ValueError(f"not a line of /proc/PID/maps: {line!r}")
    start, end = fields[0].split(b"-")
    # A path keeps its trailing blanks; the kernel writes a newline in it as \012.
    path = fields[5].decode("utf-8", "surrogateescape") if len(fields) > 5 else ""
    return Mapping(
        start_addr=int(start, 16),
        end_addr=int(end, 16),
        perms=fields[1].decode("ascii"),
        offset_bytes=int(fields[2], 16),
        device=fields[3].decode("ascii"),
        inode=int(fields[4]),
        path=path.replace("\\012", "\n"),
    )


class MapsParser:
    """Parses the same process again and again; lines that did not change cost a look-up."""

    def __init__(self) -> None:
        self._known: dict[bytes, Mapping] = {}

    def parse(self, text: bytes) -> list[Mapping]:
        """All mappings, in order of address. Raises ValueError."""
        known = self._known
        lines = text.splitlines()
        self._known = {line: known.get(line) or parse_line(line) for line in lines}
        return list(self._known.values())


def without_overlaps(mappings: list[Mapping]) -> list[Mapping]:
    """Of mappings that overlap, the first: the file is read in parts, and a process that runs changes in between."""
    found: list[Mapping] = []
    end_addr = 0
    for mapping in mappings:
        if mapping.start_addr >= end_addr:
            found.append(mapping)
            end_addr = mapping.end_addr
    return found


def read_maps(tid: int) -> bytes:
    """The file as it is. Raises OSError: ENOENT or ESRCH if the process is gone, EACCES if it is another's."""
    return Path(f"/proc/{tid}/maps").read_bytes()
