"""The few system calls that images need, each with the image format's rules about files."""

from __future__ import annotations

import contextlib
import errno
import functools
import os
import stat
from collections.abc import Callable, Sequence
from pathlib import Path

from formats.errors import ImageCorrupt, StorageError
from formats.layout import DIRECTORY_MODE, FILE_MODE

_IOV_MAX = 1024  # buffers per writev(2), from limits.h
_AT_FDCWD = -100  # from fcntl.h
_RENAME_EXCHANGE = 2  # from linux/fs.h

Buffer = bytes | bytearray | memoryview


def create_directory(path: Path) -> None:
    """Make a directory of mode 0700 whatever the umask; raises StorageError, also if it exists."""
    try:
        path.mkdir(DIRECTORY_MODE)
        # Not chmod(2) by name: whoever owns the directory above might put a link in its place meanwhile.
        fd = os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC)
        try:
            os.fchmod(fd, DIRECTORY_MODE)
        finally:
            os.close(fd)
    except OSError as error:
        raise StorageError.from_os_error("create the directory", path, error) from error


def create_file(path: Path) -> int:
    """Create a file of mode 0600 whatever the umask and return its descriptor.

    Raises StorageError, also if the name is taken, be it by a dangling symbolic link.
    """
    flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC
    try:
        fd = os.open(path, flags, FILE_MODE)
        os.fchmod(fd, FILE_MODE)
    except OSError as error:
        raise StorageError.from_os_error("create", path, error) from error
    return fd


def exchange(first: Path, second: Path) -> None:
    """Swap what two names mean, in one step: renameat2(2) with RENAME_EXCHANGE. Raises StorageError."""
    import ctypes  # noqa: PLC0415 -- who reads a page does without

    libc = ctypes.CDLL(None, use_errno=True)
    if libc.renameat2(_AT_FDCWD, os.fsencode(first), _AT_FDCWD, os.fsencode(second), _RENAME_EXCHANGE) == 0:
        return
    number = ctypes.get_errno()
    if number in {errno.EINVAL, errno.ENOSYS, errno.EOPNOTSUPP}:
        raise StorageError(
            f"Cannot swap {first} and {second}: this file system cannot do that in one step.",
            hint="Write to a directory of its own with -o.",
            path=str(first),
            errno=number,
        )
    raise StorageError.from_os_error("swap", first, OSError(number, os.strerror(number)))


def open_regular(path: Path) -> tuple[int, int]:
    """Open a regular file of a round for reading; returns its descriptor and its size in bytes.

    Raises ImageCorrupt if it is missing, a symbolic link, a FIFO, a device or a directory, or if the round's directory
    is a link, and StorageError if the file system refuses.
    """
    directory_fd = _open_round(path.parent)
    try:
        return _open_regular_at(directory_fd, path)
    finally:
        os.close(directory_fd)


def _open_round(path: Path) -> int:
    flags = os.O_PATH | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC
    try:
        return os.open(path, flags)
    except FileNotFoundError as error:
        raise ImageCorrupt(f"{path} is missing.", path=str(path)) from error
    except OSError as error:
        if error.errno in {errno.ELOOP, errno.ENOTDIR}:
            raise ImageCorrupt(f"{path} is not a directory.", path=str(path)) from error
        raise StorageError.from_os_error("open", path, error) from error


def _open_regular_at(directory_fd: int, path: Path) -> tuple[int, int]:
    # O_NONBLOCK: opening a FIFO that took the file's place must not wait for a writer.
    flags = os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC
    try:
        fd = os.open(path.name, flags, dir_fd=directory_fd)
    except FileNotFoundError as error:
        raise ImageCorrupt(f"{path} is missing.", path=str(path)) from error
    except OSError as error:
        if error.errno in {errno.ELOOP, errno.ENXIO, errno.ENODEV}:
            raise ImageCorrupt(f"{path} is not a regular file.", path=str(path)) from error
        raise StorageError.from_os_error("open", path, error) from error
    status = os.fstat(fd)
    if not stat.S_ISREG(status.st_mode):
        os.close(fd)
        raise ImageCorrupt(f"{path} is not a regular file.", path=str(path))
    return fd, status.st_size


def read_exactly(fd: int, n_bytes: int, offset_bytes: int, path: Path) -> bytes:
    """Read so many bytes at an offset; raises ImageCorrupt if the file ends, or StorageError."""
    pieces: list[bytes] = []
    while n_bytes > 0:
        try:
            piece = os.pread(fd, n_bytes, offset_bytes)
        except OSError as error:
            raise StorageError.from_os_error("read", path, error) from error
        if not piece:
            raise ImageCorrupt(f"{path} ends at byte {offset_bytes}, {n_bytes} bytes early.", path=str(path))
        pieces.append(piece)
        n_bytes -= len(piece)
        offset_bytes += len(piece)
    return pieces[0] if len(pieces) == 1 else b"".join(pieces)


def write_pieces(write_some: Callable[[list[memoryview]], int], buffers: Sequence[Buffer]) -> None:
    """Call `write_some` with what is left of the buffers, some at a time, until it has taken all of it.

    It returns how many bytes it took, 0 if it is to be called again.
    """
    pending = [memoryview(buffer) for buffer in buffers if len(buffer)]
    first = 0
    while first < len(pending):
        written_bytes = write_some(pending[first : first + _IOV_MAX])
        while first < len(pending) and written_bytes >= len(pending[first]):
            written_bytes -= len(pending[first])
            first += 1
        if written_bytes:
            pending[first] = pending[first][written_bytes:]


def write_all(fd: int, buffers: Sequence[Buffer], path: Path) -> None:
    """Write all buffers in order at the file's position; raises StorageError."""
    try:
        write_pieces(functools.partial(os.writev, fd), buffers)
    except OSError as error:
        raise StorageError.from_os_error("write", path, error) from error


def write_at(fd: int, buffer: Buffer, offset_bytes: int, path: Path) -> None:
    """Write all of a buffer at an offset, whatever the file's position; raises StorageError.

    Safe in several threads at once.
    """
    pending = memoryview(buffer)
    while pending:
        try:
            written_bytes = os.pwrite(fd, pending, offset_bytes)
        except OSError as error:
            raise StorageError.from_os_error("write", path, error) from error
        pending = pending[written_bytes:]
        offset_bytes += written_bytes


def sync_and_close(fd: int, path: Path) -> None:
    """Make a written file durable and close it, even on failure; raises StorageError."""
    try:
        try:
            os.fsync(fd)
        finally:
            os.close(fd)
    except OSError as error:
        raise StorageError.from_os_error("write", path, error) from error


def close_written(fd: int, path: Path) -> None:
    """Close a written file that `sync_file_system` makes durable; raises StorageError."""
    try:
        os.close(fd)
    except OSError as error:
        raise StorageError.from_os_error("write", path, error) from error


def sync_file_system(path: Path) -> None:
    """Make all durable that was written to the file system of a directory: for many files one wait, syncfs(2).

    Raises StorageError.
    """
    import ctypes  # noqa: PLC0415 -- as above

    libc = ctypes.CDLL(None, use_errno=True)
    try:
        fd = os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    except OSError as error:
        raise StorageError.from_os_error("open", path, error) from error
    try:
        if libc.syncfs(fd) != 0:
            number = ctypes.get_errno()
            raise StorageError.from_os_error("write", path, OSError(number, os.strerror(number)))
    finally:
        close_quietly(fd)


def sync_directory(path: Path) -> None:
    """Make the names inside a directory durable; raises StorageError."""
    try:
        fd = os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    except OSError as error:
        raise StorageError.from_os_error("open", path, error) from error
    sync_and_close(fd, path)


def close_quietly(fd: int) -> None:
    """Close a descriptor whose data nobody needs any more."""
    with contextlib.suppress(OSError):
        os.close(fd)
