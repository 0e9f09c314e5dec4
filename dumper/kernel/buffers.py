"""Where the memory of a Python object lies."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from dumper.kernel.native import ffi

if TYPE_CHECKING:
    from _typeshed import ReadableBuffer


class BufferMemory:
    """The memory of an object with the buffer protocol; the object can neither free nor move it until `release`."""

    def __init__(self, buffer: ReadableBuffer) -> None:
        """Raises TypeError or ValueError if it has no contiguous memory."""
        self._c: Any = ffi.from_buffer(buffer)
        self.start_addr = int(ffi.cast("uintptr_t", self._c))
        self.n_bytes = len(self._c)

    def release(self) -> None:
        """Lets go of the object."""
        ffi.release(self._c)
