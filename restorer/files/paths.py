"""Files, directories and devices, which are opened again by their paths; memfds and files without a name."""

from __future__ import annotations

import errno
import os
import stat
from contextlib import suppress

from dumper.filesystems import device_name
from dumper.kernel.descriptors import RESOLVE_NO_SYMLINKS, open_path
from formats.openfiles import OpenFile
from restorer.files.records import O_PATH, file_type, has_path, is_path_only
from restorer.files.workshop import O_LARGEFILE, STATUS_FLAGS, Workshop

O_TMPFILE = 0o20000000  # the kernel's __O_TMPFILE
# What open(2) takes when a file is opened again: not O_CREAT, O_EXCL, O_TRUNC; O_ASYNC is set later.
OPEN_FLAGS = os.O_ACCMODE | os.O_SYNC | os.O_DIRECTORY | os.O_NOFOLLOW | O_LARGEFILE | STATUS_FLAGS
PATH_FLAGS = O_PATH | os.O_DIRECTORY | os.O_NOFOLLOW
PUT_BACK = "Put back what was there, and try again."


def open_again(shop: Workshop, one: OpenFile) -> int:
    """A file, directory or device, or whatever was opened with O_PATH. Raises RestoreFailed, OSError."""
    if one.object is not None and not has_path(one):
        fd = shop.reopen(shop.objects.descriptor(one.object), one.flags)
        _set_time(fd, one)
    else:
        fd = _open_by_path(shop, one)
    if one.offset and not is_path_only(one):
        os.lseek(fd, one.offset, os.SEEK_SET)
    return fd


def open_named(path: str, flags: int) -> int:
    """By a path without symbolic links, as the kernel tells it; raises OSError (ELOOP where there are some now)."""
    return open_path(path, flags, RESOLVE_NO_SYMLINKS)


def _set_time(fd: int, one: OpenFile) -> None:
    """When it was written last, if the caller may say so. Raises OSError."""
    if one.mtime_ns:
        with suppress(PermissionError):
            os.utime(fd, ns=(os.fstat(fd).st_atime_ns, one.mtime_ns))


def find_place(shop: Workshop, one: OpenFile) -> int:
    """Where it is, opened with O_PATH, which nobody notices; it is of the same kind. Raises RestoreFailed."""
    if not has_path(one):
        shop.refuse(one, "it has no name any more, and the image does not have its content")
    try:
        place = shop.own_for_now(open_named(one.path, O_PATH | os.O_NOFOLLOW))
        status = os.fstat(place)
    except OSError as error:
        shop.refuse(one, _reason(error), PUT_BACK)
    if stat.S_IFMT(status.st_mode) != file_type(one):
        shop.refuse(one, "something of another kind is there now", PUT_BACK)
    if one.special and device_name(status.st_rdev) != one.special:
        shop.refuse(one, "another device is there now", PUT_BACK)
    return place


def _open_by_path(shop: Workshop, one: OpenFile) -> int:
    """Raises RestoreFailed."""
    place = find_place(shop, one)
    try:
        fd = shop.own(open_named(one.path, _flags(one)))
    except OSError as error:
        shop.refuse(one, _reason(error), "Let the caller read and write it as the process did, and try again.")
    if not os.path.samestat(os.fstat(place), os.fstat(fd)):
        shop.refuse(one, "it was replaced while it was opened")
    return fd


def _flags(one: OpenFile) -> int:
    if is_path_only(one):
        return one.flags & PATH_FLAGS
    flags = one.flags & OPEN_FLAGS
    if file_type(one) != stat.S_IFDIR or one.flags & O_TMPFILE:
        flags &= ~os.O_DIRECTORY
    return flags | os.O_NOCTTY


def _reason(error: OSError) -> str:
    if error.errno == errno.ELOOP:
        return "a symbolic link is on its path now"
    return error.strerror or str(error)
