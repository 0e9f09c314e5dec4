"""What readers of a checkpoint find out of ranges of pages: where their bytes are, if anywhere."""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum

from formats.layout import PAGE_BYTES


class SegmentKind(StrEnum):
    """What the image knows about a range of pages."""

    DATA = "data"
    ZERO = "zero"
    ABSENT = "absent"


@dataclass(frozen=True, slots=True)
class Segment:
    """Pages of one kind, `[start_addr, end_addr)`.

    `round` is the round that holds them (for ABSENT ones the round asked for), and `page_index`
    the position of the first in that round's pages file (DATA only, 0 otherwise): the file of the
    process, or of memory object `object` where that is not None.
    """

    start_addr: int
    end_addr: int
    kind: SegmentKind
    round: int
    page_index: int
    object: int | None = None

    @property
    def n_pages(self) -> int:
        """Number of its pages."""
        return (self.end_addr - self.start_addr) // PAGE_BYTES
