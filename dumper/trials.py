"""The attempts behind `check`: each tries one thing for real and says what it found.

What needs a target is tried on a child process that is made for the purpose, lives for a few milliseconds and ends with
this process at the latest. Each raises MissingError, OSError or PredumpError where the thing is not to be had.
"""

import contextlib
import errno
import mmap
import os
import signal
import socket
import struct
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import NoReturn

from dumper.errors import KernelFeatureMissing, PermissionDenied
from dumper.inject import take_userfaultfd
from dumper.kernel import probes, uffd
from dumper.kernel.copy import Copier, FileMaps, PageBuffer, Source
from dumper.kernel.files import tells_descriptions_apart
from dumper.kernel.native import ffi
from dumper.kernel.pages import Scanner, Span, SpanTable
from dumper.kernel.ptrace import O_SUSPEND_SECCOMP, ThreadSet, children
from dumper.kernel.runs import RunKind, RunList
from dumper.proc.maps import MapsParser, read_maps
from dumper.proc.stat import read_stat
from dumper.target import Target
from dumper.tracking import AddressSpace, Tracker, TrackingLostError
from formats.errors import PredumpError
from formats.layout import PAGE_BYTES

FEATURE_MISSING = KernelFeatureMissing.exit_code
PRIVILEGE_MISSING = PermissionDenied.exit_code
FAILED = PredumpError.exit_code

CHILD_PAGES = 16
CHILD_ANSWER_S = 5.0
STOP_TIMEOUT_NS = 1_000_000_000
CAP_SYS_PTRACE = 19  # include/uapi/linux/capability.h
ELF_CLASS_64, ELF_MACHINE_X86_64 = 2, 62  # elf(5)
WHOLE_UID_MAP = ["0", "0", "4294967295"]  # user_namespaces(7): that of the first namespace
RUN_RECORD = struct.Struct("<QIIQ")  # struct pd_run


class MissingError(Exception):
    """A probe's own verdict, where an errno cannot tell it."""

    def __init__(self, detail: str, exit_code: int) -> None:
        super().__init__(detail)
        self.detail = detail
        self.exit_code = exit_code


# ---- the child that things are tried on ----------------------------------------------------------


@dataclass(frozen=True, slots=True)
class _Child:
    """A forked process that waits for requests.

    At `memory_addr` it has CHILD_PAGES pages, each with the content `page_bytes`; `socket_fd` is
    its descriptor of the socket to us, `socket_inode` what that refers to.
    """

    pid: int
    memory_addr: int
    page_bytes: bytes
    socket_fd: int
    socket_inode: int
    connection: socket.socket

    def write_page(self, index: int) -> None:
        """Has the child write to a page. Raises OSError if it is gone or does not answer."""
        self.connection.send(bytes([index]))
        if self.connection.recv(1) != bytes([index]):
            raise ProcessLookupError(errno.ESRCH, "the child process has ended")


def _serve(connection: socket.socket, memory: mmap.mmap) -> NoReturn:
    """The child: writes to the pages it is asked to, until the connection ends."""
    try:
        null = os.open(os.devnull, os.O_RDWR)
        for fd in range(3):
            os.dup2(null, fd)
        while request := connection.recv(1):
            at = request[0] * PAGE_BYTES
            memory[at] = memory[at] ^ 0xFF
            connection.send(request)
    finally:
        os._exit(0)


@contextlib.contextmanager
def _child() -> Iterator[_Child]:
    """A child process, killed and reaped in the end; if we are killed, it ends by itself."""
    page_bytes = os.urandom(PAGE_BYTES)
    memory = mmap.mmap(-1, CHILD_PAGES * PAGE_BYTES, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS)
    memory[:] = page_bytes * CHILD_PAGES
    ours, theirs = socket.socketpair()
    with ours:
        with theirs:
            socket_fd, socket_inode = theirs.fileno(), os.fstat(theirs.fileno()).st_ino
            pid = os.fork()
            if pid == 0:
                ours.close()
                _serve(theirs, memory)
        try:
            ours.settimeout(CHILD_ANSWER_S)
            addr = int(ffi.cast("uintptr_t", ffi.from_buffer(memory)))
            yield _Child(pid, addr, page_bytes, socket_fd, socket_inode, ours)
        finally:
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
            with contextlib.suppress(ChildProcessError):  # SIGCHLD is ignored: nothing to reap
                os.waitpid(pid, 0)


# ---- the kernel ----------------------------------------------------------------------------------


@contextlib.contextmanager
def _closing(fd: int) -> Iterator[int]:
    try:
        yield fd
    finally:
        os.close(fd)


def try_processor() -> str:
    with Path("/proc/self/exe").open("rb") as exe:
        header = exe.read(20)
    bits = 64 if header[4] == ELF_CLASS_64 else 32
    (machine,) = struct.unpack_from("<H", header, 18)
    if bits != 64 or machine != ELF_MACHINE_X86_64:
        raise MissingError(f"programs here are {bits}-bit, ELF machine {machine}", FEATURE_MISSING)
    return "this is a 64-bit x86 program"


def try_pagemap_scan() -> str:
    with _closing(os.open("/proc/self/pagemap", os.O_RDONLY | os.O_CLOEXEC)) as pagemap_fd:
        probes.scan_category(pagemap_fd, probes.PAGE_IS_PRESENT)
    return "ioctl(PAGEMAP_SCAN) works on /proc/self/pagemap"


def try_page_is_guard() -> str:
    if not probes.knows_category(probes.PAGE_IS_GUARD):
        raise MissingError("PAGEMAP_SCAN does not know guard pages", FEATURE_MISSING)
    return "PAGEMAP_SCAN tells guard pages (PAGE_IS_GUARD)"


def try_plain_userfaultfd() -> str:
    os.close(probes.userfaultfd(os.O_CLOEXEC))
    return "userfaultfd(2) works here without UFFD_USER_MODE_ONLY"


def try_user_mode_userfaultfd() -> str:
    os.close(probes.userfaultfd(os.O_CLOEXEC | uffd.USER_MODE_ONLY))
    return "userfaultfd(2) works with UFFD_USER_MODE_ONLY, which asks for no privilege"


def _has_uffd_features(features: uffd.Feature) -> bool:
    with _closing(uffd.create()) as fd:
        try:
            uffd.enable(fd, features)
        except OSError as error:
            if error.errno == errno.EINVAL:
                return False
            raise
    return True


def try_wp_async() -> str:
    if not _has_uffd_features(uffd.TRACKING_FEATURES):
        names = [f.name or "" for f in uffd.Feature if not _has_uffd_features(f)]
        lacking = ", ".join(names) or "some of them together"
        raise MissingError(f"userfaultfd lacks {lacking}", FEATURE_MISSING)
    return "userfaultfd has WP_ASYNC and what goes with it"


def try_unprivileged_sysctl() -> str:
    try:
        value = Path("/proc/sys/vm/unprivileged_userfaultfd").read_text(encoding="ascii").strip()
    except FileNotFoundError:
        return "not present"
    if value == "0":
        return "0: without privilege only UFFD_USER_MODE_ONLY, which is enough"
    return f"{value}: every process may use userfaultfd"


# ---- tracing -------------------------------------------------------------------------------------


@contextlib.contextmanager
def _stopped(pid: int, options: int = 0) -> Iterator[ThreadSet]:
    threads = ThreadSet(pid, capacity=16)
    try:
        threads.stop(STOP_TIMEOUT_NS, options)
        yield threads
    finally:
        threads.resume()


def try_ptrace() -> str:
    with _child() as child:
        started_ns = time.monotonic_ns()
        with _stopped(child.pid) as threads:
            if threads.stopped_tids() != [child.pid] or read_stat(child.pid).state != "t":
                raise MissingError("a child process was seized but did not stop", FAILED)
        stop_us = (time.monotonic_ns() - started_ns) // 1000
        child.write_page(0)
    return f"a child process was stopped and resumed in {stop_us} us"


def try_suspend_seccomp() -> str:
    with _child() as child, _stopped(child.pid, O_SUSPEND_SECCOMP):
        pass
    return "a tracer may suspend seccomp filters (PTRACE_O_SUSPEND_SECCOMP)"


def try_yama() -> str:
    try:
        scope = Path("/proc/sys/kernel/yama/ptrace_scope").read_text(encoding="ascii").strip()
    except FileNotFoundError:
        return "no Yama: nothing beyond the usual rules of ptrace"
    if scope == "0" or (scope in ("1", "2") and _has_capability(CAP_SYS_PTRACE)):
        return f"ptrace_scope is {scope}, which does not restrict this user"
    meaning = {
        "1": "only descendants may be traced",
        "2": "only with CAP_SYS_PTRACE",
        "3": "nobody may trace until the next boot",
    }
    raise MissingError(f"kernel.yama.ptrace_scope is {scope}: {meaning.get(scope, 'unknown')}", PRIVILEGE_MISSING)


def _has_capability(number: int) -> bool:
    """Whether CapEff of this process has it: capabilities(7), proc_pid_status(5)."""
    for line in Path("/proc/self/status").read_text(encoding="utf-8", errors="replace").splitlines():
        if line.startswith("CapEff:"):
            return bool(int(line.split()[1], 16) >> number & 1)
    return False


def try_other_users() -> str:
    if not _has_capability(CAP_SYS_PTRACE):
        raise MissingError(
            f"no CAP_SYS_PTRACE: only processes of user {os.getuid()} can be captured",
            PRIVILEGE_MISSING,
        )
    try:
        uid_map = Path("/proc/self/uid_map").read_text(encoding="ascii").split()
    except FileNotFoundError:  # a kernel without user namespaces
        uid_map = WHOLE_UID_MAP
    if uid_map != WHOLE_UID_MAP:
        return "CAP_SYS_PTRACE, but only for processes of this user namespace"
    return "CAP_SYS_PTRACE: processes of every user"


# ---- reading -------------------------------------------------------------------------------------


def try_pidfd_getfd() -> str:
    with (
        _child() as child,
        _closing(os.pidfd_open(child.pid)) as pidfd,
        _closing(probes.pidfd_getfd(pidfd, child.socket_fd)) as fd,
    ):
        if os.fstat(fd).st_ino != child.socket_inode:
            raise MissingError("pidfd_getfd(2) returned another descriptor than asked for", FAILED)
    return "a descriptor of a child process was taken over"


def try_process_vm_readv() -> str:
    wanted, got = RunList(1), RunList(1 << 12)
    buffer = PageBuffer(1)
    with _child() as child:
        wanted.extend_packed(RUN_RECORD.pack(child.memory_addr, 1, RunKind.COPY, 0))
        # No mem_fd: what process_vm_readv cannot read is not read in another way.
        Copier(Source(child.pid, -1, FileMaps()), wanted).fill(buffer, got)
    if bytes(buffer.content()) != child.page_bytes:
        raise MissingError("memory of a child process read back different or not at all", FAILED)
    return "memory of a child process was read"


def try_map_files() -> str:
    with _closing(os.memfd_create("predump-check")) as fd:
        os.truncate(fd, PAGE_BYTES)
        inode = os.fstat(fd).st_ino
        memory = mmap.mmap(fd, PAGE_BYTES)
    addr = int(ffi.cast("uintptr_t", ffi.from_buffer(memory)))
    path = f"/proc/self/map_files/{addr:x}-{addr + PAGE_BYTES:x}"
    with _closing(os.open(path, os.O_RDONLY | os.O_CLOEXEC)) as mapped_fd:
        if os.fstat(mapped_fd).st_ino != inode:
            raise MissingError("/proc/PID/map_files leads to another file than is mapped", FAILED)
    return "the files behind mappings can be opened"


def try_children() -> str:
    with _child() as child:
        if child.pid not in children(os.getpid()):
            raise MissingError("a child process is not among the children of this one", FAILED)
    return "a child process was found"


def try_kcmp() -> str:
    if not tells_descriptions_apart():
        raise MissingError("kcmp(2) is absent", FEATURE_MISSING)
    return "open files can be told apart"


# ---- all of it -----------------------------------------------------------------------------------


def _written_pages(scanner: Scanner, child: _Child, *, reset: bool) -> list[int]:
    """Which of the child's pages were written since the last reset."""
    span = Span(child.memory_addr, child.memory_addr + CHILD_PAGES * PAGE_BYTES)
    covered, found = RunList(1), RunList(CHILD_PAGES)
    covered.extend_packed(RUN_RECORD.pack(child.memory_addr, CHILD_PAGES, RunKind.DATA, 0))
    scanner.start(SpanTable([span]), RunList(1), covered)
    scanner.all_runs(found, reset=reset)
    pages: list[int] = []
    for addr, n_pages, kind, _ in RUN_RECORD.iter_unpack(found.packed()):
        if kind == RunKind.COPY:
            first = (addr - child.memory_addr) // PAGE_BYTES
            pages += range(first, first + n_pages)
    return pages


def _track(target: Target, child: _Child) -> int:
    """Tracks the child's writes for a moment; returns how long it was stopped for it, in ns."""
    scanner = Scanner(target.pagemap_fd)
    injection = take_userfaultfd(target, MapsParser().parse(read_maps(target.tid)))
    tracker = Tracker(target, AddressSpace(target), injection.uffd)
    try:
        tracker.refresh()
        first = _written_pages(scanner, child, reset=True)
        child.write_page(CHILD_PAGES // 2)
        second = _written_pages(scanner, child, reset=True)
    finally:
        tracker.drop()
    if first != list(range(CHILD_PAGES)) or second != [CHILD_PAGES // 2]:
        raise MissingError(
            f"a child wrote page {CHILD_PAGES // 2} of {CHILD_PAGES}, but the kernel reported "
            f"{second} (and {len(first)} pages at first)",
            FAILED,
        )
    return injection.stop_ns


def try_tracking() -> str:
    with _child() as child, Target(child.pid) as target:
        try:
            stop_ns = _track(target, child)
        except TrackingLostError:
            raise MissingError("a child process ended while it was tracked", FAILED) from None
        child.write_page(0)
        if target.has_ended:
            raise MissingError("a child process ended after it was tracked", FAILED)
    stop_us = stop_ns // 1000
    return f"a child process was stopped for {stop_us} us, its one write was found, and it went on"
