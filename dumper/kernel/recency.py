"""How many different pages of a process were written of late, in bounded memory."""

from dumper.kernel.native import checked, ffi, lib
from dumper.kernel.runs import RunList

MAX_CHUNKS = 1 << 15  # of 2 MiB: exact up to 64 GiB of written memory, with 64 MiB of own memory


class Recency:
    """Remembers for each page the last tick in which it was written. Ticks are numbered from 1, ascending."""

    def __init__(self, max_ticks: int, max_chunks: int = MAX_CHUNKS) -> None:
        """`max_ticks`: of so many last ticks it can be asked. Beyond `max_chunks` of 2 MiB it answers with estimates.

        Raises MemoryError.
        """
        recency = lib.pd_recency_new(max_ticks, max_chunks)
        if recency == ffi.NULL:
            raise MemoryError
        self._c = ffi.gc(recency, lib.pd_recency_free)

    def note(self, tick: int, runs: RunList) -> None:
        """The pages of COPY runs were written in `tick`: that of the call before, or a later one. Raises OSError."""
        checked(lib.pd_recency_note(self._c, tick, runs.c.runs, len(runs)))

    def pages(self, n_ticks: int) -> int:
        """How many pages were written in the last `n_ticks` ticks up to the last noted, each counted once."""
        return int(lib.pd_recency_pages(self._c, n_ticks))

    def pages_between(self, start_addr: int, end_addr: int, n_ticks: int) -> int:
        """The same of the pages in [start_addr, end_addr); `n_ticks` may be any number."""
        return int(lib.pd_recency_pages_between(self._c, start_addr, end_addr, n_ticks))
