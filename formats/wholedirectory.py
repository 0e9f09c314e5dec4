"""A directory for users that appears whole or not at all."""

from __future__ import annotations

import errno
import os
import shutil
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

from formats.errors import StorageError, UsageError
from formats.files import create_directory, exchange, sync_directory, sync_file_system


@contextmanager
def whole_directory(path: Path, replaces: Callable[[Path], bool] | None = None) -> Iterator[Path]:
    """A new directory of mode 0700 that becomes `path` when the block ends well.

    All that was written to its file system is durable by then: files in it need no fsync(2) of their own. Nothing may
    be there but an empty directory, which it replaces: files that somebody has put together are not for us to remove.
    Of any other `replaces` says whether it has nothing but what was made in this way (it may raise OSError).
    Raises UsageError if something is in the way, StorageError.
    """
    _refuse_in_the_way(path, replaces)
    temporary = path.with_name(f"{path.name}.{os.getpid()}.tmp")
    create_directory(temporary)
    try:
        yield temporary
        sync_file_system(temporary)
        _put_in_place(temporary, path, replaces)
    except BaseException:
        shutil.rmtree(temporary, ignore_errors=True)
        raise
    sync_directory(path.absolute().parent)


def _put_in_place(temporary: Path, path: Path, replaces: Callable[[Path], bool] | None) -> None:
    try:
        temporary.rename(path)  # rename(2) takes the place of an empty directory, and of no other
    except OSError as error:
        _refuse_in_the_way(path, replaces)
        if error.errno not in {errno.ENOTEMPTY, errno.EEXIST}:
            raise StorageError.from_os_error("create", path, error) from error
        exchange(temporary, path)
        shutil.rmtree(temporary, ignore_errors=True)


def _refuse_in_the_way(path: Path, replaces: Callable[[Path], bool] | None) -> None:
    if path.is_symlink() or (path.exists() and not path.is_dir()):
        raise UsageError(f"{path} exists and is no directory.", hint="Name a new directory.", path=str(path))
    try:
        in_the_way = path.is_dir() and any(path.iterdir()) and not (replaces and replaces(path))
    except OSError as error:
        raise StorageError.from_os_error("read", path, error) from error
    if in_the_way:
        what = "has other files than an export" if replaces else "is not empty"
        raise UsageError(f"{path} exists and {what}.", hint="Name a new directory.", path=str(path))
