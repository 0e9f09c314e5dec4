"""Descriptors without a file: eventfd, timerfd, signalfd, pidfd, namespaces."""

from __future__ import annotations

import os
import select
import time

from dumper.kernel import descriptors
from formats.openfiles import OpenFile, Timerfd
from formats.processstate import Namespace
from restorer.files.workshop import O_LARGEFILE, Workshop, set_status

TFD_TIMER_ABSTIME = 1
CLOCK_REALTIME, CLOCK_REALTIME_ALARM, CLOCK_BOOTTIME_ALARM = 0, 8, 9
_READABLE_CLOCK = {CLOCK_REALTIME_ALARM: time.CLOCK_REALTIME, CLOCK_BOOTTIME_ALARM: time.CLOCK_BOOTTIME}
PIDFD_FLAGS = os.O_NONBLOCK | os.O_EXCL  # PIDFD_NONBLOCK, PIDFD_THREAD: pidfd_open(2)
EXPIRY_TIMEOUT_MS = 1000


def make_eventfd(shop: Workshop, one: OpenFile) -> int:
    """Raises RestoreFailed, OSError."""
    if one.eventfd is None:
        shop.refuse(one, "the image does not have its state")
    fd = shop.own(os.eventfd(0, os.EFD_CLOEXEC | os.EFD_NONBLOCK | (os.EFD_SEMAPHORE if one.eventfd.semaphore else 0)))
    if one.eventfd.count:
        os.eventfd_write(fd, one.eventfd.count)
    set_status(fd, one.flags)
    return fd


def make_timerfd(shop: Workshop, one: OpenFile) -> int:
    """It does not run before `arm_timerfd`. Raises RestoreFailed, OSError."""
    if one.timerfd is None:
        shop.refuse(one, "the image does not have its state")
    fd = shop.own(descriptors.make_timerfd(one.timerfd.clock, 0))
    set_status(fd, one.flags)
    return fd


def arm_timerfd(fd: int, timer: Timerfd, dumped_realtime_ns: int) -> None:
    """With what remained of its time; a moment of the calendar stays that moment. Raises OSError."""
    value_ns = timer.remaining_ns
    if not value_ns and timer.ticks and timer.interval_ns:
        value_ns = 1  # it has expired, and will go on from the moment it is read
    elif value_ns and timer.flags & TFD_TIMER_ABSTIME:
        on_calendar = timer.clock in (CLOCK_REALTIME, CLOCK_REALTIME_ALARM)
        now_ns = time.clock_gettime_ns(_READABLE_CLOCK.get(timer.clock, timer.clock))
        value_ns += dumped_realtime_ns if on_calendar and dumped_realtime_ns else now_ns
    descriptors.set_timerfd(fd, timer.flags, value_ns, timer.interval_ns)
    if timer.ticks:
        if value_ns == 1:
            poller = select.poll()
            poller.register(fd, select.POLLIN)
            poller.poll(EXPIRY_TIMEOUT_MS)
        descriptors.set_timerfd_ticks(fd, timer.ticks)


def make_signalfd(shop: Workshop, one: OpenFile) -> int:
    """Raises RestoreFailed, OSError."""
    if one.signalfd_mask is None:
        shop.refuse(one, "the image does not have its state")
    fd = shop.own(descriptors.make_signalfd(one.signalfd_mask, 0))
    set_status(fd, one.flags)
    return fd


def make_epoll(shop: Workshop, one: OpenFile) -> int:
    """It watches nothing yet: restorer.files.epolls. Raises OSError."""
    fd = shop.own(descriptors.make_epoll(0))
    set_status(fd, one.flags)
    return fd


def make_pidfd(shop: Workshop, one: OpenFile) -> int:
    """Of a process or thread of the image, or of one that has been reaped. Raises RestoreFailed, OSError."""
    if one.pid == -1:
        return shop.own(_pidfd_of_nobody(one.flags & os.O_NONBLOCK))
    if one.pid is None or one.pid not in shop.pids:
        shop.refuse(one, f"process {one.pid}, which it stands for, is not among those of the image")
    return shop.own(os.pidfd_open(shop.pids[one.pid], one.flags & PIDFD_FLAGS))


def _pidfd_of_nobody(flags: int) -> int:
    """Of a process that has ended and is not waited for any more."""
    pid = os.fork()
    if pid == 0:
        os._exit(0)
    try:
        return os.pidfd_open(pid, flags)
    finally:
        os.waitpid(pid, 0)


def open_namespace(shop: Workshop, one: OpenFile) -> int:
    """A namespace that processes of the image are in. Raises RestoreFailed, OSError."""
    kind = one.path.partition(":")[0]
    wanted = Namespace(kind=kind, inode=one.inode)
    pids = [shop.pids[pid] for pid, state in shop.records.states.items() if wanted in state.namespaces]
    if not pids:
        shop.refuse(one, "no process of the image is in that namespace")
    flags = one.flags & (os.O_NONBLOCK | O_LARGEFILE)
    return shop.own(descriptors.open_path(f"/proc/{pids[0]}/ns/{kind}", flags))
