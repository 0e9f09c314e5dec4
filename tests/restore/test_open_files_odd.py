"""Open files that few programs have, as the programs see them when they have come back."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from tests.alive import Lives
from tests.answering import interpreter
from tests.harness import is_alive, predump

# A dump of all links, by RTM_GETLINK: rtnetlink(7).
ASK_LINKS = "bytes.fromhex('20000000 1200 0103 01000000 00000000 00000000 00000000 00000000 00000000')"


def test_netlink_sockets(lives: Lives, tmp_path: Path) -> None:
    with interpreter(
        lives,
        tmp_path,
        "import socket",
        "links = socket.socket(socket.AF_NETLINK, socket.SOCK_RAW, 0)",
        "links.bind((0, 1 << 17)); name = links.getsockname()",  # RTMGRP_IPV6_PREFIX: nobody tells of that
        "links.settimeout(20)",
    ) as target:
        target.die_and_come_back(tmp_path / "checkpoint")
        assert target.ask("links.getsockname() == name") == "True"
        assert target.ask(f"links.send({ASK_LINKS})") == "32"
        assert target.ask("b'lo' in links.recv(1 << 16)") == "True"


@pytest.mark.parametrize("made", ["AF_INET, socket.SOCK_RAW, socket.IPPROTO_ICMP", "AF_PACKET, socket.SOCK_DGRAM, 0"])
def test_raw_sockets_are_named_beforehand(made: str, lives: Lives, tmp_path: Path) -> None:
    with interpreter(lives, tmp_path, f"import socket; raw = socket.socket(socket.{made})") as target:
        done = predump("dump", "-p", target.pid, "-D", tmp_path / "checkpoint", "--no-pre-dump", "--json")
        assert done.result["restorable"] is False
        assert is_alive(target.pid)
        lives.end(target.pid)
        assert "are not made again" in target.fail_to_come_back(tmp_path / "checkpoint")


def test_sealed_memory(lives: Lives, tmp_path: Path) -> None:
    with interpreter(
        lives,
        tmp_path,
        "import fcntl, mmap",
        "def made(): fd = os.memfd_create('s', os.MFD_ALLOW_SEALING); os.write(fd, b'sealed' * 999); return fd",
        "def sealed(seals, fd): fcntl.fcntl(fd, fcntl.F_ADD_SEALS, seals); return fd",
        "ALL = fcntl.F_SEAL_SEAL | fcntl.F_SEAL_SHRINK | fcntl.F_SEAL_GROW | fcntl.F_SEAL_WRITE",
        "a = sealed(ALL, made())",
        "mapped = mmap.mmap(a, 4096, access=mmap.ACCESS_READ)",
        "b = made(); future = mmap.mmap(b, 4096); sealed(0x10 | fcntl.F_SEAL_GROW, b)",  # F_SEAL_FUTURE_WRITE
        "c = sealed(0, made())",
        "d = sealed(0x20, made())",  # F_SEAL_EXEC, and with it all but F_SEAL_SEAL
    ) as target:
        for number in range(2):
            target.die_and_come_back(tmp_path / f"checkpoint{number}")
            assert (
                target.ask("[hex(fcntl.fcntl(fd, fcntl.F_GET_SEALS)) for fd in (a, b, c, d)]")
                == "['0xf', '0x14', '0x0', '0x3e']"
            )
            assert target.ask("os.pread(a, 6, 6), mapped[:6], os.fstat(a).st_size") == "(b'sealed', b'sealed', 5994)"
            assert target.ask("os.pwrite(a, b'x', 0)").startswith("PermissionError")
            assert target.ask("os.pwrite(b, b'x', 0)").startswith("PermissionError")
            assert target.ask("future.__setitem__(0, 120), os.pread(b, 1, 0)") == "(None, b'x')"
            assert target.ask("os.pwrite(c, b'x', 0)") == "1"


def test_epolls_of_epolls_and_of_closed_numbers(lives: Lives, tmp_path: Path) -> None:
    with interpreter(
        lives,
        tmp_path,
        "import select",
        "import socket; r, w = socket.socketpair(); r, w = r.detach(), w.detach(); copy = os.dup(r)",
        "inner = select.epoll(); inner.register(copy, select.EPOLLIN)",
        "middle = select.epoll(); middle.register(inner.fileno(), select.EPOLLIN | select.EPOLLET)",
        "outer = select.epoll(); outer.register(middle.fileno(), 1); outer.register(inner.fileno(), 1)",
        "os.close(copy)",
        "again = os.open('/dev/null', os.O_RDONLY)",
        "spent = select.epoll(); spent.register(inner.fileno(), select.EPOLLIN | select.EPOLLONESHOT)",
    ) as target:
        assert target.ask("again == copy") == "True"
        target.die_and_come_back(tmp_path / "checkpoint")
        assert target.ask("outer.poll(0)") == "[]"
        target.ask("os.write(w, b'x')")
        assert target.ask("inner.poll(0) == [(copy, select.EPOLLIN)]") == "True"
        assert (
            target.ask("sorted(fd for fd, _ in outer.poll(0)) == sorted([inner.fileno(), middle.fileno()])") == "True"
        )
        assert target.ask("middle.poll(0) == [(inner.fileno(), select.EPOLLIN)]") == "True"
        assert target.ask("middle.poll(0)") == "[]"
        assert target.ask("os.read(r, 9)") == "b'x'"


def test_deleted_files_of_tmpfs(lives: Lives, tmp_path: Path) -> None:
    name = f"/dev/shm/predump-test-{os.getpid()}"
    with interpreter(
        lives,
        tmp_path,
        "import mmap",
        f"file = os.open('{name}', os.O_RDWR | os.O_CREAT, 0o640)",
        "os.ftruncate(file, 10000); memory = mmap.mmap(file, 8192)",
        f"other = os.open('{name}', os.O_RDONLY)",
        "memory[4096:4100] = b'page'; os.pwrite(file, b'end', 9997)",
        "os.lseek(other, 4096, 0)",
        f"os.unlink('{name}')",
        "hidden = os.open('/dev/shm', os.O_TMPFILE | os.O_RDWR); os.write(hidden, b'hidden')",
    ) as target:
        target.die_and_come_back(tmp_path / "checkpoint")
        assert (
            target.ask("os.fstat(file).st_size, oct(os.fstat(file).st_mode), os.fstat(file).st_nlink")
            == "(10000, '0o100640', 0)"
        )
        assert target.ask("os.path.samestat(os.fstat(file), os.fstat(other))") == "True"
        assert target.ask("os.read(other, 4), os.lseek(other, 4096, 0)") == "(b'page', 4096)"
        assert target.ask("os.pread(file, 9, 9997)") == "b'end'"
        assert target.ask("memory.__setitem__(5000, 65), os.pread(file, 1, 5000)") == "(None, b'A')"
        assert target.ask("os.pread(hidden, 9, 0), os.fstat(hidden).st_nlink") == "(b'hidden', 0)"
        assert not Path(name).exists()
