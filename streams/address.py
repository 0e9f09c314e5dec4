"""Where the other side is: tls://HOST:PORT, tcp://LOOPBACK:PORT, and [HOST:]PORT to listen at."""

from __future__ import annotations

import ipaddress
from dataclasses import dataclass

from formats.errors import UsageError

_LOOPBACK = "127.0.0.1"
_TLS, _TCP = "tls://", "tcp://"


@dataclass(frozen=True, slots=True)
class Address:
    """A host (a name or a number; "" is any, to listen at) and a port."""

    host: str
    port: int

    def __str__(self) -> str:
        return f"[{self.host}]:{self.port}" if ":" in self.host else f"{self.host or '*'}:{self.port}"


def is_address(text: str) -> bool:
    """Whether it names a host to send to, and no directory or pipe."""
    return text.startswith((_TLS, _TCP))


def destination(text: str) -> tuple[Address, bool]:
    """The host to send to, and whether with TLS. Raises UsageError."""
    secured = text.startswith(_TLS)
    if not is_address(text):
        raise UsageError(f"{text!r} is no address to send to.", hint="Write tls://HOST:PORT.")
    address = _parse(text[len(_TLS) :], text)
    if not address.host or not address.port:
        raise UsageError(f"{text!r} lacks a host or a port.", hint="Write tls://HOST:PORT.")
    if not secured:
        _refuse_beyond_loopback(address)
    return address, secured


def place_to_listen(text: str, *, secured: bool) -> Address:
    """Where to listen; without TLS on loopback only. Port 0 is one that is free. Raises UsageError."""
    address = _parse(text if ":" in text else f":{text}", text)
    if secured:
        return address
    address = Address(address.host or _LOOPBACK, address.port)
    _refuse_beyond_loopback(address)
    return address


def _parse(text: str, whole: str) -> Address:
    host, _, port = text.rpartition(":")
    if host.startswith("[") and host.endswith("]"):
        host = host[1:-1]
    elif ":" in host:
        raise UsageError(f"{whole!r} is no address.", hint="Put an IPv6 address into brackets: [::1]:7000.")
    if not (port.isascii() and port.isdigit() and len(port) <= 5 and int(port) < 1 << 16):
        raise UsageError(f"{whole!r} has no port between 0 and 65535.", hint="Write HOST:PORT.")
    return Address(host, int(port))


def _refuse_beyond_loopback(address: Address) -> None:
    try:
        is_loopback = ipaddress.ip_address(address.host).is_loopback
    except ValueError:
        is_loopback = False  # a name may be looked up differently the next time
    if not is_loopback:
        raise UsageError(
            f"Without TLS a checkpoint does not leave this host, and {address.host} is not 127.0.0.1 or ::1.",
            hint="Use tls:// with --cert, --key and --ca; 'predump keys' makes a set for tests.",
        )
