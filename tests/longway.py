"""Two hosts far from each other: what passes between them takes its time, and some of it gets lost.

For kernels without tc-netem(8): each namespace has a TUN device, and a thread of the tests is the way between them.
"""

from __future__ import annotations

import fcntl
import heapq
import itertools
import os
import random
import select
import struct
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager

import pytest

from tests.filesystems import ran
from tests.netns import DEVICE, Link, two_namespaces

TUNSETIFF = 0x400454CA  # linux/if_tun.h
IFF_TUN, IFF_NO_PI = 0x0001, 0x1000
MTU = 1500
MAX_WAITING = 2000
"""Packets on the way; one more is lost, as in a router."""


class LongWay:
    """Passes packets from one device to the other, late or never. Its properties may be changed at any time."""

    def __init__(self, fds: tuple[int, int], rng: random.Random) -> None:
        self.delay_s = 0.0
        """Of each packet, each way; every tenth takes half as long again, and so overtakes none but is overtaken."""
        self.loss = 0.0
        """The part of all packets that gets lost."""
        self.n_lost = 0
        self._fds = fds
        self._rng = rng
        self._waiting: list[tuple[float, int, int, bytes]] = []  # due, number, where to, packet
        self._numbers = itertools.count()
        self._is_over = False
        self._thread = threading.Thread(target=self._run, daemon=True)
        self._thread.start()

    def close(self) -> None:
        """Nothing passes any more."""
        self._is_over = True
        self._thread.join()

    def _run(self) -> None:
        left, right = self._fds
        poll = select.poll()
        for fd in self._fds:
            poll.register(fd, select.POLLIN)
        while not self._is_over:
            due_s = self._waiting[0][0] - time.monotonic() if self._waiting else 0.05
            for fd, _ in poll.poll(max(due_s, 0) * 1000):
                self._take(os.read(fd, 1 << 16), right if fd == left else left)
            while self._waiting and self._waiting[0][0] <= time.monotonic():
                _, _, to_fd, packet = heapq.heappop(self._waiting)
                os.write(to_fd, packet)

    def _take(self, packet: bytes, to_fd: int) -> None:
        if len(self._waiting) >= MAX_WAITING or self._rng.random() < self.loss:
            self.n_lost += 1
            return
        late = 1.5 if self._rng.random() < 0.1 else 1.0
        due_s = time.monotonic() + self.delay_s * late
        heapq.heappush(self._waiting, (due_s, next(self._numbers), to_fd, packet))


@contextmanager
def two_distant_hosts(rng: random.Random) -> Iterator[tuple[Link, LongWay]]:
    """Two hosts, and the way between them; skips with what was said where they cannot be made."""
    with two_namespaces() as link:
        fds = []
        try:
            for number, host in enumerate(link.hosts):
                name = f"predump{os.getpid() % 100000}{'lr'[number]}"
                fds.append(_tun(name))
                ran("ip", "link", "set", name, "netns", host.namespace)
                ran(*host.words("ip", "link", "set", name, "name", DEVICE, "mtu", MTU))
                host.configure()
            way = LongWay((fds[0], fds[1]), rng)
            try:
                yield link, way
            finally:
                way.close()
        finally:
            for fd in fds:
                os.close(fd)


def _tun(name: str) -> int:
    """A descriptor whose device goes with it."""
    try:
        fd = os.open("/dev/net/tun", os.O_RDWR | os.O_CLOEXEC)
    except OSError as error:
        pytest.skip(f"/dev/net/tun cannot be opened: {error}")
    try:
        fcntl.ioctl(fd, TUNSETIFF, struct.pack("16sH22x", name.encode(), IFF_TUN | IFF_NO_PI))
    except OSError as error:
        os.close(fd)
        pytest.skip(f"a TUN device cannot be made: {error}")
    return fd
