"""Open files of programs, as the programs see them when they have come back."""

from __future__ import annotations

from pathlib import Path

from tests.alive import Lives
from tests.answering import interpreter


def test_connections_by_name_have_their_names_and_queues(lives: Lives, tmp_path: Path) -> None:
    with interpreter(
        lives,
        tmp_path,
        "import socket",
        "listener = socket.socket(socket.AF_UNIX)",
        "listener.bind('name')",
        "listener.listen(3)",
        "client = socket.socket(socket.AF_UNIX)",
        "client.connect('name')",
        "server = listener.accept()[0]",
        "client.sendall(b'question'); server.sendall(b'answer')",
        "os.chmod('name', 0o741)",
    ) as target:
        target.die_and_come_back(tmp_path / "checkpoint")
        assert target.ask("client.getpeername(), server.getsockname(), client.getsockname()") == "('name', 'name', '')"
        assert target.ask("server.recv(99), client.recv(99)") == "(b'question', b'answer')"
        assert target.ask("client.sendall(b'again'); server.recv(99)") == "None"
        assert target.ask("oct(os.stat('name').st_mode & 0o777)") == "'0o741'"
        assert target.ask("other = socket.socket(socket.AF_UNIX); other.connect('name'); listener.accept()") == "None"


def test_abstract_connections(lives: Lives, tmp_path: Path) -> None:
    name = f"\\0predump-{tmp_path}"
    with interpreter(
        lives,
        tmp_path,
        "import socket",
        "listener = socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET)",
        f"listener.bind('{name}')",
        "listener.listen(3)",
        "client = socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET)",
        "client.connect(listener.getsockname())",
        "server = listener.accept()[0]",
        "client.send(b'question')",
    ) as target:
        target.die_and_come_back(tmp_path / "checkpoint")
        assert target.ask("client.getpeername() == server.getsockname() == listener.getsockname()") == "True"
        assert target.ask("server.recv(99)") == "b'question'"


def test_datagrams_go_to_where_they_went(lives: Lives, tmp_path: Path) -> None:
    with interpreter(
        lives,
        tmp_path,
        "import socket",
        "inbox = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)",
        "inbox.bind('inbox')",
        "sender = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)",
        "sender.connect('inbox')",
        "lost, closed = socket.socketpair()",
        "closed.sendall(b'last words'); closed.close()",
    ) as target:
        target.die_and_come_back(tmp_path / "checkpoint")
        assert target.ask("sender.send(b'message')") == "7"
        assert target.ask("inbox.recv(99)") == "b'message'"
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
        name = target.ask("os.ptsname(master)") if hasattr(__import__("os"), "ptsname") else ""
        target.die_and_come_back(tmp_path / "checkpoint")
        assert target.ask("os.write(master, b'word\\n')") == "5"
        answer = target.ask("[os.read(master, 999) for _ in range(1)]")
        assert "word" in answer, name
