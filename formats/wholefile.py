"""A file for users that appears whole or not at all."""

from __future__ import annotations

import os
import stat
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from formats.errors import StorageError, UsageError
from formats.files import close_quietly, create_file, sync_and_close, sync_directory


@contextmanager
def whole_file(path: Path, *, force: bool) -> Iterator[tuple[int, Path]]:
    """Descriptor and temporary path of a file of mode 0600 that becomes `path`, durable, when the block ends well.

    With `force` it replaces a regular file of that name. Raises UsageError if something is in the way, StorageError.
    """
    _refuse_in_the_way(path, force=force)
    temporary = path.with_name(f"{path.name}.{os.getpid()}.tmp")
    fd = create_file(temporary)
    try:
        try:
            yield fd, temporary
        except BaseException:
            close_quietly(fd)
            raise
        sync_and_close(fd, temporary)
        _refuse_in_the_way(path, force=force)
        _rename(temporary, path)
    except BaseException:
        temporary.unlink(missing_ok=True)
        raise
    sync_directory(path.absolute().parent)


def _refuse_in_the_way(path: Path, *, force: bool) -> None:
    try:
        mode = path.lstat().st_mode
    except FileNotFoundError:
        return
    except OSError as error:
        raise StorageError.from_os_error("write", path, error) from error
    if not stat.S_ISREG(mode):
        raise UsageError(f"{path} exists and is no regular file.", hint="Name another file.", path=str(path))
    if not force:
        raise UsageError(f"{path} exists.", hint="Add --force to replace it, or name another file.", path=str(path))


def _rename(temporary: Path, path: Path) -> None:
    try:
        temporary.replace(path)
    except OSError as error:
        raise StorageError.from_os_error("create", path, error) from error
