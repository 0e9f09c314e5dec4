"""TCP connections go on whoever is killed while they are captured; once the dump is on disk, they end in silence."""

from __future__ import annotations

import os
import signal
import socket
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from dumper.connections import Connections, ConnectionsChanged
from dumper.kernel import tcp
from dumper.kernel.probes import pidfd_getfd
from formats.checkpoint import Checkpoint
from formats.faults import VARIABLE, Point
from formats.openfiles import TcpConnection
from restorer.files.tcp import connect_socket, release
from tests.connectionend import connection_end
from tests.harness import is_untouched, poll_until, predump

LETS_LIVE = (Point.CONNECTIONS_HELD, Point.CONNECTIONS_TAKEN, Point.COPIED, Point.MANIFEST_WRITTEN, Point.COMMITTED)
KILLS = (Point.CONNECTIONS_DOOMED, Point.SIGNALLED)
TAKEN_TCP = ("--kill", "--tcp-established", "--no-pre-dump")
INODE = 1


def has_its_connection(pid: int) -> bool:
    """Whether all sockets of a process are as they were."""
    pidfd = os.pidfd_open(pid)
    try:
        return all(
            is_as_it_was(pidfd, int(entry.name))
            for entry in Path(f"/proc/{pid}/fd").iterdir()
            if str(entry.readlink()).startswith("socket:")
        )
    finally:
        os.close(pidfd)


def is_as_it_was(pidfd: int, number: int) -> bool:
    """Neither locked nor silent, with SO_REUSEADDR as the server had it."""
    with socket.socket(fileno=pidfd_getfd(pidfd, number)) as copy:
        fd = copy.fileno()
        reuse = copy.getsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR)
        return (tcp.is_locked(fd), tcp.is_silent(fd), reuse) == (False, False, 1)


def test_a_connection_goes_on_wherever_predump_is_killed(tmp_path: Path) -> None:
    with connection_end("listen", "127.0.0.1") as server:
        port = server.read_line()
        with connection_end("connect", "127.0.0.1", port) as client:
            assert (server.read_line(), client.read_line()) == ("connected", "connected")
            for number, point in enumerate(LETS_LIVE):
                server.fill()
                client.send(1000)
                command = ("dump", "-p", server.pid, "-D", tmp_path / f"{number}", *TAKEN_TCP)
                predump(*command, env={VARIABLE: point}, expect=-signal.SIGKILL)
                poll_until(lambda: is_untouched(server.pid), 20, "the server to run")
                poll_until(lambda: has_its_connection(server.pid), 20, f"the connection to be let go of after {point}")
                client.receive(server.sent - client.received)
                server.receive(client.sent - server.received)


@pytest.mark.parametrize("point", KILLS)
def test_from_then_on_it_is_kept_for_a_restore(point: Point, tmp_path: Path) -> None:
    with connection_end("listen", "127.0.0.1") as server:
        port = int(server.read_line())
        with socket.create_connection(("127.0.0.1", port), timeout=20) as client:
            assert server.read_line() == "connected"
            command = ("dump", "-p", server.pid, "-D", tmp_path, *TAKEN_TCP)
            predump(*command, env={VARIABLE: point}, expect=-signal.SIGKILL)
            assert server.process.wait(20) == -signal.SIGKILL
            client.sendall(b"question")
            open_files = Checkpoint.open(tmp_path).round().manifest.open_files
            (record,) = [item.socket for item in open_files if item.socket]
            fd = connect_socket(record)
            release(fd, record)
            with socket.socket(fileno=fd) as again:
                again.settimeout(20)
                assert again.recv(100) == b"question"


@contextmanager
def pair() -> Iterator[tuple[socket.socket, socket.socket]]:
    """A connection: the end that was accepted, and the other one."""
    with socket.create_server(("127.0.0.1", 0)) as listener, socket.create_connection(listener.getsockname()) as peer:
        accepted, _ = listener.accept()
        with accepted:
            for end in (accepted, peer):
                end.settimeout(20)
            yield accepted, peer


def assert_goes_on(ours: socket.socket, peer: socket.socket) -> None:
    assert (tcp.is_locked(ours.fileno()), tcp.is_silent(ours.fileno())) == (False, False)
    assert ours.getsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR) == 1
    for source, sink in ((ours, peer), (peer, ours)):
        source.sendall(b"still here")
        assert sink.recv(100) == b"still here"


def test_predump_lets_go_of_connections_if_the_guard_was_killed() -> None:
    with pair() as (ours, peer), Connections(0) as connections:
        connections.wait_ready()
        connections.hold(INODE, ours.fileno())
        connections.take()
        assert isinstance(connections.record(INODE), TcpConnection)
        assert tcp.is_locked(ours.fileno())
        os.kill(connections.guard_pid, signal.SIGKILL)
        connections.close()
        assert_goes_on(ours, peer)


def test_a_guard_that_died_before_it_is_needed_takes_nothing() -> None:
    with pair() as (ours, peer):
        with Connections(0) as connections:
            connections.wait_ready()
            connections.hold(INODE, ours.fileno())
            os.kill(connections.guard_pid, signal.SIGKILL)
            with pytest.raises(ConnectionsChanged, match="does not answer"):
                connections.take()
        assert_goes_on(ours, peer)


def test_what_came_past_the_lock_is_noticed() -> None:
    with pair() as (ours, peer):
        with Connections(0) as connections:
            connections.wait_ready()
            connections.hold(INODE, ours.fileno())
            connections.take()
            connections.check([os.getpid()])
            tcp.unlock(ours.fileno(), reuse=True)
            peer.sendall(b"late")
            poll_until(lambda: tcp.received_ever(ours.fileno()) == 4, 20, "it to arrive")
            with pytest.raises(ConnectionsChanged, match="on its way"):
                connections.check([os.getpid()])
        assert ours.recv(10) == b"late"
        assert_goes_on(ours, peer)


def test_a_connection_that_another_process_has_is_left_to_it() -> None:
    """The dump fails, and everything goes on."""
    with pair() as (ours, peer):
        with Connections(0) as connections:
            connections.wait_ready()
            inode = os.fstat(ours.fileno()).st_ino
            child_pid = os.fork()
            if child_pid == 0:
                signal.pause()
            try:
                connections.hold(inode, ours.fileno())
                connections.take()
                with pytest.raises(ConnectionsChanged, match=f"process {child_pid} has a TCP connection"):
                    connections.check([os.getpid()])
            finally:
                os.kill(child_pid, signal.SIGKILL)
                os.waitpid(child_pid, 0)
        assert_goes_on(ours, peer)


def test_a_filter_of_the_program_stays() -> None:
    """A connection that has one cannot be locked."""
    with pair() as (ours, peer):
        with Connections(0) as connections:
            connections.wait_ready()
            tcp.lock(ours.fileno())  # as if it was the program's
            connections.hold(INODE, ours.fileno())
            connections.take()
            assert connections.record(INODE) == "it could not be captured: Device or resource busy"
        assert tcp.is_locked(ours.fileno())
        tcp.unlock(ours.fileno(), reuse=True)
        assert_goes_on(ours, peer)
