"""What a part of a restore asks for when system calls are to be made in the process that it works on."""

from collections.abc import Sequence
from typing import Protocol

from dumper.kernel.remote import Call


class Caller(Protocol):
    """A process that stands still and makes calls: one that is being made (Shell), or one that is being changed."""

    @property
    def scratch_addr(self) -> int:
        """Memory of it that may be written and read, by calls too; shell.SCRATCH_BYTES of it."""

    def call(self, nr: int, *args: int) -> int:
        """A system call of the main thread; its result. Raises CallFailed, ProcessLookupError, TimeoutError."""

    def calls(self, calls: Sequence[Call]) -> list[int]:
        """Several of them; raises as `call`."""

    def put(self, content: bytes, offset_bytes: int = 0) -> int:
        """Write into the scratch, and where that is; it holds until somebody puts something else there."""
