"""Names of Unix sockets: paths, which are files, and abstract ones.

A name is what bind(2) was told: a path may begin in the directory of the process, and below its root.
"""

from __future__ import annotations

import errno
import os
import socket
import stat
from collections.abc import Callable
from contextlib import suppress
from typing import TypeVar

from dumper.kernel.descriptors import CLONE_FS, apart
from formats.openfiles import OpenFile, Socket
from restorer.files.sockets import Address, address_of
from restorer.files.workshop import Workshop

Result = TypeVar("Result")
ALL_MODES = 0o777


class UnixNames:
    """Gives sockets their names, in the place of a process that has them. Files that it makes go, unless kept."""

    def __init__(self, shop: Workshop) -> None:
        self._shop = shop
        self._replaced: dict[tuple[int, bytes], os.stat_result] = {}
        """What was at a path of a process before a socket took its place."""
        self._made: list[tuple[OpenFile, bytes, os.stat_result]] = []
        """Whose name is at a path where nothing was, and what it is."""

    def keep(self) -> None:
        """Names stay: who has them runs."""
        self._made.clear()

    def remove(self) -> None:
        """Nothing is left of names that nobody will have."""
        for one, path, made in self._made:
            with suppress(OSError):
                self._in_place(one, lambda path=path, made=made: _remove(path, made))  # type: ignore[misc]
        self._made.clear()

    def bind(self, one: OpenFile, made: socket.socket, sockaddr: bytes) -> None:
        """A socket that nobody listens at any more is replaced. Raises RestoreFailed."""
        address = address_of(sockaddr)
        if address is not None:
            self._with_reason(one, address, lambda: self._bind(one, made, address))

    def connect(self, one: OpenFile, made: socket.socket, sockaddr: bytes) -> None:
        """Raises RestoreFailed."""
        address = address_of(sockaddr)
        if address is not None:
            self._with_reason(one, address, lambda: made.connect(address))

    def connected_pair(self, one: OpenFile, record: Socket) -> tuple[socket.socket, socket.socket]:
        """A socket that has accepted, by the name of `record`, and its peer. Raises RestoreFailed, OSError."""
        address = address_of(record.local_sockaddr)
        assert address is not None
        with socket.socket(socket.AF_UNIX, record.type) as listener:
            self.bind(one, listener, record.local_sockaddr)
            listener.listen(1)
            client = socket.socket(socket.AF_UNIX, record.type)
            try:
                self.connect(one, client, record.local_sockaddr)
                accepted, _ = listener.accept()
            except BaseException:
                client.close()
                raise
        if path := _path(address):
            self._with_reason(one, address, lambda: os.unlink(path))  # noqa: PTH108 - as bytes
        return accepted, client

    def _bind(self, one: OpenFile, made: socket.socket, address: Address) -> None:
        """In the process's place. Raises OSError."""
        mode, owner = self._mode_and_owner(one)
        path = _path(address)
        key = (self._shop.records.holders[one.id][0].pid, path)
        if path:
            if status := _take_away(path, made.type):
                self._replaced.setdefault(key, status)
            if before := self._replaced.get(key):
                mode, owner = stat.S_IMODE(before.st_mode), (before.st_uid, before.st_gid)
        os.umask(ALL_MODES & ~mode)
        made.bind(address)
        if path:
            if key not in self._replaced:
                self._made.append((one, path, os.lstat(path)))
            if owner != (os.geteuid(), os.getegid()):
                os.chown(path, *owner)

    def _mode_and_owner(self, one: OpenFile) -> tuple[int, tuple[int, int]]:
        """As the process would make the file."""
        state = self._shop.records.first_state(one)
        return ALL_MODES & ~state.umask, (state.credentials.uids[3], state.credentials.gids[3])

    def _in_place(self, one: OpenFile, work: Callable[[], Result]) -> Result:
        """In the directory and below the root of the first process that has it. Raises OSError."""
        state = self._shop.records.first_state(one)

        def in_place() -> Result:
            if state.cwd:
                os.chdir(state.cwd)
            if state.root not in ("", "/"):
                os.chroot(state.root)
            return work()

        return apart(CLONE_FS, in_place)

    def _with_reason(self, one: OpenFile, address: Address, work: Callable[[], Result]) -> Result:
        """As `_in_place`. Raises RestoreFailed."""
        try:
            return self._in_place(one, work)
        except OSError as error:
            name = address.decode("utf-8", "backslashreplace") if isinstance(address, bytes) else str(address)
            hint = "End the process that uses it, and try again." if error.errno == errno.EADDRINUSE else ""
            self._shop.refuse(one, f"its address {name!r} could not be used: {error.strerror}", hint)


def _path(address: Address) -> bytes:
    """Of a socket that is a file; b"" for an abstract name."""
    return address if isinstance(address, bytes) and not address.startswith(b"\0") else b""


def _remove(path: bytes, made: os.stat_result) -> None:
    if os.path.samestat(os.lstat(path), made):
        os.unlink(path)  # noqa: PTH108 - as bytes


def _take_away(path: bytes, kind: int) -> os.stat_result | None:
    """A socket that nobody has open any more, and what it was; None if there is nothing. Raises OSError: EADDRINUSE."""
    try:
        status = os.lstat(path)
    except FileNotFoundError:
        return None
    if not stat.S_ISSOCK(status.st_mode):
        raise OSError(errno.EADDRINUSE, "a file that is no socket has its name")
    with socket.socket(socket.AF_UNIX, kind) as caller:
        caller.setblocking(False)
        try:
            caller.connect(path)
        except ConnectionRefusedError:
            os.unlink(path)  # noqa: PTH108 - as bytes
            return status
        except OSError as error:
            raise OSError(errno.EADDRINUSE, f"somebody uses it ({error.strerror})") from error
    raise OSError(errno.EADDRINUSE, "somebody listens there")
