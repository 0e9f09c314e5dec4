"""Where a stream goes, in words: standard output, a command that receives, or the address of a link."""

from __future__ import annotations

import shlex
from collections.abc import Iterator
from contextlib import contextmanager

from formats.errors import UsageError
from streams.link import LinkOptions, connect, is_address
from streams.pipe import CommandOutgoing, PipeOutgoing
from streams.places import COMMAND_PREFIX, FORMS, STDOUT
from streams.transport import Outgoing


@contextmanager
def open_outgoing(where: str, link: LinkOptions) -> Iterator[Outgoing]:
    """The transport to `where`; the stream is cut off if the block fails.

    `link` is for an address. Raises UsageError, StreamBroken, and of a link StorageError, StreamRefused,
    StreamUntrusted.
    """
    outgoing = _open(where, link)
    try:
        yield outgoing
    except BaseException:
        outgoing.give_up()  # what is there of it must not look complete
        raise
    finally:
        outgoing.close()


def _open(where: str, link: LinkOptions) -> Outgoing:
    if where == STDOUT:
        return PipeOutgoing(1)
    if where.startswith(COMMAND_PREFIX) and (words := shlex.split(where.removeprefix(COMMAND_PREFIX))):
        return CommandOutgoing(words)
    if is_address(where):
        return connect(where, link)
    raise UsageError(f"{where!r} is no place for a stream", hint=f"It is {FORMS}.")
