"""What this host can do, found out by trying it: the `check` command.

Nothing is derived from a kernel version. What needs a target is tried on a child process that is
made for the purpose, lives for a few milliseconds and ends with this process at the latest.
"""

import contextlib
import errno
import mmap
import os
import signal
import socket
import struct
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import NoReturn

from dumper.errors import KernelFeatureMissing, PermissionDenied
from dumper.inject import take_userfaultfd
from dumper.kernel import probes, uffd
from dumper.kernel.copy import PAGE_BYTES, Copier, FileMaps, PageBuffer, Source
from dumper.kernel.native import ffi
from dumper.kernel.pages import Scanner, Span, SpanTable
from dumper.kernel.ptrace import O_SUSPEND_SECCOMP, ThreadSet
from dumper.kernel.runs import RunKind, RunList
from dumper.proc.maps import MapsParser, read_maps
from dumper.proc.stat import read_stat
from dumper.proc.status import read_status
from dumper.target import Target
from dumper.tracking import AddressSpace, Tracker, TrackingLostError
from formats.errors import PredumpError

FEATURE_MISSING = KernelFeatureMissing.exit_code
PRIVILEGE_MISSING = PermissionDenied.exit_code
FAILED = PredumpError.exit_code

REFUSED = (errno.EPERM, errno.EACCES)
# How the kernel says that it lacks something: a call, an ioctl, a flag, an option or a file of /proc.
ABSENT = (errno.ENOSYS, errno.ENOTTY, errno.EINVAL, errno.ENOENT, errno.EOPNOTSUPP)

CHILD_PAGES = 16
CHILD_ANSWER_S = 5.0
STOP_TIMEOUT_NS = 1_000_000_000
CAP_SYS_PTRACE = 19  # include/uapi/linux/capability.h
ELF_CLASS_64, ELF_MACHINE_X86_64 = 2, 62  # elf(5)
WHOLE_UID_MAP = ["0", "0", "4294967295"]  # user_namespaces(7): that of the first namespace
RUN_RECORD = struct.Struct("<QIIQ")  # struct pd_run


@dataclass(frozen=True, slots=True)
class Check:
    """One thing that was tried.

    name: stable, for programs; title: the same for people; ok: whether it works here;
    required: whether predump is of no use without it; detail: one line on what was found;
    remedy: what to do about it, "" if ok;
    exit_code: 12 for a missing kernel feature, 11 for a missing privilege, 1 if the attempt failed
    in another way, 0 if ok.
    """

    name: str
    title: str
    ok: bool
    required: bool
    detail: str
    remedy: str
    exit_code: int


class _MissingError(Exception):
    """A probe's own verdict, where an errno cannot tell it."""

    def __init__(self, detail: str, exit_code: int) -> None:
        super().__init__(detail)
        self.detail = detail
        self.exit_code = exit_code


@dataclass(frozen=True, slots=True)
class _Probe:
    """`attempt` returns what it found, or raises _MissingError, OSError or PredumpError."""

    name: str
    title: str
    attempt: Callable[[], str]
    required: bool
    without_feature: str
    without_privilege: str


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


def _try_processor() -> str:
    with Path("/proc/self/exe").open("rb") as exe:
        header = exe.read(20)
    bits = 64 if header[4] == ELF_CLASS_64 else 32
    (machine,) = struct.unpack_from("<H", header, 18)
    if bits != 64 or machine != ELF_MACHINE_X86_64:
        raise _MissingError(f"programs here are {bits}-bit, ELF machine {machine}", FEATURE_MISSING)
    return "this is a 64-bit x86 program"


def _try_pagemap_scan() -> str:
    with _closing(os.open("/proc/self/pagemap", os.O_RDONLY | os.O_CLOEXEC)) as pagemap_fd:
        probes.scan_category(pagemap_fd, probes.PAGE_IS_PRESENT)
    return "ioctl(PAGEMAP_SCAN) works on /proc/self/pagemap"


def _try_page_is_guard() -> str:
    if not probes.knows_category(probes.PAGE_IS_GUARD):
        raise _MissingError("PAGEMAP_SCAN does not know guard pages", FEATURE_MISSING)
    return "PAGEMAP_SCAN tells guard pages (PAGE_IS_GUARD)"


def _try_plain_userfaultfd() -> str:
    os.close(probes.userfaultfd(os.O_CLOEXEC))
    return "userfaultfd(2) works here without UFFD_USER_MODE_ONLY"


def _try_user_mode_userfaultfd() -> str:
    os.close(probes.userfaultfd(os.O_CLOEXEC | uffd.USER_MODE_ONLY))
    return "userfaultfd(2) works with UFFD_USER_MODE_ONLY, which asks for no privilege"


def _own_userfaultfd() -> int:
    try:
        return probes.userfaultfd(os.O_CLOEXEC)
    except PermissionError:
        return probes.userfaultfd(os.O_CLOEXEC | uffd.USER_MODE_ONLY)


def _has_uffd_features(features: uffd.Feature) -> bool:
    with _closing(_own_userfaultfd()) as fd:
        try:
            uffd.enable(fd, features)
        except OSError as error:
            if error.errno == errno.EINVAL:
                return False
            raise
    return True


def _try_wp_async() -> str:
    if not _has_uffd_features(uffd.TRACKING_FEATURES):
        names = [f.name or "" for f in uffd.Feature if not _has_uffd_features(f)]
        lacking = ", ".join(names) or "some of them together"
        raise _MissingError(f"userfaultfd lacks {lacking}", FEATURE_MISSING)
    return "userfaultfd has WP_ASYNC and what goes with it"


def _try_unprivileged_sysctl() -> str:
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


def _try_ptrace() -> str:
    with _child() as child:
        started_ns = time.monotonic_ns()
        with _stopped(child.pid) as threads:
            if threads.stopped_tids() != [child.pid] or read_stat(child.pid).state != "t":
                raise _MissingError("a child process was seized but did not stop", FAILED)
        stop_us = (time.monotonic_ns() - started_ns) // 1000
        child.write_page(0)
    return f"a child process was stopped and resumed in {stop_us} us"


def _try_suspend_seccomp() -> str:
    with _child() as child, _stopped(child.pid, O_SUSPEND_SECCOMP):
        pass
    return "a tracer may suspend seccomp filters (PTRACE_O_SUSPEND_SECCOMP)"


def _try_yama() -> str:
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
    raise _MissingError(f"kernel.yama.ptrace_scope is {scope}: {meaning.get(scope, 'unknown')}", PRIVILEGE_MISSING)


def _has_capability(number: int) -> bool:
    """Whether CapEff of this process has it: capabilities(7), proc_pid_status(5)."""
    for line in Path("/proc/self/status").read_text(encoding="utf-8", errors="replace").splitlines():
        if line.startswith("CapEff:"):
            return bool(int(line.split()[1], 16) >> number & 1)
    return False


def _try_other_users() -> str:
    if not _has_capability(CAP_SYS_PTRACE):
        raise _MissingError(
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


def _try_pidfd_getfd() -> str:
    with (
        _child() as child,
        _closing(os.pidfd_open(child.pid)) as pidfd,
        _closing(probes.pidfd_getfd(pidfd, child.socket_fd)) as fd,
    ):
        if os.fstat(fd).st_ino != child.socket_inode:
            raise _MissingError("pidfd_getfd(2) returned another descriptor than asked for", FAILED)
    return "a descriptor of a child process was taken over"


def _try_process_vm_readv() -> str:
    wanted, got = RunList(1), RunList(1 << 12)
    buffer = PageBuffer(1)
    with _child() as child:
        wanted.extend_packed(RUN_RECORD.pack(child.memory_addr, 1, RunKind.COPY, 0))
        # No mem_fd: what process_vm_readv cannot read is not read in another way.
        Copier(Source(child.pid, -1, FileMaps()), wanted).fill(buffer, got)
    if bytes(buffer.content()) != child.page_bytes:
        raise _MissingError("memory of a child process read back different or not at all", FAILED)
    return "memory of a child process was read"


def _try_map_files() -> str:
    with _closing(os.memfd_create("predump-check")) as fd:
        os.truncate(fd, PAGE_BYTES)
        inode = os.fstat(fd).st_ino
        memory = mmap.mmap(fd, PAGE_BYTES)
    addr = int(ffi.cast("uintptr_t", ffi.from_buffer(memory)))
    path = f"/proc/self/map_files/{addr:x}-{addr + PAGE_BYTES:x}"
    with _closing(os.open(path, os.O_RDONLY | os.O_CLOEXEC)) as mapped_fd:
        if os.fstat(mapped_fd).st_ino != inode:
            raise _MissingError("/proc/PID/map_files leads to another file than is mapped", FAILED)
    return "the files behind mappings can be opened"


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
        raise _MissingError(
            f"a child wrote page {CHILD_PAGES // 2} of {CHILD_PAGES}, but the kernel reported "
            f"{second} (and {len(first)} pages at first)",
            FAILED,
        )
    return injection.stop_ns


def _try_tracking() -> str:
    with _child() as child, Target(child.pid) as target:
        try:
            stop_ns = _track(target, child)
        except TrackingLostError:
            raise _MissingError("a child process ended while it was tracked", FAILED) from None
        child.write_page(0)
        if target.has_ended:
            raise _MissingError("a child process ended after it was tracked", FAILED)
    stop_us = stop_ns // 1000
    return f"a child process was stopped for {stop_us} us, its one write was found, and it went on"


CONTAINER = "in a container, allow the call in its seccomp profile"
AS_OWNER_OR_ROOT = f"Run predump as root or with CAP_SYS_PTRACE; {CONTAINER}."
NEWER_KERNEL = "Use Linux 6.7 or newer"

PROBES = (
    _Probe(
        "x86-64",
        "64-bit x86",
        _try_processor,
        required=True,
        without_feature="Run predump on a 64-bit x86 machine, with /proc mounted.",
        without_privilege="Make /proc/self/exe readable.",
    ),
    _Probe(
        "pagemap-scan",
        "Scanning page tables (PAGEMAP_SCAN)",
        _try_pagemap_scan,
        required=True,
        without_feature=f"{NEWER_KERNEL}, built with CONFIG_PROC_PAGE_MONITOR, and mount /proc.",
        without_privilege="Run predump as root, and in a container with an unmasked /proc.",
    ),
    _Probe(
        "page-is-guard",
        "Telling guard pages (PAGE_IS_GUARD)",
        _try_page_is_guard,
        required=False,
        without_feature="Guard pages will be named as unreadable; Linux 6.16 or newer tells them.",
        without_privilege="Run predump as root, and in a container with an unmasked /proc.",
    ),
    _Probe(
        "userfaultfd",
        "userfaultfd, plain",
        _try_plain_userfaultfd,
        required=False,
        without_feature="Use a kernel built with CONFIG_USERFAULTFD.",
        without_privilege="Nothing to do where the one without privilege works; otherwise run "
        "predump as root or set vm.unprivileged_userfaultfd=1.",
    ),
    _Probe(
        "userfaultfd-user-mode-only",
        "userfaultfd, without privilege",
        _try_user_mode_userfaultfd,
        required=True,
        without_feature="Use Linux 5.11 or newer, built with CONFIG_USERFAULTFD.",
        without_privilege=f"Allow userfaultfd(2): {CONTAINER}.",
    ),
    _Probe(
        "unprivileged-userfaultfd",
        "vm.unprivileged_userfaultfd",
        _try_unprivileged_sysctl,
        required=False,
        without_feature="Mount /proc.",
        without_privilege="Make /proc/sys/vm/unprivileged_userfaultfd readable.",
    ),
    _Probe(
        "uffd-wp-async",
        "Asynchronous write-protection (UFFD_FEATURE_WP_ASYNC)",
        _try_wp_async,
        required=True,
        without_feature=f"{NEWER_KERNEL}, built with CONFIG_USERFAULTFD and CONFIG_PTE_MARKER_UFFD_WP.",
        without_privilege=f"Allow userfaultfd(2): {CONTAINER}.",
    ),
    _Probe(
        "ptrace",
        "Stopping a process (ptrace)",
        _try_ptrace,
        required=True,
        without_feature="Use Linux 3.4 or newer.",
        without_privilege=f"{AS_OWNER_OR_ROOT} With Yama, set kernel.yama.ptrace_scope to 0 or 1.",
    ),
    _Probe(
        "pidfd-getfd",
        "Taking over a descriptor (pidfd_getfd)",
        _try_pidfd_getfd,
        required=True,
        without_feature="Use Linux 5.6 or newer.",
        without_privilege=AS_OWNER_OR_ROOT,
    ),
    _Probe(
        "process-vm-readv",
        "Reading memory (process_vm_readv)",
        _try_process_vm_readv,
        required=True,
        without_feature="Use a kernel built with CONFIG_CROSS_MEMORY_ATTACH.",
        without_privilege=AS_OWNER_OR_ROOT,
    ),
    _Probe(
        "tracking",
        "All of it on a live process",
        _try_tracking,
        required=True,
        without_feature="Mend what the other checks found missing first.",
        without_privilege=AS_OWNER_OR_ROOT,
    ),
    _Probe(
        "other-users",
        "Processes of other users",
        _try_other_users,
        required=False,
        without_feature="Mount /proc.",
        without_privilege="Run predump as root or with CAP_SYS_PTRACE to capture processes of other users.",
    ),
    _Probe(
        "yama",
        "Yama's ptrace_scope",
        _try_yama,
        required=False,
        without_feature="Mount /proc.",
        without_privilege="Run predump with CAP_SYS_PTRACE, or set kernel.yama.ptrace_scope=0 "
        "(a scope of 3 stays until the next boot).",
    ),
    _Probe(
        "map-files",
        "Shared memory in full (/proc/PID/map_files)",
        _try_map_files,
        required=False,
        without_feature="Use a kernel built with CONFIG_CHECKPOINT_RESTORE, and mount /proc.",
        without_privilege="Run predump as root or with CAP_CHECKPOINT_RESTORE; without it, pages "
        "of shared memory that the target has not touched are left out.",
    ),
    _Probe(
        "suspend-seccomp",
        "Targets with a seccomp filter (PTRACE_O_SUSPEND_SECCOMP)",
        _try_suspend_seccomp,
        required=False,
        without_feature="Use a kernel built with CONFIG_SECCOMP and CONFIG_CHECKPOINT_RESTORE.",
        without_privilege="Run predump as root or with CAP_SYS_ADMIN, itself without a seccomp "
        "filter, to track processes that have one.",
    ),
)


def _refused_or_absent(number: int | None) -> int:
    """The exit code for an errno."""
    if number in REFUSED:
        return PRIVILEGE_MISSING
    return FEATURE_MISSING if number in ABSENT else FAILED


def _under_seccomp() -> bool:
    with contextlib.suppress(OSError):
        return read_status(os.getpid()).seccomp_mode != 0
    return False


def _failed(probe: _Probe, detail: str, exit_code: int, hint: str = "") -> Check:
    remedies = {FEATURE_MISSING: probe.without_feature, PRIVILEGE_MISSING: probe.without_privilege}
    remedy = remedies.get(exit_code) or hint or "Try again; if it stays, report it with this line."
    if exit_code in remedies and _under_seccomp():
        remedy += " (predump runs under a seccomp filter here, which may be what refuses.)"
    return Check(probe.name, probe.title, False, probe.required, detail, remedy, exit_code)


def _run(probe: _Probe) -> Check:
    try:
        found = probe.attempt()
    except _MissingError as missing:
        return _failed(probe, missing.detail, missing.exit_code)
    except PredumpError as error:
        known = (FEATURE_MISSING, PRIVILEGE_MISSING)
        exit_code = error.exit_code if error.exit_code in known else FAILED
        return _failed(probe, error.message, exit_code, error.hint)
    except OSError as error:
        exit_code = _refused_or_absent(error.errno)
        verb = {FEATURE_MISSING: "absent", PRIVILEGE_MISSING: "not permitted"}.get(exit_code, "failed")
        name = errno.errorcode.get(error.errno or 0, "no errno")
        reason = os.strerror(error.errno) if error.errno else str(error)
        return _failed(probe, f"{verb}: {reason} ({name})", exit_code)
    return Check(probe.name, probe.title, True, probe.required, found, "", 0)


def run_checks() -> list[Check]:
    """Tries everything predump needs or can use, in a fixed order. It takes some milliseconds.

    Children are forked and traced, so it is to be called by a process with one thread. Nothing else
    is touched, and nothing is raised for what is missing: the results say it.
    """
    return [_run(probe) for probe in PROBES]
