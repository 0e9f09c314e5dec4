"""A TCP connection in a manifest that no kernel could have told is refused before anything is made of it."""

from __future__ import annotations

import socket
from dataclasses import replace

import pytest

from formats.manifest import Manifest
from formats.manifestfile import decode_manifest, encode_manifest
from formats.openfiles import Socket, TcpConnection
from tests.format.samples import DUMP, OPEN_FILE

CONNECTION = TcpConnection(
    receive_sequence=0xFFFFFFFF,
    send_sequence=0,
    received=b"read me",
    sent=b"acknowledge me",
    unsent_bytes=3,
    mss=1460,
    send_window_scale=7,
    receive_window_scale=0,
    sack=True,
    timestamp=None,
    window=[1, 2, 3, 4, 5],
)
SOCKET = Socket(
    family=int(socket.AF_INET),
    type=int(socket.SOCK_STREAM),
    protocol=socket.IPPROTO_TCP,
    state="established",
    local="127.0.0.1:1",
    peer="127.0.0.1:2",
    local_sockaddr=bytes(16),
    peer_sockaddr=bytes(16),
    options={},
    connection=CONNECTION,
)


def with_socket(**changes: object) -> Manifest:
    return replace(DUMP, open_files=[replace(OPEN_FILE, socket=replace(SOCKET, **changes))])


def with_connection(**changes: object) -> Manifest:
    return with_socket(connection=replace(CONNECTION, **changes))


@pytest.mark.parametrize(
    "changes",
    [{}, {"send_window_scale": -1, "receive_window_scale": -1}, {"timestamp": 0xFFFFFFFF}, {"unsent_bytes": 14}],
    ids=str,
)
def test_what_a_kernel_tells_is_read_as_it_was_written(changes: dict[str, object]) -> None:
    manifest = with_connection(**changes)
    (found,) = decode_manifest(encode_manifest(manifest), "manifest").open_files
    assert found.socket
    assert found.socket.connection == replace(CONNECTION, **changes)


@pytest.mark.parametrize(
    ("changes", "problem"),
    [
        ({"receive_sequence": 1 << 32}, "impossible sequence number"),
        ({"send_sequence": -1}, "impossible sequence number"),
        ({"timestamp": 1 << 32}, "impossible sequence number, time"),
        ({"window": [1, 2, 3, 4]}, "time or window"),
        ({"window": [1, 2, 3, 4, -5]}, "time or window"),
        ({"unsent_bytes": 15}, "more bytes to send than it has"),
        ({"unsent_bytes": -1}, "more bytes to send than it has"),
        ({"mss": 0}, "impossible segment size"),
        ({"mss": 1 << 16}, "impossible segment size"),
        ({"send_window_scale": 15}, "impossible window scale"),
        ({"receive_window_scale": -1}, "impossible window scale"),
    ],
    ids=str,
)
def test_what_no_kernel_tells_is_refused(changes: dict[str, object], problem: str) -> None:
    with pytest.raises(ValueError, match=problem):
        encode_manifest(with_connection(**changes))


@pytest.mark.parametrize(
    "changes",
    [{"local_sockaddr": bytes(28)}, {"peer_sockaddr": b""}, {"family": socket.AF_INET6}, {"family": socket.AF_UNIX}],
    ids=str,
)
def test_addresses_are_those_of_the_family(changes: dict[str, object]) -> None:
    with pytest.raises(ValueError, match="without two addresses of its family"):
        encode_manifest(with_socket(**changes))
