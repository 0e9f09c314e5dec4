"""Socket addresses for people: ip(7), ipv6(7), unix(7), netlink(7)."""

import ipaddress
import socket
import struct

_FAMILY_BYTES = 2


def name_of(sockaddr: bytes) -> str:
    """A path, "@name" (abstract), "127.0.0.1:80", "[::1]:80"; "" for an unnamed socket or a family of another kind."""
    if len(sockaddr) < _FAMILY_BYTES:
        return ""
    (family,) = struct.unpack_from("=H", sockaddr)
    if family == socket.AF_UNIX:
        return _unix_name(sockaddr[_FAMILY_BYTES:])
    if family == socket.AF_INET and len(sockaddr) >= 8:
        (port,) = struct.unpack_from("!H", sockaddr, 2)
        return f"{ipaddress.IPv4Address(sockaddr[4:8])}:{port}"
    if family == socket.AF_INET6 and len(sockaddr) >= 24:
        (port,) = struct.unpack_from("!H", sockaddr, 2)
        return f"[{ipaddress.IPv6Address(sockaddr[8:24])}]:{port}"
    if family == socket.AF_NETLINK and len(sockaddr) >= 12:
        port_id, groups = struct.unpack_from("=II", sockaddr, 4)
        return f"port {port_id} groups {groups:#x}"
    return ""


def _unix_name(name: bytes) -> str:
    if not name:
        return ""
    if name[:1] == b"\0":
        return "@" + name[1:].decode("utf-8", "surrogateescape")
    return name.split(b"\0", 1)[0].decode("utf-8", "surrogateescape")
