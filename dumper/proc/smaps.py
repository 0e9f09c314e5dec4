"""/proc/PID/smaps: proc_pid_smaps(5). The kernel walks the page tables for it, 10 ms for each GiB."""

import mmap
import re
from functools import cache
from pathlib import Path

FLAGS = b"\nVmFlags:"
FIRST_FIELD = b"\nSize:"  # of each mapping
# After the flags of a mapping: fields that later kernels may add, then the header of the next one.
FIELDS = re.compile(rb"(?:[A-Za-z]\w*:[^\n]*\n)*")
HEADER = re.compile(FIELDS.pattern + rb"([0-9a-f]+)-([0-9a-f]+) [-r][-w][-x][-ps] [0-9a-f]+ [^\n]*\n")
PAGE_SIZE = re.compile(rb"^([0-9a-f]+)-[0-9a-f]+ [-r][-w][-x][-ps] |^KernelPageSize: *([0-9]+) kB$", re.MULTILINE)
GUARD_FLAG = "gu"
MADV_GUARD_INSTALL = 102


def parse_smaps_flags(text: bytes) -> list[tuple[int, int, str]]:
    """Start, end and VmFlags ("rd wr mr mw me ac") of each mapping. Raises ValueError."""
    if not text:
        return []
    first, *pieces = text.split(FLAGS)
    # Where a mapping has no flags, or the text ends in the middle of one, the numbers differ.
    if text.count(FIRST_FIELD) != len(pieces):
        raise ValueError(f"not /proc/PID/smaps, or not all of it: {len(pieces)} mappings with flags")
    found = []
    names: dict[bytes, str] = {}
    header = first
    for piece in pieces:
        match = HEADER.match(header)
        if not match:
            raise ValueError(f"not a mapping of /proc/PID/smaps: {header[:100]!r}")
        # A piece is the flags of one mapping, then the header and the fields of the next one.
        line, _, header = piece.partition(b"\n")
        flags = names.get(line)
        if flags is None:
            flags = names[line] = " ".join(line.decode("ascii").split())
        found.append((int(match[1], 16), int(match[2], 16), flags))
    if not pieces or not FIELDS.fullmatch(header):
        raise ValueError(f"not the end of /proc/PID/smaps: {header[:100]!r}")
    return found


def parse_page_bytes(text: bytes) -> dict[int, int]:
    """The size of the pages of each mapping, in bytes, by its start address: more than 4096 for those of hugetlbfs."""
    sizes: dict[int, int] = {}
    start_addr = 0
    for match in PAGE_SIZE.finditer(text):
        if match[1]:
            start_addr = int(match[1], 16)
        else:
            sizes[start_addr] = int(match[2]) * 1024
    return sizes


def read_smaps(tid: int) -> bytes:
    """The file as it is. Raises OSError: ENOENT or ESRCH if the process is gone, EACCES if it is another's."""
    return Path(f"/proc/{tid}/smaps").read_bytes()


@cache
def shows_guards() -> bool:
    """Whether this kernel tells by a VmFlag that a mapping has guard pages: tried on a page of this process."""
    with mmap.mmap(-1, mmap.PAGESIZE, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS) as page:
        try:
            page.madvise(MADV_GUARD_INSTALL)
        except OSError:  # a kernel that has no guard pages
            return False
        found = parse_smaps_flags(Path("/proc/self/smaps").read_bytes())
    return any(GUARD_FLAG in flags.split() for _, _, flags in found)
