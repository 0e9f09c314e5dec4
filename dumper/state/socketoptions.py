"""Which options of a socket are recorded, and what their values mean: socket(7), ip(7), ipv6(7), tcp(7), udp(7).

SO_ERROR is none of them: to read it is to clear it.
"""

import socket
import struct
from collections.abc import Callable, Mapping

Option = tuple[int, int]  # level, name

# Each costs a system call for each socket in the freeze: only those that mean something to the kind of socket.
_ANY = {"so_sndbuf": 7, "so_rcvbuf": 8, "so_rcvlowat": 18, "so_rcvtimeo_us": 20, "so_sndtimeo_us": 21}
_UNIX = {"so_passcred": 16, "so_passsec": 34, "so_peek_off": 42, "so_passpidfd": 76}
_INET = {
    "so_reuseaddr": 2,
    "so_dontroute": 5,
    "so_priority": 12,
    "so_reuseport": 15,
    "so_mark": 36,
    "so_bindtoifindex": 62,
}
_STREAM = {"so_keepalive": 9, "so_oobinline": 10, "so_linger": 13, "so_zerocopy": 60, "so_buf_lock": 72}
_DATAGRAM = {
    "so_broadcast": 6,
    "so_timestamp": 29,
    "so_timestampns": 35,
    "so_timestamping": 37,
    "so_rxq_ovfl": 40,
}
_IP = {
    "ip_tos": 1,
    "ip_ttl": 2,
    "ip_mtu_discover": 10,
    "ip_freebind": 15,
    "ip_transparent": 19,
    "ip_bind_address_no_port": 24,
}
_IP_DATAGRAM = {
    "ip_hdrincl": 3,
    "ip_pktinfo": 8,
    "ip_recverr": 11,
    "ip_recvttl": 12,
    "ip_recvtos": 13,
    "ip_multicast_ttl": 33,
    "ip_multicast_loop": 34,
}
_IPV6 = {"ipv6_unicast_hops": 16, "ipv6_v6only": 26, "ipv6_tclass": 67}
_IPV6_DATAGRAM = {
    "ipv6_multicast_if": 17,
    "ipv6_multicast_hops": 18,
    "ipv6_multicast_loop": 19,
    "ipv6_recverr": 25,
    "ipv6_recvpktinfo": 49,
    "ipv6_recvhoplimit": 51,
    "ipv6_recvtclass": 66,
}
_TCP = {
    "tcp_nodelay": 1,
    "tcp_maxseg": 2,
    "tcp_cork": 3,
    "tcp_keepidle": 4,
    "tcp_keepintvl": 5,
    "tcp_keepcnt": 6,
    "tcp_syncnt": 7,
    "tcp_linger2": 8,
    "tcp_defer_accept": 9,
    "tcp_user_timeout": 18,
    "tcp_fastopen": 23,
    "tcp_notsent_lowat": 25,
}
_UDP = {"udp_cork": 1, "udp_encap": 100, "udp_segment": 103, "udp_gro": 104}

TCP_INFO: Option = (socket.IPPROTO_TCP, 11)
TCP_CONGESTION: Option = (socket.IPPROTO_TCP, 13)
TCP_ULP: Option = (socket.IPPROTO_TCP, 31)
PEER_CREDENTIALS: Option = (socket.SOL_SOCKET, socket.SO_PEERCRED)
PEEK_OFFSET: Option = (socket.SOL_SOCKET, _UNIX["so_peek_off"])
PASS_CREDENTIALS: Option = (socket.SOL_SOCKET, _UNIX["so_passcred"])

_TABLES = (
    (socket.SOL_SOCKET, _ANY | _UNIX | _INET | _STREAM | _DATAGRAM),
    (socket.IPPROTO_IP, _IP | _IP_DATAGRAM),
    (socket.IPPROTO_IPV6, _IPV6 | _IPV6_DATAGRAM),
    (socket.IPPROTO_TCP, _TCP),
    (socket.IPPROTO_UDP, _UDP),
)
_NAMES: dict[Option, str] = {(level, number): name for level, table in _TABLES for name, number in table.items()}
_OPTIONS: dict[str, Option] = {name: option for option, name in _NAMES.items()}


def _linger(value: bytes) -> int:
    is_on, seconds = struct.unpack("ii", value[:8])
    return int(seconds) if is_on else -1


def _timeout_us(value: bytes) -> int:
    seconds, microseconds = struct.unpack("qq", value[:16])
    return int(seconds) * 1_000_000 + int(microseconds)


_DECODERS: dict[str, Callable[[bytes], int]] = {
    "so_linger": _linger,
    "so_rcvtimeo_us": _timeout_us,
    "so_sndtimeo_us": _timeout_us,
}


def wanted_options(domain: int, kind: int, protocol: int) -> list[Option]:
    """The options to read of a socket, by what socket(2) was told."""
    is_datagram = kind != socket.SOCK_STREAM
    wanted = _options(socket.SOL_SOCKET, _ANY, _DATAGRAM if is_datagram else {})
    if domain == socket.AF_UNIX:
        wanted += [*_options(socket.SOL_SOCKET, _UNIX), PEER_CREDENTIALS]
    if domain in (socket.AF_INET, socket.AF_INET6):
        wanted += _options(socket.SOL_SOCKET, _INET, {} if is_datagram else _STREAM)
        wanted += _options(socket.IPPROTO_IP, _IP, _IP_DATAGRAM if is_datagram else {})
        if protocol == socket.IPPROTO_TCP:
            wanted += [*_options(socket.IPPROTO_TCP, _TCP), TCP_INFO, TCP_CONGESTION, TCP_ULP]
        if protocol == socket.IPPROTO_UDP:
            wanted += _options(socket.IPPROTO_UDP, _UDP)
    if domain == socket.AF_INET6:
        wanted += _options(socket.IPPROTO_IPV6, _IPV6, _IPV6_DATAGRAM if is_datagram else {})
    return wanted


def _options(level: int, *tables: Mapping[str, int]) -> list[Option]:
    return [(level, number) for table in tables for number in table.values()]


def option_numbers(values: Mapping[Option, bytes]) -> dict[str, int]:
    """Values by name. so_linger: seconds, -1 if it is off; so_peercred_*: of a Unix socket's peer, as it connected."""
    found = {}
    for option, value in values.items():
        name = _NAMES.get(option)
        if name:
            decode = _DECODERS.get(name)
            found[name] = decode(value) if decode else int.from_bytes(value[:8], "little", signed=True)
    credentials = values.get(PEER_CREDENTIALS)
    if credentials:
        names = ("so_peercred_pid", "so_peercred_uid", "so_peercred_gid")
        found |= dict(zip(names, struct.unpack("iii", credentials[:12]), strict=True))
    return found


def option_value(name: str, number: int) -> tuple[Option, bytes]:
    """The option of a recorded name, and its value as setsockopt(2) takes it. Raises KeyError: none that can be set."""
    option = _OPTIONS[name]
    if name == "so_linger":
        return option, struct.pack("ii", number >= 0, max(0, number))
    if name in ("so_rcvtimeo_us", "so_sndtimeo_us"):
        return option, struct.pack("qq", *divmod(number, 1_000_000))
    return option, struct.pack("i", number)
