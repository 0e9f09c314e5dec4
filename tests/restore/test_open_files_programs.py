"""Open files of programs, as the programs see them when they have come back."""

from __future__ import annotations

import ast
import os
import socket
from collections.abc import Iterator
from pathlib import Path

import pytest

from restorer.shell import Channel, Shell
from tests.alive import Lives
from tests.answering import interpreter
from tests.harness import COMMAND_S


def test_unix_sockets_have_their_names_peers_and_queues(lives: Lives, tmp_path: Path) -> None:
    abstract = f"\\0predump-{tmp_path}"
    with interpreter(
        lives,
        tmp_path,
        "import socket; from socket import AF_UNIX, SOCK_DGRAM, SOCK_SEQPACKET, SOCK_STREAM",
        "def connect(name, kind): a = socket.socket(AF_UNIX, kind); a.connect(name); return a",
        "def bind(name, kind): a = socket.socket(AF_UNIX, kind); a.bind(name); return a",
        "listener = bind('name', SOCK_STREAM); listener.listen(3)",
        "client = connect('name', SOCK_STREAM); server = listener.accept()[0]",
        "client.sendall(b'question'); server.sendall(b'answer')",
        "os.chmod('name', 0o741)",
        f"nameless = bind('{abstract}', SOCK_SEQPACKET); nameless.listen(3)",
        "caller = connect(nameless.getsockname(), SOCK_SEQPACKET); called = nameless.accept()[0]",
        "caller.send(b'packet')",
        "inbox = bind('inbox', SOCK_DGRAM); sender = connect('inbox', SOCK_DGRAM)",
        "lost, closed = socket.socketpair(); closed.sendall(b'last words'); closed.close()",
    ) as target:
        target.die_and_come_back(tmp_path / "checkpoint")
        assert target.ask("client.getpeername(), server.getsockname(), client.getsockname()") == "('name', 'name', '')"
        assert target.ask("server.recv(99), client.recv(99)") == "(b'question', b'answer')"
        assert target.ask("client.sendall(b'again'), server.recv(99)") == "(None, b'again')"
        assert target.ask("oct(os.stat('name').st_mode & 0o777)") == "'0o741'"
        assert "Error" not in target.ask("connect('name', SOCK_STREAM), listener.accept()")
        assert target.ask("caller.getpeername() == called.getsockname() == nameless.getsockname()") == "True"
        assert target.ask("called.recv(99)") == "b'packet'"
        assert target.ask("sender.send(b'message'), inbox.recv(99)") == "(7, b'message')"
        assert target.ask("lost.recv(99), lost.recv(99)") == "(b'last words', b'')"


def test_a_tree_shares_what_it_shared(lives: Lives, tmp_path: Path) -> None:
    """An offset is one for parent and child, and a pipe leads from one to the other."""
    child = "pid = os.fork() or [os.write(w, os.read(down, 9).upper()) for _ in iter(int, 1)]"
    with interpreter(
        lives,
        tmp_path,
        "file = os.open('file', os.O_RDWR | os.O_CREAT)",
        "os.write(file, bytes(100))",
        "r, w = os.pipe()",
        "down, up = os.pipe()",
        child,
    ) as target:
        manifest = target.die_and_come_back(tmp_path / "checkpoint")
        assert len(manifest.processes) == 2
        assert target.ask("os.write(up, b'hello')") == "5"
        assert target.ask("os.read(r, 9)") == "b'HELLO'"
        assert target.ask("os.lseek(file, 7, 0)") == "7"
        child_pid = manifest.processes[1].pid
        number = target.ask("file")
        assert "pos:\t7\n" in Path(f"/proc/{child_pid}/fdinfo/{number}").read_text()


def test_a_session_has_its_terminal(lives: Lives, tmp_path: Path) -> None:
    """Parent with the controlling end, child in a session of its own on the other one."""
    child = (
        "pid, master = pty.fork(); pid or [print(os.ttyname(0), os.tcgetpgrp(0) == os.getpid(), input()) "
        "for _ in iter(int, 1)]"
    )
    with interpreter(lives, tmp_path, "import pty", child) as target:
        target.die_and_come_back(tmp_path / "checkpoint")
        assert target.ask("os.write(master, b'word\\n')") == "5"
        said = ""
        while said.count("\n") < 2:  # the echo and the answer, in as many pieces as it likes
            said += ast.literal_eval(target.ask("os.read(master, 999)")).decode()
        assert said.endswith(" True word\r\n"), said


def test_tcp_connections_go_on(lives: Lives, tmp_path: Path) -> None:
    """With the listening socket that they came by, and both ends of one within the process."""
    with interpreter(
        lives,
        tmp_path,
        "import socket",
        "listener = socket.create_server(('127.0.0.1', 0))",
        "client = socket.create_connection(listener.getsockname())",
        "server = listener.accept()[0]",
        "client.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)",
        "client.sendall(b'question'); server.sendall(b'answer')",
    ) as target:
        port = int(target.ask("listener.getsockname()[1]"))
        with socket.create_connection(("127.0.0.1", port), COMMAND_S) as ours:
            target.ask("outside = listener.accept()[0]")
            ours.sendall(b"early")
            checkpoint = tmp_path / "checkpoint"
            target.die(checkpoint, "--tcp-established")
            ours.sendall(b" and late")
            target.come_back(checkpoint)
            assert target.ask("outside.recv(14, socket.MSG_WAITALL)") == "b'early and late'"
            target.ask("outside.sendall(b'back')")
            assert ours.recv(4, socket.MSG_WAITALL) == b"back"
        assert target.ask("server.recv(99), client.recv(99)") == "(b'question', b'answer')"
        assert target.ask("client.getsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY)") == "1"
        with socket.create_connection(("127.0.0.1", port), COMMAND_S):
            assert "Error" not in target.ask("listener.accept()")


def test_tcp_connections_are_reset_if_wanted(lives: Lives, tmp_path: Path) -> None:
    with interpreter(lives, tmp_path, "import socket", "listener = socket.create_server(('127.0.0.1', 0))") as target:
        port = int(target.ask("listener.getsockname()[1]"))
        with socket.create_connection(("127.0.0.1", port), COMMAND_S):
            target.ask("outside = listener.accept()[0]")
            target.die(tmp_path / "checkpoint")
        refused = target.fail_to_come_back(tmp_path / "checkpoint")
        assert "--tcp close" in refused
        target.come_back(tmp_path / "checkpoint", "--tcp", "close")
        assert target.ask("outside.recv(9)").startswith("ConnectionResetError")


@pytest.fixture
def outside() -> Iterator[list[int]]:
    """Our ends of a pipe, a connection and a terminal, and those for a process."""
    pairs = [os.pipe(), [end.detach() for end in socket.socketpair()], os.openpty()]
    fds = [fd for pair in pairs for fd in pair]
    yield fds
    for fd in fds:
        os.close(fd)


def test_what_leads_outside_is_refused_or_closed(outside: list[int], lives: Lives, tmp_path: Path) -> None:
    _, pipe, _, connection, _, terminal = outside
    checkpoint = tmp_path / "checkpoint"
    with interpreter(lives, tmp_path, fds=[pipe, connection, terminal]) as target:
        target.die(checkpoint)
        assert "its other end is with a process that is not in the image" in target.fail_to_come_back(checkpoint)
        target.come_back(checkpoint, "--outside", "close")
        assert target.ask(f"os.write({pipe}, b'x')").startswith("BrokenPipeError")
        assert target.ask(f"os.read({connection}, 9)") == "b''"
        assert target.ask(f"os.read({terminal}, 9)") == "b''"
        assert target.ask(f"os.write({terminal}, b'x')").startswith("OSError(5")


def test_what_leads_outside_can_be_ours(outside: list[int], lives: Lives, tmp_path: Path) -> None:
    """For the whole tree, by the number that the root process has for it."""
    ours, pipe, peer, connection, master, terminal = outside
    checkpoint = tmp_path / "checkpoint"
    child = f"pid = os.fork() or [os.write({pipe}, os.read(down, 9)) for _ in iter(int, 1)]"
    with interpreter(lives, tmp_path, "down, up = os.pipe()", child, fds=[pipe, connection, terminal]) as target:
        target.die(checkpoint)
        names = [f"--inherit-fd={pipe}", f"--inherit-fd={connection}:{connection}", f"--inherit-fd={terminal}"]
        target.come_back(checkpoint, *names, fds=[pipe, connection, terminal])
        for theirs, mine in ((pipe, ours), (connection, peer), (terminal, master)):
            assert target.ask(f"os.write({theirs}, b'x')") == "1"
            assert os.read(mine, 9) == b"x"
        target.ask("os.write(up, b'by child')")
        assert os.read(ours, 99) == b"by child"


@pytest.mark.parametrize("number", range(3, 16))
def test_a_shell_has_its_channel_at_any_number(number: int) -> None:
    """Whatever our own descriptors of that number are."""
    with Channel(number) as channel, Shell.first([], 1 << 20, channel) as shell:
        assert [int(entry.name) for entry in Path(f"/proc/{shell.pid}/fd").iterdir()] == [number]
