"""/proc/PID/fdinfo: proc_pid_fdinfo(5), and Documentation/filesystems/proc.rst of the kernel."""

from dataclasses import dataclass

_LOCK_KINDS = {b"FLOCK": "flock", b"POSIX": "posix", b"OFDLCK": "ofd", b"LEASE": "lease", b"DELEG": "delegation"}
_NS_PER_S = 1_000_000_000


@dataclass(frozen=True, slots=True)
class FdInfo:
    """What every descriptor has: offset in bytes, O_* (O_CLOEXEC is of the descriptor), id of the mount."""

    offset: int
    flags: int
    mount_id: int


@dataclass(frozen=True, slots=True)
class Lock:
    """A `lock:` line; `end` is inclusive, -1 for the end of the file. kind: flock, posix, ofd, lease."""

    kind: str
    mode: str
    start: int
    end: int


@dataclass(frozen=True, slots=True)
class Watched:
    """An entry of an epoll interest list; `device` is st_dev in the kernel's own form: see `device_numbers`."""

    fd: int
    events: int
    data: int
    inode: int
    device: int


@dataclass(frozen=True, slots=True)
class Timer:
    """A timerfd: `flags` as timerfd_settime(2) took them, times in ns."""

    clock: int
    ticks: int
    flags: int
    remaining_ns: int
    interval_ns: int


@dataclass(frozen=True, slots=True)
class Inotify:
    """An inotify watch; `device` as in `Watched`."""

    wd: int
    inode: int
    device: int
    mask: int
    handle_type: int
    handle: bytes


def device_numbers(device: int) -> tuple[int, int]:
    """Major and minor of a device as the kernel keeps it: include/linux/kdev_t.h."""
    return device >> 20, device & 0xFFFFF


def _lines(text: bytes) -> dict[bytes, bytes]:
    """Keys and values of the lines that have both."""
    pairs = (line.partition(b":") for line in text.splitlines())
    return {key: value.strip() for key, _, value in pairs}


def parse_fdinfo(text: bytes) -> FdInfo:
    """Raises ValueError or KeyError."""
    lines = _lines(text)
    return FdInfo(offset=int(lines[b"pos"]), flags=int(lines[b"flags"], 8), mount_id=int(lines[b"mnt_id"]))


def parse_locks(text: bytes) -> list[Lock]:
    """The locks seen through the descriptor: proc_locks(5). Raises ValueError or KeyError."""
    found = []
    for line in text.splitlines():
        if not line.startswith(b"lock:"):
            continue
        _, kind, _, mode, _, _, start, end = line.removeprefix(b"lock:").split()
        found.append(
            Lock(
                kind=_LOCK_KINDS[kind],
                mode=mode.decode("ascii").lower(),
                start=int(start),
                end=-1 if end == b"EOF" else int(end),
            )
        )
    return found


def parse_eventfd(text: bytes) -> tuple[int, bool]:
    """Count, and whether it is a semaphore (said since 6.6). Raises ValueError or KeyError."""
    lines = _lines(text)
    return int(lines[b"eventfd-count"], 16), lines.get(b"eventfd-semaphore", b"0") == b"1"


def parse_epoll(text: bytes) -> list[Watched]:
    """The interest list. Raises ValueError or KeyError."""
    found = []
    for line in text.splitlines():
        if line.startswith(b"tfd:"):
            words = line.replace(b":", b": ").split()
            fields = dict(zip(words[::2], words[1::2], strict=True))
            found.append(
                Watched(
                    fd=int(fields[b"tfd:"]),
                    events=int(fields[b"events:"], 16),
                    data=int(fields[b"data:"], 16),
                    inode=int(fields[b"ino:"], 16),
                    device=int(fields[b"sdev:"], 16),
                )
            )
    return found


def _pair_ns(text: bytes) -> int:
    seconds, nanoseconds = text.strip(b"()").split(b",")
    return int(seconds) * _NS_PER_S + int(nanoseconds)


def parse_timerfd(text: bytes) -> Timer:
    """Raises ValueError or KeyError."""
    lines = _lines(text)
    return Timer(
        clock=int(lines[b"clockid"]),
        ticks=int(lines[b"ticks"]),
        flags=int(lines[b"settime flags"], 8),
        remaining_ns=_pair_ns(lines[b"it_value"]),
        interval_ns=_pair_ns(lines[b"it_interval"]),
    )


def parse_signalfd(text: bytes) -> int:
    """The set of signals, bit n-1 for signal n. Raises ValueError or KeyError."""
    return int(_lines(text)[b"sigmask"], 16)


def parse_pidfd(text: bytes) -> int:
    """The process, -1 if it has been reaped. Raises ValueError or KeyError."""
    return int(_lines(text)[b"Pid"])


def parse_inotify(text: bytes) -> list[Inotify]:
    """The watches. Raises ValueError or KeyError."""
    found = []
    for line in text.splitlines():
        if line.startswith(b"inotify "):
            fields = dict(word.split(b":", 1) for word in line.split()[1:])
            n_bytes = int(fields.get(b"fhandle-bytes", b"0"), 16)
            handle = bytes.fromhex(fields.get(b"f_handle", b"").decode("ascii"))
            if len(handle) != n_bytes:
                raise ValueError(f"a file handle of {n_bytes} bytes has {len(handle)}")
            found.append(
                Inotify(
                    wd=int(fields[b"wd"], 16),
                    inode=int(fields[b"ino"], 16),
                    device=int(fields[b"sdev"], 16),
                    mask=int(fields[b"mask"], 16),
                    handle_type=int(fields.get(b"fhandle-type", b"0"), 16),
                    handle=handle,
                )
            )
    return found
