"""The mappings of a process, made in a shell at their addresses."""

from __future__ import annotations

import errno
import os
import re
import resource
import stat
import struct
from collections.abc import Sequence
from typing import Final

from dumper.kernel.remote import Call, CallFailed, Sys
from formats import runs
from formats.manifest import Process, Vma
from restorer.errors import RestoreFailed
from restorer.memory import hugepages
from restorer.memory.newfiles import ANONYMOUS_HUGE
from restorer.memory.objects import MemoryObjects
from restorer.memory.vdso import KERNEL_PATHS
from restorer.shell import SCRATCH_BYTES, Shell

PROT_READ, PROT_WRITE, PROT_EXEC = 1, 2, 4
MAP_SHARED, MAP_PRIVATE, MAP_DROPPABLE = 0x01, 0x02, 0x08
MAP_ANONYMOUS, MAP_GROWSDOWN, MAP_NORESERVE, MAP_FIXED_NOREPLACE = 0x20, 0x100, 0x4000, 0x100000
MADV_GUARD_INSTALL: Final = 102
SHM_RDONLY: Final = 0o10000
PR_SET_VMA, PR_SET_VMA_ANON_NAME = 0x53564D41, 0
MLOCK_ONFAULT: Final = 1

ADVICE: Final = {
    "sr": 2,  # MADV_SEQUENTIAL
    "rr": 1,  # MADV_RANDOM
    "dc": 10,  # MADV_DONTFORK
    "mg": 12,  # MADV_MERGEABLE
    "hg": 14,  # MADV_HUGEPAGE
    "nh": 15,  # MADV_NOHUGEPAGE
    "dd": 16,  # MADV_DONTDUMP
    "wf": 18,  # MADV_WIPEONFORK
}
"""VmFlags of /proc/PID/smaps that madvise(2) sets."""
_FileKey = tuple[int | None, str, bool]  # object or path, and whether it may be written
_NAME = re.compile(r"\[anon(?:_shmem)?:(.*)\]")
_UPROBES = "[uprobes]"


def is_ours(vma: Vma) -> bool:
    """Whether a restore maps it: not so [vsyscall], which every process has, and [uprobes], which the kernel makes."""
    return vma.path not in ("[vsyscall]", _UPROBES)


class Mapper:
    """Maps what a process of the image had, in its shell."""

    def __init__(self, shell: Shell, process: Process, objects: MemoryObjects) -> None:
        self._shell = shell
        self._process = process
        self._objects = objects
        self._fds: dict[_FileKey, int] = {}

    def map_all(self) -> None:
        """Every mapping but those of the kernel's, empty. Raises RestoreFailed, StorageError, ImageCorrupt."""
        self.map([vma for vma in self._process.vmas if is_ours(vma) and vma.path not in KERNEL_PATHS])

    def map(self, vmas: Sequence[Vma]) -> None:
        """These mappings of the process, or parts of such, empty. Raises as `map_all`."""
        attached = [vma for vma in vmas if vma.object is not None and self._objects.is_segment(vma.object)]
        self._attach(attached)  # before there is something else where a part of one was unmapped
        if attached:
            vmas = [vma for vma in vmas if vma.object is None or not self._objects.is_segment(vma.object)]
        self._open_files(vmas)
        self._map(vmas)
        if self._fds:
            self._shell.calls([Call(Sys.CLOSE, (fd,)) for fd in self._fds.values()])

    def finish(self) -> None:
        """What comes when the pages are there: protection, guards, locks and seals. Raises CallFailed."""
        vmas = self._process.vmas
        late = [Call(Sys.MPROTECT, (*_span(vma), protection(vma))) for vma in vmas if _protected_late(vma)]
        late += [
            Call(Sys.MADVISE, (guard.start_addr, guard.end_addr - guard.start_addr, MADV_GUARD_INSTALL))
            for guard in self._process.guards
        ]
        locked = [vma for vma in vmas if "lo" in vma.flags.split()]
        if locked:
            self._lift_lock_limit()
        late += [Call(Sys.MLOCK2, (*_span(vma), MLOCK_ONFAULT if "lf" in vma.flags.split() else 0)) for vma in locked]
        late += [Call(Sys.MSEAL, (*_span(vma), 0)) for vma in vmas if "sl" in vma.flags.split()]
        self._shell.calls(late)

    def _attach(self, vmas: Sequence[Vma]) -> None:
        """Segments of System V, each whole, as shmat(2) does it; then what the process has unmapped of it goes."""
        groups: dict[tuple[int | None, int, bool], list[Vma]] = {}
        for vma in vmas:
            groups.setdefault((vma.object, vma.start_addr - vma.offset_bytes, _is_writable(vma)), []).append(vma)
        for (number, start_addr, is_writable), parts in groups.items():
            assert number is not None
            segment, n_bytes = self._objects.segment(number)
            whole = [(start_addr, start_addr + n_bytes)]
            gone = runs.subtract(whole, [(vma.start_addr, vma.end_addr) for vma in parts])
            calls = [Call(Sys.SHMAT, (segment, start_addr, 0 if is_writable else SHM_RDONLY))]
            calls += [Call(Sys.MUNMAP, (start, end - start)) for start, end in gone]
            for vma in parts:
                calls += [Call(Sys.MPROTECT, (*_span(vma), protection(vma))), *_advice_calls(vma)]
            try:
                self._shell.calls(calls)
            except CallFailed as error:
                raise self._cannot_map(error) from error

    def _map(self, vmas: Sequence[Vma]) -> None:
        """As many at once as there is room for their names in the scratch."""
        calls: list[Call] = []
        names = bytearray()
        for vma in vmas:
            name = name_of(vma)
            if len(names) + len(name) > SCRATCH_BYTES:
                self._make(calls, names)
            calls += map_calls(vma, self._fd_of(vma), first_protection(vma), self._shell.scratch_addr + len(names))
            names += name
        self._make(calls, names)

    def _make(self, calls: list[Call], names: bytearray) -> None:
        self._shell.put(bytes(names))
        try:
            self._shell.calls(calls)
        except CallFailed as error:
            raise self._cannot_map(error) from error
        calls.clear()
        names.clear()

    def _cannot_map(self, error: CallFailed) -> RestoreFailed:
        starts = {vma.start_addr: vma for vma in self._process.vmas}
        vma = next((starts[arg] for arg in error.call.args if arg in starts), None)
        what = f"{vma.path or 'memory'} at {vma.start_addr:#x}" if vma else "memory"
        return RestoreFailed(
            f"Cannot map {what} in process {self._process.pid}: {error}.",
            hint="Nothing was left behind. 'predump inspect --show vmas' lists what it had mapped.",
            pid=self._process.pid,
        )

    def _lift_lock_limit(self) -> None:
        """As far as it goes: the limit that the process had comes later, and it may have locked more than that."""
        limits = resource.prlimit(self._shell.pid, resource.RLIMIT_MEMLOCK)
        addr = self._shell.put(struct.pack("2q", limits[1], limits[1]))
        self._shell.call(Sys.PRLIMIT64, 0, resource.RLIMIT_MEMLOCK, addr, 0)

    def _open_files(self, vmas: Sequence[Vma]) -> None:
        """The files that are mapped, each once, as descriptors of the shell."""
        opened: dict[_FileKey, int] = {}
        try:
            for vma in vmas:
                key = self._file_of(vma)
                if key is not None and key not in opened:
                    opened[key] = self._open(key)
            self._fds = dict(zip(opened, self._shell.receive(list(opened.values())), strict=True))
        finally:
            for fd in opened.values():
                os.close(fd)

    def _fd_of(self, vma: Vma) -> int:
        key = self._file_of(vma)
        return -1 if key is None else self._fds[key]

    def _file_of(self, vma: Vma) -> _FileKey | None:
        """What is behind it, None where nothing is. Raises RestoreFailed where that cannot be had."""
        is_writable = _is_writable(vma)
        if vma.object is not None and self._objects.is_memory(vma.object):
            return vma.object, "", is_writable
        if vma.kind == "hugetlb" and not vma.is_shared and vma.path.startswith(ANONYMOUS_HUGE):
            return None
        if vma.kind in ("device", "special"):
            raise RestoreFailed(
                f"Process {self._process.pid} had {vma.path} mapped at {vma.start_addr:#x}, which is not made again.",
                hint="'predump inspect' names all that stands in the way.",
                pid=self._process.pid,
                addr=vma.start_addr,
            )
        return (None, vma.path, is_writable) if vma.has_file else None

    def _open(self, key: _FileKey) -> int:
        number, path, is_writable = key
        flags = (os.O_RDWR if is_writable else os.O_RDONLY) | os.O_CLOEXEC
        try:
            if number is not None:
                return os.open(f"/proc/self/fd/{self._objects.descriptor(number)}", flags)
            if not stat.S_ISREG(os.lstat(path).st_mode):
                raise OSError(errno.EINVAL, "It is no regular file any more")
            return os.open(path, flags | os.O_NOFOLLOW)
        except OSError as error:
            raise RestoreFailed(
                f"Process {self._process.pid} had {path or 'shared memory'} mapped, which cannot be opened: "
                f"{error.strerror}.",
                hint="Put the same file there.",
                pid=self._process.pid,
                path=path,
            ) from error


def map_calls(vma: Vma, fd: int, prot: int, name_addr: int) -> list[Call]:
    """What maps it, with `fd` as its file, none if that is negative, and with what `name_of` says at `name_addr`."""
    offset_bytes = vma.offset_bytes if fd >= 0 else 0
    calls = [Call(Sys.MMAP, (*_span(vma), prot, _map_flags(vma, fd), fd, offset_bytes))]
    calls += _advice_calls(vma)
    if name_of(vma):
        calls.append(Call(Sys.PRCTL, (PR_SET_VMA, PR_SET_VMA_ANON_NAME, *_span(vma), name_addr)))
    return calls


def _advice_calls(vma: Vma) -> list[Call]:
    flags = vma.flags.split()
    return [Call(Sys.MADVISE, (*_span(vma), advice)) for flag, advice in ADVICE.items() if flag in flags]


def _is_writable(vma: Vma) -> bool:
    """Whether it is shared memory that may be written to, now or after mprotect(2)."""
    flags = vma.flags.split()
    return vma.is_shared and ("mw" in flags if flags else "w" in vma.perms)


def name_of(vma: Vma) -> bytes:
    """The name of anonymous memory as PR_SET_VMA takes it, ended by a zero; nothing if it has none."""
    name = _NAME.fullmatch(vma.path)
    return os.fsencode(name[1]) + b"\0" if name else b""


def protection(vma: Vma) -> int:
    """PROT_* of it."""
    return sum(
        bit for letter, bit in zip("rwx", (PROT_READ, PROT_WRITE, PROT_EXEC), strict=True) if letter in vma.perms
    )


def _span(vma: Vma) -> tuple[int, int]:
    return vma.start_addr, vma.end_addr - vma.start_addr


def first_protection(vma: Vma) -> int:
    """PROT_* until all of its pages are there."""
    return protection(vma) | (PROT_WRITE if _protected_late(vma) else 0)


def _map_flags(vma: Vma, fd: int) -> int:
    flags = vma.flags.split()
    kind = MAP_SHARED if vma.is_shared else MAP_DROPPABLE if "dp" in flags else MAP_PRIVATE
    kind |= MAP_FIXED_NOREPLACE | (MAP_ANONYMOUS if fd < 0 else 0)
    if fd < 0 and vma.kind == "hugetlb":
        kind |= hugepages.map_flags(hugepages.page_bytes(vma.device, vma.start_addr, vma.end_addr))
    kind |= MAP_GROWSDOWN if "gd" in flags else 0
    return kind | (MAP_NORESERVE if "nr" in flags else 0)


def _protected_late(vma: Vma) -> bool:
    """Whether it was writable once, so that its pages count as the process's own ("ac"), and is no longer."""
    return "ac" in vma.flags.split() and "w" not in vma.perms and not vma.is_shared
