"""Which pages of a stretch of memory were written since one last asked: the caller's memory, or another process's.

What GetWriteWatch and ResetWriteWatch are on Windows. docs/writewatch.md says what counts as written.
"""

from __future__ import annotations

import errno
import os
import threading
from collections.abc import Iterable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from typing import TYPE_CHECKING, NamedTuple, TypeAlias

from dumper import lease
from dumper.errors import KernelFeatureMissing, PermissionDenied, TargetGone, TargetUntraceable
from dumper.inject import take_userfaultfd
from dumper.kernel import uffd
from dumper.kernel.buffers import BufferMemory
from dumper.kernel.pages import Scanner, Span, SpanFlag, SpanTable
from dumper.kernel.runs import RunList
from dumper.memory_map import Classifier, VmaKind, is_trackable
from dumper.proc import GONE_ERRORS
from dumper.proc.maps import Mapping, MapsParser
from dumper.proc.smaps import parse_page_bytes, read_smaps
from dumper.target import Target
from formats.closing import Closing
from formats.layout import PAGE_BYTES

if TYPE_CHECKING:
    from _typeshed import ReadableBuffer

    Region: TypeAlias = tuple[int, int] | ReadableBuffer

READ_BYTES = 1 << 16


class NotWatchable(TargetUntraceable):
    """Memory whose writes the kernel does not report, all of them: not mapped, shared, or no ordinary memory."""


class WatchedRegion(NamedTuple):
    """A region of whole pages, [start_addr, end_addr); `page_bytes` is more than 4096 in memory of hugetlbfs."""

    start_addr: int
    end_addr: int
    page_bytes: int


class WriteWatch(Closing):
    """A watch over some regions of the memory of one process, from its creation until `close`.

    Made by `of_self` and `of_process`. Any thread of the process that made it may use it. All methods raise, and leave
    the watch as it is (what was written meanwhile is told by the next call that succeeds):

        TargetGone: the memory is gone: the process has ended or called exec.
        NotWatchable: a part of a region is not mapped any more, or cannot be watched; a TargetUntraceable.
        TargetUntraceable: another userfaultfd has some of the memory.
        RuntimeError: in a forked child: the watch is over the memory of its parent, and only the parent may use it.
        ValueError: the watch is closed.
    """

    regions: tuple[WatchedRegion, ...]
    """What is watched: the given regions widened to whole pages, in ascending order, overlapping ones united."""

    def __init__(self, pid: int, tid: int, uffd_fd: int, wanted: Sequence[tuple[int, int]], held: ExitStack) -> None:
        """`wanted`: (start_addr, end_addr). `held` is closed with the watch, and by the caller if this fails."""
        self._pid = pid
        self._owner_pid = os.getpid()
        self._lock = threading.Lock()
        self._held: ExitStack | None = held
        self._uffd = uffd_fd
        self._maps_fd, self._pagemap_fd = (_open(held, f"/proc/{tid}/{name}") for name in ("maps", "pagemap"))
        self._scanner = _scanner(self._pagemap_fd)
        self._parser = MapsParser()
        self._classifier = Classifier(tid)
        self._maps_text = b""
        self._spans = SpanTable([])
        # Pages whose content somebody may have seen: those that had some, and those that were told. And whether a reset
        # was interrupted, so that some may have been written although they do not read so any more.
        self._seen = RunList(1), False
        self.regions = _united(self._widened(wanted, tid))
        self.reset()

    # ---- making one ----

    @classmethod
    def of_self(cls, regions: Iterable[Region]) -> WriteWatch:
        """A watch over memory of the calling process; nothing counts as written yet.

        Each region is (start_addr, length_bytes), or an object with the buffer protocol, which can then not be resized
        or closed until the watch is.

        Raises KernelFeatureMissing, NotWatchable, TargetUntraceable; PermissionDenied if a seccomp filter forbids
        userfaultfd(2); ValueError for an empty region, or none.
        """
        with ExitStack() as held:
            wanted = [_own_range(region, held) for region in regions]
            try:
                fd = uffd.create()
            except PermissionError:
                raise PermissionDenied(
                    "this process may not create a userfaultfd",
                    hint="A seccomp filter, as containers have one, forbids it: allow userfaultfd(2).",
                ) from None
            except OSError:
                raise KernelFeatureMissing(
                    "this kernel has no userfaultfd", hint="Use a kernel built with CONFIG_USERFAULTFD."
                ) from None
            held.callback(os.close, fd)
            try:
                uffd.enable(fd)
            except OSError:
                raise KernelFeatureMissing(
                    "this kernel cannot track writes asynchronously (UFFD_FEATURE_WP_ASYNC)",
                    hint="Use Linux 6.7 or newer; 'predump check' tells what is missing.",
                ) from None
            pid = os.getpid()
            watch = cls(pid, pid, fd, wanted, held)
            watch._held = held.pop_all()
        return watch

    @classmethod
    def of_process(cls, pid: int, regions: Iterable[tuple[int, int]]) -> WriteWatch:
        """A watch over memory of process `pid`: regions of (start_addr, length_bytes); nothing counts as written yet.

        The process is stopped once, for the time of one injected system call. While the watch exists, predump's
        commands find the process busy.

        Raises what `take_userfaultfd` raises (TargetGone, PermissionDenied, TargetUntraceable, KernelFeatureMissing);
        TargetBusy if a command of predump works on it, TargetTracked if one has it tracked; NotWatchable; ValueError
        for an empty region, or none.
        """
        if pid == os.getpid():
            return cls.of_self(regions)
        with ExitStack() as held:
            wanted = [_range(*region) for region in regions]
            target = held.enter_context(Target(pid))
            held.enter_context(lease.exclusive(target))
            lease.refuse_tracked(target)
            text = _read_all(_open(held, f"/proc/{target.tid}/maps"))
            fd = take_userfaultfd(target, MapsParser().parse(text)).uffd
            held.callback(os.close, fd)
            watch = cls(pid, target.tid, fd, wanted, held)
            watch._held = held.pop_all()
        return watch

    # ---- using it ----

    def written(self, *, reset: bool = False) -> list[tuple[int, int]]:
        """The pages written since the last reset, as (start_addr, end_addr): whole pages, ascending, none twice.

        With `reset`, each page that is told is reset in the same atomic step: a write is told by this call, or by the
        next one. So whoever copies what is told, after each call, misses nothing.
        """
        with self._in_use():
            return self._look(reset=reset, everything=False)

    def populated(self, *, reset: bool = False) -> list[tuple[int, int]]:
        """The pages that have content, and those that `written` would tell: what to copy first. The rest is zeros.

        In a private mapping of a file the rest is what the file has.
        """
        with self._in_use():
            return self._look(reset=reset, everything=True)

    def reset(self) -> None:
        """From now on nothing counts as written."""
        self.written(reset=True)

    def close(self) -> None:
        """Lifts the protection from the memory and forgets the watch; may be called again."""
        if os.getpid() == self._owner_pid:
            with self._lock:
                if self._held:
                    uffd.unregister(self._uffd, self._spans)
                    self._let_go()
        else:
            self._let_go()  # of copies alone: the memory is that of the parent, which watches on

    def _let_go(self) -> None:
        if self._held:
            held, self._held = self._held, None
            held.close()

    @contextmanager
    def _in_use(self) -> Iterator[None]:
        if os.getpid() != self._owner_pid:
            raise RuntimeError(f"this watch belongs to process {self._owner_pid}: make another one after a fork")
        with self._lock:
            if not self._held:
                raise ValueError("the watch is closed")
            yield

    # ---- looking ----

    def _look(self, *, reset: bool, everything: bool) -> list[tuple[int, int]]:
        self._register()
        known, in_doubt = self._seen
        now, nothing = RunList(1024), RunList(1)
        if reset:
            self._seen = known, True  # until what was reset is sure to be told
        try:
            self._scanner.start(self._spans, nothing, nothing if in_doubt else known)
            self._scanner.all_runs(now, reset=reset)
        except ProcessLookupError:
            raise self._gone() from None
        changed, known = now.changes_since(known, in_doubt=in_doubt)
        ranges = (changed.united_with(known) if everything else changed).ranges()
        self._seen = known, in_doubt and not reset
        return ranges

    def _register(self) -> None:
        """Registers what is mapped in the regions now: a mapping may have been replaced by another."""
        text = self._read_maps()
        if text != self._maps_text:
            self._spans = SpanTable(self._spans_of(self._parser.parse(text)))
            self._maps_text = text
        for index, error in enumerate(uffd.register(self._uffd, self._pagemap_fd, self._spans)):
            if error:
                raise self._not_registered(int(self._spans.c[index].start_addr), error)

    def _read_maps(self) -> bytes:
        """Through a descriptor that is bound to the memory, like that of the pagemap. Raises TargetGone."""
        try:
            text = _read_all(self._maps_fd)
            self._scanner.check_memory()
        except GONE_ERRORS:
            raise self._gone() from None
        return text

    def _spans_of(self, mappings: list[Mapping]) -> list[Span]:
        """The parts of mappings that lie in the regions. Raises NotWatchable."""
        spans: list[Span] = []
        rest = iter(mappings)
        mapping = next(rest, None)
        for start_addr, end_addr, _ in self.regions:
            addr = start_addr
            while addr < end_addr:
                while mapping and mapping.end_addr <= addr:
                    mapping = next(rest, None)
                if mapping is None or mapping.start_addr > addr:
                    raise self._not_watchable(addr, "is not mapped", "Watch what is mapped, and make a new watch.")
                self._refuse_unwatchable(addr, mapping)
                flags = SpanFlag.FILE if mapping.has_file else SpanFlag.NONE
                spans.append(Span(addr, min(mapping.end_addr, end_addr), SpanFlag.WATCH | flags))
                addr = spans[-1].end_addr
        return spans

    def _refuse_unwatchable(self, addr: int, mapping: Mapping) -> None:
        if mapping.is_shared:
            raise self._not_watchable(
                addr,
                "is shared memory: writes through other mappings of it, and to its file, would go unnoticed",
                "Use private memory (MAP_PRIVATE); Python's mmap is shared unless told otherwise.",
            )
        if not is_trackable(mapping, self._classifier.kind(mapping)):
            raise self._not_watchable(addr, f"is no ordinary memory ({mapping.path})", "Leave it out.")

    def _widened(self, wanted: Sequence[tuple[int, int]], tid: int) -> list[WatchedRegion]:
        """Regions in whole pages: huge ones where a region begins or ends in one."""
        if not wanted:
            raise ValueError("a watch needs a region")
        mappings = self._parser.parse(self._read_maps())
        huge = [m for m in mappings if self._classifier.kind(m) is VmaKind.HUGETLB]
        sizes: dict[int, int] = {}
        if any(start < m.end_addr and end > m.start_addr for start, end in wanted for m in huge):
            sizes = parse_page_bytes(read_smaps(tid))
        regions = []
        for start, end in wanted:
            alike = [m for m in huge if start < m.end_addr and end > m.start_addr]
            page_bytes = max((sizes[m.start_addr] for m in alike), default=PAGE_BYTES)
            first_bytes, last_bytes = (
                next((sizes[m.start_addr] for m in alike if m.start_addr <= addr < m.end_addr), PAGE_BYTES)
                for addr in (start, end - 1)
            )
            start_addr = start // first_bytes * first_bytes
            regions.append(WatchedRegion(start_addr, -(-end // last_bytes) * last_bytes, page_bytes))
        return regions

    # ---- errors ----

    def _gone(self) -> TargetGone:
        return TargetGone(
            f"the watched memory of process {self._pid} is gone: it has ended, or called exec",
            hint="Make a new watch if it goes on with a new program.",
            pid=self._pid,
        )

    def _not_watchable(self, addr: int, why: str, hint: str) -> NotWatchable:
        return NotWatchable(f"memory of process {self._pid} at {addr:#x} {why}", hint=hint, pid=self._pid, addr=addr)

    def _not_registered(self, addr: int, error: int) -> Exception:
        """What an errno of UFFDIO_REGISTER means."""
        if error == errno.EBUSY:
            return TargetUntraceable(
                f"memory of process {self._pid} at {addr:#x} is under another userfaultfd",
                hint="Another watch has it, or the process uses userfaultfd itself: end that first.",
                pid=self._pid,
                addr=addr,
            )
        if error == errno.ENOMEM:
            try:
                self._scanner.check_memory()
            except ProcessLookupError:
                return self._gone()
            return self._not_watchable(
                addr, "cannot be made a mapping of its own: there are too many", "Raise vm.max_map_count."
            )
        self._maps_text = b""  # it may have been unmapped just now
        return self._not_watchable(addr, f"cannot be tracked: {os.strerror(error)}", "Leave it out.")


def _range(start_addr: int, length_bytes: int) -> tuple[int, int]:
    if start_addr < 0 or length_bytes <= 0:
        raise ValueError(f"no region: {length_bytes} bytes at {start_addr:#x}")
    return start_addr, start_addr + length_bytes


def _own_range(region: Region, held: ExitStack) -> tuple[int, int]:
    if isinstance(region, tuple):
        return _range(*region)
    memory = BufferMemory(region)
    held.callback(memory.release)
    return _range(memory.start_addr, memory.n_bytes)


def _united(regions: list[WatchedRegion]) -> tuple[WatchedRegion, ...]:
    united: list[WatchedRegion] = []
    for region in sorted(regions):
        last = united[-1] if united else None
        if last and region.start_addr < last.end_addr:
            page_bytes = max(last.page_bytes, region.page_bytes)
            united[-1] = WatchedRegion(last.start_addr, max(last.end_addr, region.end_addr), page_bytes)
        else:
            united.append(region)
    return tuple(united)


def _scanner(pagemap_fd: int) -> Scanner:
    try:
        return Scanner(pagemap_fd)
    except OSError:
        raise KernelFeatureMissing(
            "this kernel cannot tell what was written (PAGEMAP_SCAN)",
            hint="Use Linux 6.7 or newer; 'predump check' tells what is missing.",
        ) from None


def _open(held: ExitStack, path: str) -> int:
    fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    held.callback(os.close, fd)
    return fd


def _read_all(fd: int) -> bytes:
    """A file of /proc from its beginning. Raises OSError."""
    os.lseek(fd, 0, os.SEEK_SET)
    pieces = []
    while piece := os.read(fd, READ_BYTES):
        pieces.append(piece)
    return b"".join(pieces)
