"""Who may write to the memory of a process without its page tables showing it: whoever has pages of it pinned.

A write by hardware goes to the page itself. If a round resets the page while a read is in flight, and copies it before
the data arrives, nothing will tell that the copy is old. So a round looks for such writers between its scan and its
copy: one that was at work during the scan is still there, or has finished, and then the copy has what it wrote.
"""

import os
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

from dumper.proc.fdinfo import parse_fdinfo
from dumper.proc.fds import read_fds
from dumper.proc.maps import Mapping

IO_URING = "anon_inode:[io_uring]"
AIO_RING = "/[aio]"
DEVICES = ("/dev/vfio/", "/dev/iommu", "/dev/infiniband/", "/dev/vhost-vdpa", "/dev/video", "/dev/nvidia")
"""Their drivers pin memory of the process for as long as they like (pin_user_pages(9), FOLL_LONGTERM)."""


@dataclass(frozen=True, slots=True)
class UnseenWriter:
    """`text` names it; `stops`: while all threads stand still, it does not write."""

    text: str
    stops: bool = False


def find_unseen_writers(tid: int, mappings: Iterable[Mapping]) -> list[UnseenWriter]:
    """What the process of a live thread has that may write to its memory unseen: mostly nothing.

    Raises FileNotFoundError, ProcessLookupError if the process is gone.
    """
    found = []
    paths = {mapping.path for mapping in mappings}
    if any(path.startswith(AIO_RING) for path in paths):
        found.append(UnseenWriter("asynchronous I/O (io_setup)"))
    if any(path.startswith("socket:") for path in paths):
        found.append(UnseenWriter("a socket with a ring in memory"))
    open_files = read_fds(tid)
    if IO_URING in open_files.values() or any(path.startswith(IO_URING) for path in paths):
        found.append(UnseenWriter("io_uring"))
    for fd, link in sorted(open_files.items()):
        if link.startswith(DEVICES):
            found.append(UnseenWriter(f"descriptor {fd} ({link})"))
        elif link.startswith("/") and _is_direct(tid, fd):
            found.append(UnseenWriter(f"descriptor {fd} (O_DIRECT)", stops=True))
    return found


def _is_direct(tid: int, fd: int) -> bool:
    try:
        return bool(parse_fdinfo(Path(f"/proc/{tid}/fdinfo/{fd}").read_bytes()).flags & os.O_DIRECT)
    except FileNotFoundError:  # closed meanwhile
        return False
