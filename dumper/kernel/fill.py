"""Memory of a process that stands still, filled from frames of pages."""

from array import array
from typing import Any

from dumper.kernel.native import checked, ffi, lib
from formats.files import Buffer
from formats.layout import PAGE_BYTES


class RunTable:
    """Runs of pages column by column, as C sees them: `[start_addr, end_addr)` each, and where its first page is."""

    def __init__(self, starts_addr: "array[int]", ends_addr: "array[int]", page_indexes: "array[int]") -> None:
        """Columns of type Q, which stay as they are meanwhile."""
        self._columns: list[Any] = [
            ffi.from_buffer("uint64_t[]", column) for column in (starts_addr, ends_addr, page_indexes)
        ]

    def fill(self, uffd: int, mem_fd: int, content: Buffer, first_page: int, first_run: int, end_run: int) -> int:
        """Bring those pages of some runs that `content` has, the first of which is `first_page`; how many they were.

        `uffd` is for pages that are missing, -1 if there is none, and `mem_fd` is /proc/PID/mem. The GIL is released.
        Raises OSError.
        """
        data = ffi.from_buffer(content)
        n_pages = len(data) // PAGE_BYTES
        return checked(lib.pd_fill(uffd, mem_fd, data, first_page, n_pages, *self._part(first_run, end_run)))

    def copy(self, uffd: int, content: Buffer, first_page: int, first_run: int, end_run: int) -> None:
        """The same in a process that runs, as `missing.copy`, which says what it raises; pages may be there by then."""
        data = ffi.from_buffer(content)
        n_pages = len(data) // PAGE_BYTES
        checked(lib.pd_uffd_copy_runs(uffd, data, first_page, n_pages, *self._part(first_run, end_run)))

    def _part(self, first_run: int, end_run: int) -> list[Any]:
        """Some runs. Raises ValueError if there are not so many."""
        if not 0 <= first_run <= end_run <= len(self._columns[0]):
            raise ValueError(f"there are no runs {first_run} to {end_run}")
        return [*(column + first_run for column in self._columns), end_run - first_run]
