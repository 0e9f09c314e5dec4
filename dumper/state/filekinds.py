"""What kind of file a descriptor is of, by what /proc says, and what is known to be missing of it from that alone."""

import os
import stat

from dumper.kernel.files import RawFile
from dumper.proc.maps import DELETED
from dumper.proc.ttydrivers import TtyDevices
from formats.openfiles import OpenFileKind

MEMORY_MAJOR = 1  # null, zero, full, random, urandom: Documentation/admin-guide/devices.txt
O_PATH = 0o10000000
ANONYMOUS = {
    b"anon_inode:[eventfd]": OpenFileKind.EVENTFD,
    b"anon_inode:[eventpoll]": OpenFileKind.EPOLL,
    b"anon_inode:[timerfd]": OpenFileKind.TIMERFD,
    b"anon_inode:[signalfd]": OpenFileKind.SIGNALFD,
    b"anon_inode:inotify": OpenFileKind.INOTIFY,
    b"anon_inode:[pidfd]": OpenFileKind.PIDFD,
}
NAMESPACES = frozenset((b"cgroup", b"ipc", b"mnt", b"net", b"pid", b"time", b"user", b"uts"))
DELETED_BYTES = DELETED.encode()
MEMFD_SECRET = b"/secretmem" + DELETED_BYTES


def kind_of(raw: RawFile, link: bytes, terminals: TtyDevices) -> OpenFileKind:
    """The kind; OTHER for what predump does not know, or could not look at."""
    if not link.startswith(b"/"):
        return _kind_without_path(link)
    if raw.stat_result < 0:
        return OpenFileKind.OTHER
    match stat.S_IFMT(raw.mode):
        case stat.S_IFREG if link == MEMFD_SECRET and not raw.n_links:
            return OpenFileKind.OTHER
        case stat.S_IFREG if link.startswith(b"/memfd:") and not raw.n_links:
            return OpenFileKind.MEMFD
        case stat.S_IFREG if not link.startswith(b"/dmabuf:"):
            return OpenFileKind.FILE
        case stat.S_IFDIR:
            return OpenFileKind.DIRECTORY
        case stat.S_IFIFO:
            return OpenFileKind.FIFO
        case stat.S_IFCHR if _is_terminal(raw, terminals):
            return OpenFileKind.TERMINAL
        case stat.S_IFCHR | stat.S_IFBLK:
            return OpenFileKind.DEVICE
    return OpenFileKind.OTHER


def _kind_without_path(link: bytes) -> OpenFileKind:
    if link in ANONYMOUS:
        return ANONYMOUS[link]
    name, colon, _ = link.partition(b":[")
    if colon and name == b"socket":
        return OpenFileKind.SOCKET
    if colon and name == b"pipe":
        return OpenFileKind.PIPE
    if colon and name in NAMESPACES:
        return OpenFileKind.NAMESPACE
    return OpenFileKind.OTHER


def _is_terminal(raw: RawFile, terminals: TtyDevices) -> bool:
    return any(major == raw.special_major and first <= raw.special_minor <= last for major, first, last in terminals)


def label_of(fd: int, link: bytes) -> str:
    """How a descriptor is named where something of it is missing."""
    return f"descriptor {fd} ({link.decode('utf-8', 'surrogateescape')})"


def is_path_only(flags: int) -> bool:
    """Opened with O_PATH: it stands for a place and can neither be read nor asked."""
    return bool(flags & O_PATH)


def known_problem(kind: OpenFileKind, raw: RawFile, link: bytes, flags: int) -> str:
    """Why the file cannot be captured whole, as far as its kind tells; "" if it can."""
    if raw.stat_result < 0:
        return f"could not be looked at: {os.strerror(-raw.stat_result)}"
    if raw.link_bytes < 0:
        return f"its path could not be read: {os.strerror(-raw.link_bytes)}"
    if is_path_only(flags):
        return "its name is gone, so that it cannot be found again" if not raw.n_links else ""
    if kind is OpenFileKind.OTHER:
        if link == MEMFD_SECRET:
            return "nobody but its process can read memfd_secret"
        return "files of this kind are not captured"
    if kind is OpenFileKind.DIRECTORY and not raw.n_links:
        return "a directory without a name cannot be found again"
    if kind is OpenFileKind.DEVICE and stat.S_ISCHR(raw.mode) and raw.special_major != MEMORY_MAJOR:
        return "what the driver of the device keeps for it is not captured"
    return ""
