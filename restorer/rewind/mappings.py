"""What became of a process's mappings since a dump, and how they become again what they were."""

from __future__ import annotations

import itertools
import os
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, suppress
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path
from stat import S_ISREG

from dumper.filesystems import device_name
from dumper.kernel.remote import Call, CallFailed, Sys
from dumper.memory_map import READABLE_RINGS, VmaKind
from dumper.memory_map import Vma as VmaNow
from dumper.proc.maps import DELETED
from formats import runs
from formats.manifest import ANONYMOUS_VMA_KINDS, Process, Vma
from restorer.memory.layout import MADV_GUARD_INSTALL, map_calls, name_of, protection
from restorer.rewind.findings import Findings
from restorer.rewind.guarded import GuardedProcess
from restorer.rewind.present import Present

MADV_GUARD_REMOVE = 103
AT_FDCWD = -100
SEALED = "sl"  # VmFlags: mseal(2)
GROWS_DOWN = "gd"
# What is told of a mapping but does not matter for it: what may become of it, and what tracking adds.
PASSING_FLAGS = frozenset(("mr", "mw", "me", "ms", "ac", "sd", "um", "uw", "gu", "rd", "wr", "ex", "sh", "lf", "??"))


@dataclass(frozen=True, slots=True)
class Part:
    """A range of addresses, and what is mapped there now, or was."""

    start_addr: int
    end_addr: int
    now: VmaNow | None
    then: Vma | None

    @property
    def n_bytes(self) -> int:
        """Its size."""
        return self.end_addr - self.start_addr


@dataclass(slots=True)
class MappingPlan:
    """added: to be mapped again; removed: to be unmapped, at last; protected: whose protection changed.

    kept: ranges with what was mapped there then, and is; emptied: ranges that are kept though they were not there then.
    guards, free: ranges that become guard pages, and that are no longer.
    """

    added: list[Part] = field(default_factory=list)
    removed: list[Part] = field(default_factory=list)
    protected: list[Part] = field(default_factory=list)
    kept: list[Part] = field(default_factory=list)
    emptied: list[runs.Range] = field(default_factory=list)
    guards: list[runs.Range] = field(default_factory=list)
    free: list[runs.Range] = field(default_factory=list)


def plan_mappings(present: Present, process: Process, findings: Findings) -> MappingPlan:
    """What has to be done; what cannot be done, and what is left, goes to the findings."""
    plan = MappingPlan()
    if any(one.mapping.path.startswith(READABLE_RINGS) for one in present.vmas):
        findings.obstacles.append("the kernel works at requests of it (io_uring, aio), and would write into its memory")
    for part in _parts(present.vmas, process.vmas):
        _sort_in(part, present, plan, findings)
    guards_then = [(one.start_addr, one.end_addr) for one in process.guards]
    guards_now = present.guards()
    kept = list(runs.merge((part.start_addr, part.end_addr) for part in plan.kept))
    plan.guards = list(runs.subtract(guards_then, guards_now))
    plan.free = list(runs.intersect(runs.subtract(guards_now, guards_then), kept))
    site_addr = present.syscall_addr
    if not any(part.start_addr <= (site_addr or 0) < part.end_addr for part in plan.kept):
        findings.obstacles.append("the code from which it makes system calls was not mapped then")
    return plan


def _parts(now: Sequence[VmaNow], then: Sequence[Vma]) -> Iterator[Part]:
    """The address space cut wherever a mapping of either begins or ends, without what neither has."""
    cuts = sorted(
        {addr for one in now for addr in (one.mapping.start_addr, one.mapping.end_addr)}
        | {addr for vma in then for addr in (vma.start_addr, vma.end_addr)}
    )
    i = j = 0
    for start_addr, end_addr in itertools.pairwise(cuts):
        while i < len(now) and now[i].mapping.end_addr <= start_addr:
            i += 1
        while j < len(then) and then[j].end_addr <= start_addr:
            j += 1
        one = now[i] if i < len(now) and now[i].mapping.start_addr <= start_addr else None
        vma = then[j] if j < len(then) and then[j].start_addr <= start_addr else None
        if one or vma:
            yield Part(start_addr, end_addr, one, vma)


def _sort_in(part: Part, present: Present, plan: MappingPlan, findings: Findings) -> None:
    now, then = part.now, part.then
    if now and then:
        if _backing_now(now) != _backing_then(then):
            findings.obstacles.append(f"{_place(part)} is {_name_now(now)} now, and was {_name_then(then)}")
            return
        plan.kept.append(part)
        if now.mapping.perms != then.perms:
            plan.protected.append(part)
        _compare_flags(part, present.flags_at(part.start_addr), set(then.flags.split()), findings)
    elif then:
        problem = _why_not_again(then, present.target.tid)
        if problem:
            findings.obstacles.append(f"{_name_then(then)} at {_place(part)} is not mapped any more: {problem}")
        plan.added.append(part)
    elif now:
        flags = present.flags_at(part.start_addr)
        if now.kind in (VmaKind.SPECIAL, VmaKind.DEVICE) or SEALED in flags:
            findings.obstacles.append(f"{_name_now(now)} is mapped at {_place(part)} now, and cannot be unmapped")
        elif GROWS_DOWN in flags and part.end_addr < now.mapping.end_addr:  # a stack that has grown stays as large
            plan.emptied.append((part.start_addr, part.end_addr))
        else:
            plan.removed.append(part)


def _compare_flags(part: Part, now: set[str], then: set[str], findings: Findings) -> None:
    if then and (changed := sorted((now ^ then) - PASSING_FLAGS)):
        findings.left.append(f"flags of the mapping at {_place(part)} ({', '.join(changed)})")


def _backing_now(one: VmaNow) -> tuple[object, ...]:
    mapping = one.mapping
    if one.kind in ANONYMOUS_VMA_KINDS:
        return (True,)
    if not mapping.has_file:
        return (mapping.path, mapping.start_addr, mapping.end_addr)
    return (mapping.device, mapping.inode, mapping.is_shared, mapping.start_addr - mapping.offset_bytes)


def _backing_then(vma: Vma) -> tuple[object, ...]:
    if vma.kind in ANONYMOUS_VMA_KINDS:
        return (True,)
    if not vma.has_file:
        return (vma.path, vma.start_addr, vma.end_addr)
    return (vma.device, vma.inode, vma.is_shared, vma.start_addr - vma.offset_bytes)


def _why_not_again(vma: Vma, tid: int) -> str:
    """Why it cannot be mapped again, "" if it can."""
    if vma.kind in ANONYMOUS_VMA_KINDS:
        return ""
    if vma.kind not in (VmaKind.FILE, VmaKind.SHMEM) or vma.path.endswith(DELETED) or not vma.path.startswith("/"):
        return "it has no name by which it could be opened"
    with suppress(OSError, ValueError):
        status = Path(f"/proc/{tid}/root{vma.path}").stat()
        if S_ISREG(status.st_mode) and (device_name(status.st_dev), status.st_ino) == (vma.device, vma.inode):
            return ""
    return "the file is not there any more"


def _place(part: Part) -> str:
    return f"{part.start_addr:#x}-{part.end_addr:#x}"


def _name_now(one: VmaNow) -> str:
    return one.mapping.path or "memory"


def _name_then(vma: Vma) -> str:
    return vma.path or "memory"


class Remapper:
    """Carries a plan out, but for what is unmapped, which comes when nothing can fail any more."""

    def __init__(self, process: GuardedProcess, plan: MappingPlan, undo: ExitStack) -> None:
        self._process = process
        self._plan = plan
        self._undo = undo

    def prepare(self) -> None:
        """Mappings and their protection; guards that are in the way of pages are gone. Raises CallFailed."""
        for part in self._plan.added:
            self._add(part)
        for part in self._plan.protected:
            assert part.now is not None
            assert part.then is not None
            self._protect(part, protection(part.then), protection(replace(part.then, perms=part.now.mapping.perms)))
        self._advise(self._plan.free, MADV_GUARD_REMOVE, MADV_GUARD_INSTALL)

    def finish(self) -> None:
        """Guards, when the pages are there. Raises CallFailed."""
        self._advise(self._plan.guards, MADV_GUARD_INSTALL, MADV_GUARD_REMOVE)

    def remove(self) -> list[str]:
        """Unmaps what was not there; what could not be unmapped, as words. Raises OSError if the process is gone."""
        left = []
        for part in self._plan.removed:
            try:
                self._process.call(Sys.MUNMAP, part.start_addr, part.n_bytes)
            except CallFailed as error:
                left.append(f"the mapping at {_place(part)}, which is new ({error.strerror})")
        return left

    def _add(self, part: Part) -> None:
        process, then = self._process, part.then
        assert then is not None
        vma = replace(
            then,
            start_addr=part.start_addr,
            end_addr=part.end_addr,
            offset_bytes=then.offset_bytes + part.start_addr - then.start_addr,
        )
        fd = -1
        if vma.kind not in ANONYMOUS_VMA_KINDS:
            writable = vma.is_shared and "mw" in vma.flags.split()
            path_addr = process.put(os.fsencode(vma.path) + b"\0", 1024)
            fd = process.call(
                Sys.OPENAT, AT_FDCWD, path_addr, (os.O_RDWR if writable else os.O_RDONLY) | os.O_CLOEXEC, 0
            )
        try:
            if fd >= 0:
                self._check_file(fd, vma)
            self._undo.callback(process.call, Sys.MUNMAP, vma.start_addr, part.n_bytes)
            process.calls(map_calls(vma, fd, protection(vma), process.put(name_of(vma))))
        finally:
            if fd >= 0:
                process.call(Sys.CLOSE, fd)

    def _check_file(self, fd: int, vma: Vma) -> None:
        """Raises FileNotFoundError if another file has its name by now."""
        status = Path(f"/proc/{self._process.target.tid}/fd/{fd}").stat()
        if (device_name(status.st_dev), status.st_ino) != (vma.device, vma.inode):
            raise FileNotFoundError(f"{vma.path} is another file than it was")

    def _protect(self, part: Part, then: int, now: int) -> None:
        self._undo.callback(self._process.call, Sys.MPROTECT, part.start_addr, part.n_bytes, now)
        self._process.call(Sys.MPROTECT, part.start_addr, part.n_bytes, then)

    def _advise(self, ranges: Sequence[runs.Range], advice: int, opposite: int) -> None:
        calls = partial(_advice_calls, ranges)
        if ranges:
            self._undo.callback(lambda: self._process.calls(calls(opposite)))
            self._process.calls(calls(advice))


def _advice_calls(ranges: Sequence[runs.Range], advice: int) -> list[Call]:
    return [Call(Sys.MADVISE, (start, end - start, advice)) for start, end in ranges]
