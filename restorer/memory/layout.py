"""The mappings of a process, made in a shell at their addresses."""

from __future__ import annotations

import os
import re
from collections.abc import Iterable, Sequence
from typing import Final

from dumper.kernel.remote import Call, CallFailed, Sys
from formats.manifest import Process, Vma
from restorer.caller import Caller
from restorer.errors import RestoreFailed
from restorer.memory.objects import MemoryObjects
from restorer.shell import Shell

PROT_READ, PROT_WRITE, PROT_EXEC = 1, 2, 4
MAP_SHARED, MAP_PRIVATE, MAP_DROPPABLE = 0x01, 0x02, 0x08
MAP_ANONYMOUS, MAP_GROWSDOWN, MAP_NORESERVE, MAP_FIXED_NOREPLACE = 0x20, 0x100, 0x4000, 0x100000
ARCH_MAP_VDSO_64: Final = 0x2003
MADV_GUARD_INSTALL: Final = 102
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
KERNEL_PATHS: Final = frozenset({"[vvar]", "[vvar_vclock]", "[vdso]"})
"""What the kernel maps as one thing."""
_FileKey = tuple[int | None, str, bool]  # object or path, and whether it may be written
_NAME = re.compile(r"\[anon(?:_shmem)?:(.*)\]")


def is_ours(vma: Vma) -> bool:
    """Whether a restore maps it: not so [vsyscall], which every process has."""
    return vma.path != "[vsyscall]"


class Mapper:
    """Maps what a process of the image had, in its shell; `close_files` when all is mapped."""

    def __init__(self, shell: Shell, process: Process, objects: MemoryObjects) -> None:
        self._shell = shell
        self._process = process
        self._objects = objects
        self._fds: dict[_FileKey, int] = {}

    def map_all(self) -> None:
        """Every mapping, empty. Raises RestoreFailed, StorageError, ImageCorrupt, CallFailed."""
        vmas = [vma for vma in self._process.vmas if is_ours(vma)]
        self._open_files(vmas)
        self._map_kernel_pages(vmas)
        for vma in vmas:
            if vma.path not in KERNEL_PATHS:
                self._map(vma)
        if self._fds:
            self._shell.calls([Call(Sys.CLOSE, (fd,)) for fd in self._fds.values()])

    def finish(self) -> None:
        """What comes when the pages are there: guards, protection, and locks. Raises CallFailed."""
        calls = [
            Call(Sys.MADVISE, (guard.start_addr, guard.end_addr - guard.start_addr, MADV_GUARD_INSTALL))
            for guard in self._process.guards
        ]
        for vma in self._process.vmas:
            flags = vma.flags.split()
            span = vma.start_addr, vma.end_addr - vma.start_addr
            if _protected_late(vma):
                calls.append(Call(Sys.MPROTECT, (*span, protection(vma))))
            if "lo" in flags:
                calls.append(Call(Sys.MLOCK2, (*span, MLOCK_ONFAULT if "lf" in flags else 0)))
        self._shell.calls(calls)

    def _map(self, vma: Vma) -> None:
        key = self._file_of(vma)
        fd = -1 if key is None else self._fds[key]
        calls = map_calls(self._shell, vma, fd, protection(vma) | (PROT_WRITE if _protected_late(vma) else 0))
        try:
            self._shell.calls(calls)
        except CallFailed as error:
            raise RestoreFailed(
                f"Cannot map {vma.path or 'memory'} at {vma.start_addr:#x} in process {self._process.pid}: {error}.",
                hint="Nothing was left behind. 'predump inspect --show vmas' lists what it had mapped.",
                pid=self._process.pid,
                addr=vma.start_addr,
            ) from error

    def _map_kernel_pages(self, vmas: Iterable[Vma]) -> None:
        """[vvar], [vvar_vclock] and [vdso], which the kernel maps in a row from the lowest of them on."""
        first = min((vma.start_addr for vma in vmas if vma.path in KERNEL_PATHS), default=None)
        if first is not None:
            self._shell.call(Sys.ARCH_PRCTL, ARCH_MAP_VDSO_64, first)

    def _open_files(self, vmas: Sequence[Vma]) -> None:
        """The files that are mapped, each once, as descriptors of the shell."""
        opened: list[int] = []
        ours: dict[_FileKey, int] = {}
        try:
            for vma in vmas:
                key = self._file_of(vma)
                if key is None or key in ours:
                    continue
                number, path, writable = key
                if number is not None:
                    ours[key] = self._objects.descriptor(number)
                else:
                    ours[key] = self._open(path, writable)
                    opened.append(ours[key])
            self._fds = dict(zip(ours, self._shell.receive(list(ours.values())), strict=True))
        finally:
            for fd in opened:
                os.close(fd)

    def _file_of(self, vma: Vma) -> _FileKey | None:
        """What is behind it, None where nothing is."""
        if vma.object is not None and not self._objects.has_name(vma.object):
            return vma.object, "", True
        if vma.path.startswith("/") and vma.has_file:
            return None, vma.path, vma.is_shared and "mw" in vma.flags.split()
        return None

    def _open(self, path: str, writable: bool) -> int:
        try:
            return os.open(path, (os.O_RDWR if writable else os.O_RDONLY) | os.O_CLOEXEC)
        except OSError as error:
            raise RestoreFailed(
                f"Process {self._process.pid} had {path} mapped, which cannot be opened: {error.strerror}.",
                hint="Put the same file there.",
                pid=self._process.pid,
                path=path,
            ) from error


def map_calls(caller: Caller, vma: Vma, fd: int, prot: int) -> list[Call]:
    """What maps it, with `fd` as its file, none if that is negative; the scratch holds its name until they are made."""
    length = vma.end_addr - vma.start_addr
    offset_bytes = vma.offset_bytes if fd >= 0 else 0
    calls = [Call(Sys.MMAP, (vma.start_addr, length, prot, _map_flags(vma, fd), fd, offset_bytes))]
    calls += [
        Call(Sys.MADVISE, (vma.start_addr, length, advice))
        for flag, advice in ADVICE.items()
        if flag in vma.flags.split()
    ]
    name = _NAME.fullmatch(vma.path)
    if name:
        name_addr = caller.put(os.fsencode(name[1]) + b"\0")
        calls.append(Call(Sys.PRCTL, (PR_SET_VMA, PR_SET_VMA_ANON_NAME, vma.start_addr, length, name_addr)))
    return calls


def protection(vma: Vma) -> int:
    """PROT_* of it."""
    return sum(
        bit for letter, bit in zip("rwx", (PROT_READ, PROT_WRITE, PROT_EXEC), strict=True) if letter in vma.perms
    )


def _map_flags(vma: Vma, fd: int) -> int:
    flags = vma.flags.split()
    kind = MAP_SHARED if vma.is_shared else MAP_DROPPABLE if "dp" in flags else MAP_PRIVATE
    kind |= MAP_FIXED_NOREPLACE | (MAP_ANONYMOUS if fd < 0 else 0)
    kind |= MAP_GROWSDOWN if "gd" in flags else 0
    return kind | (MAP_NORESERVE if "nr" in flags else 0)


def _protected_late(vma: Vma) -> bool:
    """Whether it was writable once, so that its pages count as the process's own ("ac"), and is no longer."""
    return "ac" in vma.flags.split() and "w" not in vma.perms and not vma.is_shared
