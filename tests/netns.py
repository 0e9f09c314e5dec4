"""Two hosts on one machine: network namespaces joined by a veth pair whose link can be shaped, cut and mended.

Names carry the pid of the tests, so that what a killed run left behind is found and removed by the next one.
"""

from __future__ import annotations

import itertools
import os
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path

import pytest

from tests.filesystems import ran
from tests.harness import is_alive

DEVICE = "eth0"
_PREFIX = "predump-test-"
_NAMED = Path("/run/netns")
_numbers = itertools.count(1)


@dataclass(frozen=True)
class Host:
    """A network namespace with one device towards the other host; processes and files are those of the machine."""

    namespace: str
    address: str

    def words(self, *command: object) -> list[str]:
        """The command line that runs `command` there; the process keeps its pid (ip-netns(8) execs it)."""
        return ["ip", "netns", "exec", self.namespace, *map(str, command)]

    def run(self, *command: object) -> subprocess.CompletedProcess[str]:
        """Runs it there to its end, whatever that is."""
        return subprocess.run(self.words(*command), capture_output=True, text=True, check=False)

    def configure(self) -> None:
        """Gives its device the address, and sets it up."""
        ran(*self.words("ip", "address", "add", f"{self.address}/24", "dev", DEVICE))
        for device in ("lo", DEVICE):
            ran(*self.words("ip", "link", "set", device, "up"))

    def set_link(self, *, up: bool) -> None:
        """Plugs the cable in, or pulls it out, at this host: the other one loses its carrier, too."""
        subprocess.run(self.words("ip", "link", "set", DEVICE, "up" if up else "down"), check=True)


@dataclass(frozen=True)
class Link:
    """Both hosts, and what lies between them."""

    left: Host
    right: Host

    @property
    def hosts(self) -> tuple[Host, Host]:
        return self.left, self.right

    def limit_rate(self, bits_per_s: int) -> None:
        """What each host may send; tc-tbf(8)."""
        burst_bytes = max(bits_per_s // 8 // 250, 128 << 10)  # what one timer tick lets through, and a large segment
        self._shape("tbf", "rate", f"{bits_per_s}bit", "burst", f"{burst_bytes}", "latency", "50ms")

    def impair(self, *words: str) -> None:
        """Delay, loss and whatever else tc-netem(8) does; skips the test where the kernel does not have it."""
        self._shape("netem", *words)

    def mend(self) -> None:
        """Cable in, no shaping."""
        for host in self.hosts:
            host.set_link(up=True)
            host.run("tc", "qdisc", "del", "dev", DEVICE, "root")

    def _shape(self, *words: str) -> None:
        for host in self.hosts:
            ran(*host.words("tc", "qdisc", "replace", "dev", DEVICE, "root", *words))


@contextmanager
def two_hosts() -> Iterator[Link]:
    """Two hosts with a link; skips with what was said where namespaces cannot be made."""
    with two_namespaces() as link:
        left, right = link.hosts
        veth = ("name", DEVICE, "netns", left.namespace, "type", "veth", "peer", "name", DEVICE)
        ran("ip", "link", "add", *veth, "netns", right.namespace)
        for host in link.hosts:
            host.configure()
        yield link


@contextmanager
def two_namespaces() -> Iterator[Link]:
    """The hosts of a link that is still to be made; skips with what was said where they cannot be made."""
    _remove_leftovers()
    prefix = f"{_PREFIX}{os.getpid()}-{next(_numbers)}"
    left, right = Host(f"{prefix}-left", "10.231.0.1"), Host(f"{prefix}-right", "10.231.0.2")
    try:
        for host in (left, right):
            ran("ip", "netns", "add", host.namespace)
        yield Link(left, right)
    finally:
        for host in (left, right):
            _remove(host.namespace)


def _remove(namespace: str) -> None:
    """With its devices, once no process is left in it."""
    if (_NAMED / namespace).exists():
        subprocess.run(["ip", "netns", "del", namespace], check=True)


def _remove_leftovers() -> None:
    for entry in _NAMED.glob(f"{_PREFIX}*"):
        with suppress(ValueError):
            if not is_alive(int(entry.name.removeprefix(_PREFIX).split("-")[0])):
                _remove(entry.name)


@pytest.fixture
def hosts() -> Iterator[Link]:
    """Two hosts and the link between them, for one test."""
    with two_hosts() as link:
        yield link
