"""/proc/PID/net/tcp and tcp6: proc_pid_net(5)."""

from pathlib import Path

NO_CONNECTION = frozenset((0x07, 0x0A))  # closed, listening: include/net/tcp_states.h


def parse_connections(text: bytes) -> set[int]:
    """Inodes of the sockets that have a connection, or are about to. Raises ValueError, IndexError."""
    found = set()
    for line in text.splitlines()[1:]:
        fields = line.split()
        if int(fields[3], 16) not in NO_CONNECTION:
            found.add(int(fields[9]))
    return found


def read_connections(pid: int) -> set[int]:
    """Of the network namespace of a process. Raises OSError, ValueError, IndexError."""
    found = set()
    for name in ("tcp", "tcp6"):
        path = Path(f"/proc/{pid}/net/{name}")
        if path.exists():  # a kernel without IPv6
            found |= parse_connections(path.read_bytes())
    return found
