"""TCP connections go on in another process, with no byte lost or doubled; or they are reset."""

from __future__ import annotations

import os
import shutil
import socket
import sys
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from dataclasses import replace
from pathlib import Path

import pytest

from dumper.kernel import tcp
from formats.checkpoint import Checkpoint
from formats.openfiles import Socket
from restorer.errors import RestoreFailed
from restorer.files.tcp import connect_socket, release, reset_socket
from tests.connectionend import ConnectionEnd, connection_end, write_record
from tests.harness import predump
from tests.netns import DEVICE, Host, Link, two_hosts
from tests.redisserver import needs_redis, redis_server

FLOATING = {"IPv4": ("10.231.0.9/24", "10.231.0.2/24"), "IPv6": ("fd31::9/64", "fd31::2/64")}
HERE = {"IPv4": "127.0.0.1", "IPv6": "::1"}
FAMILIES = pytest.mark.parametrize("version", ["IPv4", "IPv6"])
MORE_BYTES = 300_000


@pytest.fixture
def link() -> Iterator[Link]:
    """Two hosts with addresses of both families; the left one has an address that comes and goes."""
    with two_hosts() as found:
        found.left.run("ip", "address", "add", "fd31::1/64", "dev", DEVICE, "nodad")
        found.right.run("ip", "address", "add", "fd31::2/64", "dev", DEVICE, "nodad")
        for floating, _ in FLOATING.values():
            move(found.left, floating, "add")
        yield found


def move(host: Host, address: str, what: str) -> None:
    """The address comes (`add`) or goes (`del`)."""
    options = ("nodad",) if ":" in address and what == "add" else ()
    done = host.run("ip", "address", what, address, "dev", DEVICE, *options)
    assert done.returncode == 0, done.stderr


def connected(
    stack: ExitStack, address: str, listens: tuple[str, ...] = (), connects: tuple[str, ...] = ()
) -> tuple[ConnectionEnd, ConnectionEnd]:
    """The end that listened, and the one that connected; `listens` and `connects` run them."""
    server = stack.enter_context(connection_end("listen", address, words=listens))
    port = server.read_line()
    client = stack.enter_context(connection_end("connect", address, port, words=connects))
    assert (server.read_line(), client.read_line()) == ("connected", "connected")
    return server, client


def dump_of(end: ConnectionEnd, checkpoint: Path, *options: object) -> Socket:
    """The record of its connection; it is dead."""
    predump("dump", "-p", end.pid, "-D", checkpoint, "--kill", "--tcp-established", "--no-pre-dump", *options)
    assert end.process.wait(10) == -9
    return connection_in(checkpoint)


def connections_in(checkpoint: Path) -> list[Socket]:
    """Those that the last round has."""
    open_files = Checkpoint.open(checkpoint).round().manifest.open_files
    return [item.socket for item in open_files if item.socket and item.socket.connection]


def connection_in(checkpoint: Path) -> Socket:
    """The one that the last round has."""
    (found,) = connections_in(checkpoint)
    return found


def go_on(
    stack: ExitStack,
    dead: ConnectionEnd,
    record: Socket,
    path: Path,
    words: tuple[str, ...] = (),
    before_release: Callable[[], None] = lambda: None,
) -> None:
    """The end goes on in another process. `path`: where the record may be written."""
    again = stack.enter_context(connection_end("restore", write_record(record, path), words=words))
    assert again.read_line() == "made"
    before_release()
    assert again.ask("go") == "connected"
    dead.go_on_as(again)


def talk(one: ConnectionEnd, other: ConnectionEnd) -> None:
    """Everything that was sent arrives, and more goes both ways."""
    for source, sink in ((one, other), (other, one)):
        sink.receive(source.sent - sink.received)
        source.send(MORE_BYTES)
        sink.receive(MORE_BYTES)


@FAMILIES
def test_a_connection_goes_on_where_its_address_comes_to(version: str, link: Link, tmp_path: Path) -> None:
    """The address goes before the connection is let go of, and comes when there is another one."""
    floating, _ = FLOATING[version]
    at_left, at_right = tuple(link.left.words()), tuple(link.right.words())
    with ExitStack() as stack:
        server, client = connected(stack, floating.split("/")[0], at_left, at_right)
        server.fill()
        client.fill()
        move(link.left, floating, "del")
        record = dump_of(server, tmp_path / "ck", "--tcp-hold", "0s")
        connection = record.connection
        assert connection is not None
        assert connection.received, "nothing lay in the receive queue"
        assert connection.sent, "nothing lay in the send queue"
        assert connection.unsent_bytes
        assert connection.timestamp is not None
        go_on(stack, server, record, tmp_path / "record", at_left, lambda: move(link.left, floating, "add"))
        talk(server, client)
        assert server.ask("close") == "closed"
        assert client.ask("next") == "0"


@FAMILIES
def test_a_connection_is_kept_for_a_restore_on_the_same_host(version: str, tmp_path: Path) -> None:
    """What the peer sends meanwhile gets no answer, and arrives in the end."""
    with ExitStack() as stack:
        server, client = connected(stack, HERE[version])
        client.send(1000)
        server.send(2000)
        record = dump_of(server, tmp_path / "ck")
        client.send(MORE_BYTES)
        go_on(stack, server, record, tmp_path / "record")
        talk(server, client)
        assert server.ask("close") == "closed"
        assert client.ask("next") == "0"


@pytest.mark.parametrize(("ended", "hold"), [("by us", "0s"), ("by the peer", "0s"), ("by the peer", "60s")], ids=str)
def test_a_half_closed_connection_is_half_closed_again(ended: str, hold: str, tmp_path: Path) -> None:
    """Made anew, or kept."""
    with ExitStack() as stack:
        server, client = connected(stack, HERE["IPv4"])
        client.send(1000)
        server.send(2000)
        client.receive(1000)
        if ended == "by us":
            assert server.ask("shut") == "shut"
        else:
            assert client.ask("shut") == "shut"
            server.receive(10)
        record = dump_of(server, tmp_path / "ck", "--tcp-hold", hold)
        assert record.shutdown == (2 if ended == "by us" else 1)
        go_on(stack, server, record, tmp_path / "record")
        server.receive(client.sent - server.received)
        client.receive(server.sent - client.received)
        if ended == "by us":
            assert client.ask("next") == "0"
            client.send(MORE_BYTES)
            server.receive(MORE_BYTES)
            assert client.ask("close") == "closed"
            assert server.ask("next") == "0"
        else:
            assert server.ask("next") == "0"
            server.send(MORE_BYTES)
            client.receive(MORE_BYTES)
            assert server.ask("close") == "closed"
            assert client.ask("next") == "0"


def test_a_connection_that_has_ended_both_ways_is_none(tmp_path: Path) -> None:
    with ExitStack() as stack:
        server, client = connected(stack, HERE["IPv4"])
        for end in (client, server):
            assert end.ask("shut") == "shut"
        predump("dump", "-p", server.pid, "-D", tmp_path / "ck", "--kill", "--tcp-established", "--no-pre-dump")
        assert connections_in(tmp_path / "ck") == []


def test_options_that_an_image_made_up_do_no_harm(tmp_path: Path) -> None:
    with ExitStack() as stack:
        server, client = connected(stack, HERE["IPv4"])
        record = dump_of(server, tmp_path, "--tcp-hold", "0s")
        names = ("ip_transparent", "so_reuseaddr", "so_sndbuf", "so_rcvbuf", "so_buf_lock")
        made_up = replace(record, options=dict.fromkeys(names, -(1 << 63)), congestion_control="\ud800")
        fd = connect_socket(made_up)
        release(fd, made_up)
        with socket.socket(fileno=fd) as again:
            again.settimeout(20)
            client.send(1000)
            assert again.recv(1) != b""


@needs_redis
def test_a_client_of_redis_gets_its_answer_from_whoever_takes_over(tmp_path: Path) -> None:
    with redis_server(tmp_path, 0) as (process, port), socket.create_connection(("127.0.0.1", port), 30) as client:
        client.sendall(b"PING\r\n")
        assert client.recv(100) == b"+PONG\r\n"
        predump("dump", "-p", process.pid, "-D", tmp_path / "ck", "--kill", "--tcp-established", "--no-pre-dump")
        client.sendall(b"ECHO again\r\n")  # no reset, though the server is dead
        record = connection_in(tmp_path / "ck")
        assert record.options["tcp_nodelay"] == 1
        fd = connect_socket(record)
        release(fd, record)
        with socket.socket(fileno=fd) as server:
            server.settimeout(30)
            assert server.getsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY) == 1
            assert server.recv(100) == b"ECHO again\r\n"
            server.sendall(b"$5\r\nagain\r\n")
            assert client.recv(100) == b"$5\r\nagain\r\n"


@pytest.mark.skipif(shutil.which("setpriv") is None, reason="needs setpriv")
def test_who_may_not_repair_connections_is_told_so_and_nothing_ends(tmp_path: Path) -> None:
    with ExitStack() as stack:
        server, client = connected(stack, HERE["IPv4"])
        client.send(1000)
        command = ("dump", "-p", server.pid, "-D", tmp_path, "--no-pre-dump", "--tcp-established")
        assert "needs --kill" in predump(*command, expect=2).stderr
        without = ("setpriv", "--bounding-set", "-net_admin", sys.executable)
        assert "CAP_NET_ADMIN" in predump(*command, "--kill", expect=11, prefix=without).stderr
        server.send(2000)
        talk(server, client)


@FAMILIES
def test_a_reset_connection_says_so_once(version: str) -> None:
    family = socket.AF_INET6 if version == "IPv6" else socket.AF_INET
    record = Socket(
        family=family,
        type=socket.SOCK_STREAM,
        protocol=socket.IPPROTO_TCP,
        state="established",
        local="",
        peer="",
        local_sockaddr=b"",
        peer_sockaddr=b"",
        options={},
    )
    with socket.socket(fileno=reset_socket(record)) as program:
        assert program.family == family
        assert not os.get_inheritable(program.fileno())
        with pytest.raises(ConnectionResetError):
            program.recv(1)
        assert program.recv(1) == b""


def test_a_connection_that_somebody_has_is_not_made_twice(tmp_path: Path) -> None:
    with ExitStack() as stack:
        server, client = connected(stack, HERE["IPv4"])
        client.send(10)
        record = dump_of(server, tmp_path / "ck")
        fd = connect_socket(record)
        release(fd, record)
        stack.callback(os.close, fd)
        with pytest.raises(RestoreFailed, match="cannot be made here"):
            connect_socket(record)
        assert not tcp.is_silent(fd)
