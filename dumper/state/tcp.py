"""Established TCP connections, as a round holds them."""

from dumper.kernel.tcp import RawConnection
from formats.openfiles import TcpConnection

_TIMESTAMPS, _SACK, _WINDOW_SCALING = 1, 2, 4  # tcpi_options, TCPI_OPT_*
_SYN_SENT, _SYN_RECEIVED = 2, 3
# Their own end of the stream has a sequence number: fin-wait-1, fin-wait-2, last-ack, closing.
_FINISHED = (4, 5, 9, 11)


def problem_of(raw: RawConnection) -> str:
    """Why a connection cannot be made again from what is known of it; "" if it can."""
    if raw.state in (_SYN_SENT, _SYN_RECEIVED):
        return "it is not established yet"
    if raw.has_urgent:
        return "it has urgent data"
    return ""


def connection_record(raw: RawConnection, queues: bytes) -> TcpConnection:
    """`queues`: the receive queue, and behind it the send queue."""
    scaled = bool(raw.options & _WINDOW_SCALING)
    return TcpConnection(
        receive_sequence=raw.receive_sequence,
        send_sequence=(raw.send_sequence - (raw.state in _FINISHED)) % (1 << 32),
        received=queues[: raw.received_bytes],
        sent=queues[raw.received_bytes :],
        unsent_bytes=min(raw.unsent_bytes, raw.unacknowledged_bytes),
        mss=raw.mss,
        send_window_scale=raw.send_window_scale if scaled else -1,
        receive_window_scale=raw.receive_window_scale if scaled else -1,
        sack=bool(raw.options & _SACK),
        timestamp=raw.timestamp if raw.options & _TIMESTAMPS else None,
        window=list(raw.window),
    )
