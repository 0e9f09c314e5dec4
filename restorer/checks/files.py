"""Files that are mapped or open, executables, directories: they must be there, and be what they were.

Looked at by the caller's own rights, and through no symbolic link in their place: the kernel told where they are.
"""

from __future__ import annotations

import os
import stat
from collections.abc import Iterator
from functools import partial

from formats.buildid import build_id
from formats.manifest import FileKey, Manifest, MappedFile, Process
from formats.openfiles import OpenFile, OpenFileKind
from restorer.checks.findings import Problem, Subject

O_PATH, O_APPEND = os.O_PATH, os.O_APPEND
_DELETED = " (deleted)"
_SECOND_NS = 10**9
_MAX_OFFSET = 1 << 62
_READ = os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_NOCTTY | os.O_CLOEXEC
_PUT_BACK = "Put the same file there, or restore where it is."

KINDS = {
    OpenFileKind.FILE: (stat.S_IFREG, "a regular file"),
    OpenFileKind.DIRECTORY: (stat.S_IFDIR, "a directory"),
    OpenFileKind.FIFO: (stat.S_IFIFO, "a FIFO"),
}
"""What must be at the path of an open file."""


def look(manifest: Manifest) -> Iterator[Problem]:
    """All of them, each once."""
    with_names = {item.id for item in manifest.objects if item.kind == "file"}
    for process in manifest.processes:
        if process.zombie is None:
            yield from _mapped(process, with_names)
            yield from _executable(process)
            yield from _directories(process)
    for item in manifest.open_files:
        if item.kind in KINDS and not item.deleted and item.object is None:
            yield from _open_file(item)
        elif item.kind is OpenFileKind.DEVICE:
            yield from _device(item)


# ---- mapped -------------------------------------------------------------------------------------------------------


def _mapped(process: Process, with_names: set[int]) -> Iterator[Problem]:
    """Of files that come from their path: what nobody wrote of private mappings is there only."""
    recorded = {one.file_key: one for one in process.mapped_files}
    shared: dict[FileKey, bool] = {}
    extents: dict[FileKey, int] = {}
    for vma in process.vmas:
        if vma.kind == "file" and vma.path.startswith("/") and (vma.object is None or vma.object in with_names):
            shared[vma.file_key] = shared.get(vma.file_key, True) and vma.is_shared
            extents[vma.file_key] = max(extents.get(vma.file_key, 0), vma.offset_bytes)
    for key, is_shared in shared.items():
        record = recorded.get(key, MappedFile(path=key[0], device=key[1], inode=key[2]))
        yield from _same(record, f"mapped by process {process.pid}", extents[key], is_shared=is_shared)


def _same(record: MappedFile, why: str, last_offset_bytes: int, *, is_shared: bool) -> Iterator[Problem]:
    """Whether what is at its path is the file, by build id, or by size and time of the last write.

    One that is mapped shared only may have been written to since: by whoever mapped it, for example.
    """
    path = record.path
    try:
        fd = os.open(path, _READ)
    except OSError as error:
        yield _gone(path, why, error)
        return
    try:
        status = os.fstat(fd)
        if not stat.S_ISREG(status.st_mode):
            yield Problem(Subject.FILE, f"{path}, {why}, is no regular file any more.", _PUT_BACK)
            return
        if record.build_id:
            if build_id(partial(_pread, fd)) != record.build_id:
                yield Problem(
                    Subject.FILE, f"{path}, {why}, is another one: its build id is not {record.build_id}.", _PUT_BACK
                )
            return
    except OSError as error:
        yield _gone(path, why, error)
        return
    finally:
        os.close(fd)
    if status.st_size <= last_offset_bytes:
        yield Problem(Subject.FILE, f"{path}, {why}, is shorter than what was mapped of it.", _PUT_BACK)
    elif record.mtime_ns and not _is_as_it_was(record.size_bytes, record.mtime_ns, status):
        message = f"{path}, {why}, has been written to since, or is another one (size {status.st_size})."
        yield Problem(Subject.FILE, message, _PUT_BACK, stops=not is_shared)


def _is_as_it_was(size_bytes: int, mtime_ns: int, status: os.stat_result) -> bool:
    """By size and time; archives of some formats have whole seconds."""
    return status.st_size == size_bytes and status.st_mtime_ns in {mtime_ns, mtime_ns // _SECOND_NS * _SECOND_NS}


def _pread(fd: int, offset_bytes: int, n_bytes: int) -> bytes:
    return os.pread(fd, n_bytes, offset_bytes) if 0 <= offset_bytes < _MAX_OFFSET else b""


def _executable(process: Process) -> Iterator[Problem]:
    """It is mapped, as a rule; what is not can only be missed by the link to it."""
    why = f"the executable of process {process.pid}"
    if process.exe.endswith(_DELETED):
        message = f"{process.exe.removesuffix(_DELETED)}, {why}, had been removed already: the link to it is another."
        yield Problem(Subject.FILE, message, stops=False)
    elif process.exe and not any(vma.path == process.exe for vma in process.vmas):
        record = MappedFile(path=process.exe, device="", inode=0, build_id=process.exe_build_id)
        yield from (
            Problem(one.subject, one.message, one.hint, stops=False) for one in _same(record, why, 0, is_shared=False)
        )


def _directories(process: Process) -> Iterator[Problem]:
    if process.state is None:
        return
    for what, path in (("working directory", process.state.cwd), ("root directory", process.state.root)):
        if path and not os.path.isdir(path):  # noqa: PTH112 -- any string that an image has
            message = f"{path}, the {what} of process {process.pid}, is no directory here."
            yield Problem(Subject.FILE, message, "Make it, or restore where it is.")


# ---- open ---------------------------------------------------------------------------------------------------------


def _open_file(item: OpenFile) -> Iterator[Problem]:
    kind, words = KINDS[item.kind]
    path, why = item.path, f"open file {item.id}"
    try:
        status = os.lstat(path)
    except (OSError, ValueError) as error:
        yield _gone(path, why, error)
        return
    if stat.S_IFMT(status.st_mode) != kind:
        yield Problem(Subject.FILE, f"{path}, {why}, is not {words} any more.", _PUT_BACK)
        return
    yield from _access(item, path, why)
    if item.kind is not OpenFileKind.FILE or item.flags & O_PATH:
        return
    if status.st_size < item.size_bytes:
        message = f"{path}, {why}, is shorter than it was: {status.st_size} bytes instead of {item.size_bytes}."
        yield Problem(Subject.FILE, message, "Put back the file as it was when the dump was taken.")
    elif item.mtime_ns and not _is_as_it_was(item.size_bytes, item.mtime_ns, status):
        yield Problem(Subject.FILE, f"{path}, {why}, has been written to since the dump.", stops=False)


def _access(item: OpenFile, path: str, why: str) -> Iterator[Problem]:
    if item.flags & O_PATH:
        return
    mode = {os.O_RDONLY: os.R_OK, os.O_WRONLY: os.W_OK}.get(item.flags & os.O_ACCMODE, os.R_OK | os.W_OK)
    if not os.access(path, mode, effective_ids=True):
        message = f"{path}, {why}, may not be opened by this user as it was."
        yield Problem(Subject.PRIVILEGE, message, "Run it as the user who may, or as root.")


def _device(item: OpenFile) -> Iterator[Problem]:
    path, why = item.path, f"open file {item.id}"
    try:
        status = os.lstat(path)
    except (OSError, ValueError) as error:
        yield _gone(path, why, error)
        return
    here = f"{os.major(status.st_rdev):02x}:{os.minor(status.st_rdev):02x}"
    if stat.S_IFMT(status.st_mode) != stat.S_IFMT(item.mode) or here != item.special:
        yield Problem(
            Subject.FILE, f"{path}, {why}, is not the device {item.special} any more.", "Make the device node again."
        )
        return
    yield from _access(item, path, why)


def _gone(path: str, why: str, error: OSError | ValueError) -> Problem:
    reason = error.strerror if isinstance(error, OSError) else "impossible name"
    return Problem(Subject.FILE, f"{path[:200]}, {why}, cannot be opened: {reason}.", _PUT_BACK)
