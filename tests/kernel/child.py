"""A child process whose memory is in known states, for tests of the native layer; and run lists as plain Python."""

from __future__ import annotations

import gc
import mmap
import multiprocessing
import os
import signal
import struct
from collections.abc import Iterable, Iterator
from contextlib import contextmanager, suppress
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any, NoReturn

from cffi import FFI

from dumper.kernel import probes, uffd
from dumper.kernel.pages import Span, SpanTable
from dumper.kernel.runs import RunKind, RunList

PAGE = 4096
ZERO_PAGE = bytes(PAGE)
ANSWER_S = 30.0
RUN = struct.Struct("<QIIQ")
COPY, STAGED = RunKind.COPY, RunKind.STAGED
DATA, ZERO, PARENT = RunKind.DATA, RunKind.ZERO, RunKind.PARENT

PROT_NONE = 0
PROT_RW = mmap.PROT_READ | mmap.PROT_WRITE
MAP_NORESERVE = 0x4000  # asm-generic/mman-common.h
MAP_FIXED, MAP_HUGETLB = 0x10, 0x40000
MREMAP_MAYMOVE, MREMAP_FIXED, MREMAP_DONTUNMAP = 1, 2, 4
ANON = mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS | MAP_NORESERVE
MADV_NOHUGEPAGE, MADV_PAGEOUT, MADV_GUARD_INSTALL, MADV_GUARD_REMOVE = 15, 21, 102, 103  # asm-generic/mman-common.h
PR_SET_PDEATHSIG = 1


# ---- the child -----------------------------------------------------------------------------------

_ffi = FFI()
_ffi.cdef(
    """
    void *mmap(void *addr, size_t length, int prot, int flags, int fd, long offset);
    int munmap(void *addr, size_t length);
    void *mremap(void *old_address, size_t old_size, size_t new_size, int flags, ...);
    int mprotect(void *addr, size_t length, int prot);
    int madvise(void *addr, size_t length, int advice);
    int prctl(int option, ...);
    struct iovec { void *base; size_t n_bytes; };
    ssize_t process_vm_writev(int pid, const struct iovec *here, unsigned long n_here, const struct iovec *there,
                              unsigned long n_there, unsigned long flags);
    ssize_t read(int fd, void *into, size_t length);
    """
)
_libc: Any = _ffi.dlopen(None)


def _succeed(result: int) -> None:
    if result:
        raise OSError(_ffi.errno, os.strerror(_ffi.errno))


def _at(addr: int) -> Any:
    return _ffi.cast("char *", addr)


class Memory:
    """What the child can do; each method is a request. Pages are counted from `addr`."""

    def map(self, n_pages: int, flags: int = ANON, fd: int = -1, offset_pages: int = 0, at: int = 0) -> int:
        """Small pages; at address `at` if it is given, in place of what is there."""
        addr = self.map_huge(n_pages, flags | (MAP_FIXED if at else 0), fd, offset_pages, at)
        with suppress(OSError):  # a kernel without huge pages
            self.advise(addr, range(n_pages), MADV_NOHUGEPAGE)
        return addr

    def map_huge(self, n_pages: int, flags: int = ANON, fd: int = -1, offset_pages: int = 0, at: int = 0) -> int:
        """Huge pages, if `flags` or a later madvise ask for them."""
        found = _libc.mmap(_at(at), n_pages * PAGE, PROT_RW, flags, fd, offset_pages * PAGE)
        addr = int(_ffi.cast("intptr_t", found))
        _succeed(addr == -1)
        return addr

    def remap(self, addr: int, n_pages: int, new_pages: int, flags: int, to: int = 0) -> int:
        found = _libc.mremap(_at(addr), n_pages * PAGE, new_pages * PAGE, flags, _at(to))
        addr = int(_ffi.cast("intptr_t", found))
        _succeed(addr == -1)
        return addr

    def unmap(self, addr: int, pages: range) -> None:
        _succeed(_libc.munmap(_at(addr + pages.start * PAGE), len(pages) * PAGE))

    def protect(self, addr: int, pages: range, prot: int) -> None:
        _succeed(_libc.mprotect(_at(addr + pages.start * PAGE), len(pages) * PAGE, prot))

    def advise(self, addr: int, pages: range, advice: int) -> None:
        _succeed(_libc.madvise(_at(addr + pages.start * PAGE), len(pages) * PAGE, advice))

    def write(self, addr: int, contents: dict[int, bytes]) -> None:
        for page, content in contents.items():
            _ffi.memmove(_at(addr + page * PAGE), content, len(content))

    def touch(self, addr: int, pages: Iterable[int]) -> None:
        for page in pages:
            _at(addr)[page * PAGE] = b"x"

    def read(self, addr: int, pages: Iterable[int]) -> list[bytes]:
        return [bytes(_ffi.buffer(_at(addr + page * PAGE), PAGE)) for page in pages]

    def read_into(self, addr: int, page: int) -> None:
        """The kernel writes the page: read(2) from a pipe."""
        reader, writer = os.pipe()
        try:
            os.write(writer, b"r" * PAGE)
            assert _libc.read(reader, _at(addr + page * PAGE), PAGE) == PAGE
        finally:
            os.close(reader)
            os.close(writer)

    def write_from_outside(self, addr: int, page: int) -> None:
        """As another process would: process_vm_writev(2)."""
        there = _ffi.new("struct iovec *", (_at(addr + page * PAGE), 8))
        here = _ffi.new("struct iovec *", (_ffi.from_buffer(b"outside!"), 8))
        assert _libc.process_vm_writev(os.getpid(), here, 1, there, 1, 0) == 8

    def open(self, path: str) -> int:
        return os.open(path, os.O_RDWR)

    def exec(self, *words: str) -> None:
        os.execv(words[0], words)

    def memfd(self) -> int:
        return os.memfd_create("predump-test")

    def deleted_file(self, path: str) -> int:
        fd = os.open(path, os.O_RDWR | os.O_CREAT | os.O_EXCL)
        Path(path).unlink()
        return fd

    def userfaultfd(self) -> int:
        self._uffd = uffd.create()
        return self._uffd

    def close_descriptor(self) -> None:
        """Of the userfaultfd that was made last."""
        os.close(self._uffd)


def _serve(connection: Connection) -> NoReturn:
    try:
        _libc.prctl(PR_SET_PDEATHSIG, _ffi.cast("unsigned long", signal.SIGKILL))
        null = os.open(os.devnull, os.O_RDWR)
        for fd in range(3):
            os.dup2(null, fd)
        memory = Memory()
        while True:
            name, args, named = connection.recv()
            try:
                answer = getattr(memory, name)(*args, **named)
            except OSError as error:
                answer = error
            connection.send(answer)
    finally:  # the end of the connection, too
        os._exit(0)


class Child:
    """A process that does what `Memory` offers, and how it looks from here."""

    def __init__(self, pid: int, connection: Connection) -> None:
        self.pid = pid
        self._connection = connection
        self._fds: list[int] = []
        self.pidfd = self.keep(os.pidfd_open(pid))
        self.pagemap_fd = self.keep(os.open(f"/proc/{pid}/pagemap", os.O_RDONLY))
        self.mem_fd = self.keep(os.open(f"/proc/{pid}/mem", os.O_RDONLY))
        self.uffd = -1

    def keep(self, fd: int) -> int:
        self._fds.append(fd)
        return fd

    def __getattr__(self, name: str) -> Any:
        if name not in Memory.__dict__:
            raise AttributeError(name)

        def request(*args: object, **named: object) -> Any:
            self._connection.send((name, args, named))
            assert self._connection.poll(ANSWER_S), f"the child does not answer {name}{args}"
            answer = self._connection.recv()
            if isinstance(answer, OSError):
                raise answer
            return answer

        return request

    def send(self, name: str, *args: object) -> None:
        """A request that is not answered: it ends in another program."""
        self._connection.send((name, args, {}))

    def take_fd(self, fd: int) -> int:
        """Its descriptor, here."""
        return self.keep(probes.pidfd_getfd(self.pidfd, fd))

    def track(self, addr: int, n_pages: int) -> None:
        """Registers the pages for write tracking; none is armed yet."""
        if self.uffd < 0:
            self.uffd = self.take_fd(self.userfaultfd())
            uffd.enable(self.uffd)
        assert uffd.register(self.uffd, self.pagemap_fd, SpanTable([Span(addr, addr + n_pages * PAGE)])) == [0]

    def end(self) -> None:
        """Kills it; it stays a zombie until the fixture reaps it."""
        os.kill(self.pid, signal.SIGKILL)
        os.waitid(os.P_PID, self.pid, os.WEXITED | os.WNOWAIT)

    def close(self) -> None:
        for fd in self._fds:
            os.close(fd)


@contextmanager
def running_child() -> Iterator[Child]:
    ours, theirs = multiprocessing.Pipe()
    gc.freeze()  # or a collection in the child runs finalizers of what belongs to us
    pid = os.fork()
    if pid == 0:
        ours.close()
        _serve(theirs)
    gc.unfreeze()
    try:
        theirs.close()
        child = Child(pid, ours)
        yield child
        child.close()
    finally:
        ours.close()
        os.kill(pid, signal.SIGKILL)
        os.waitpid(pid, 0)


# ---- runs as plain Python --------------------------------------------------------------------------

Run = tuple[int, int, RunKind, int]  # first page, pages, kind, page_index
PageOf = tuple[int, RunKind, int]  # page, kind, page_index (0 where it means nothing)


def run_list(addr: int, runs: Iterable[Run]) -> RunList:
    made = RunList(1)
    made.extend_packed(b"".join(RUN.pack(addr + page * PAGE, n, k, i) for page, n, k, i in runs))
    return made


def pages_of(addr: int, runs: RunList) -> list[PageOf]:
    """Every page of every run, in the order of the list."""
    found = []
    for start, n_pages, kind, index in RUN.iter_unpack(runs.packed()):
        first = (start - addr) // PAGE
        step = 1 if kind in (DATA, STAGED) else 0
        assert step or index == 0
        found += [(first + i, RunKind(kind), index + step * i) for i in range(n_pages)]
    return found
