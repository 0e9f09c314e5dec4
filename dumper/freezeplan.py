"""How the last pages of a dump are got: copied while the process stands still, or left to a clone of it. Numbers in,
decision out.

What does not fit the staging memory is compressed and written in the freeze, which takes many times as long as a copy.
A clone takes as long as its page tables are large, however much was written.
"""

from dataclasses import dataclass
from enum import StrEnum

from dumper.prediction import CLONE_GAIN_NS, COMPARE_NS_PER_PAGE, COPY_NS_PER_PAGE, copying_ns
from formats.manifest import FreezeBy

CLONE_NS = 1_000_000
CLONE_NS_PER_PAGE = 80  # of its memory: a page table entry copied and protected
CLONE_NS_PER_MAPPING = 1_000


class FreezeWish(StrEnum):
    """What the user asks for: by default whichever is predicted to be shorter."""

    AUTO = "auto"
    COPY = "copy"
    CLONE = "clone"


@dataclass(frozen=True, slots=True)
class CopyWork:
    """Pages to copy, of which `room_pages` fit the staging memory; `pages_in_doubt` are compared with older copies.

    ns_per_page: what a copy was measured to take, 0 if it was not.
    """

    pages: int
    room_pages: int
    pages_in_doubt: int = 0
    ns_per_page: float = 0.0

    def ns(self) -> int:
        """How long it takes."""
        copy_ns = copying_ns(self.pages, self.room_pages, self.ns_per_page or COPY_NS_PER_PAGE)
        return int(copy_ns) + self.pages_in_doubt * COMPARE_NS_PER_PAGE


@dataclass(frozen=True, slots=True)
class CloneWork:
    """Pages and mappings of the process that is cloned; of pages that a clone does not have, `copied` are left."""

    resident_pages: int
    mappings: int
    copied: CopyWork = CopyWork(0, 0)

    def ns(self) -> int:
        """How long it takes."""
        return (
            CLONE_NS + self.resident_pages * CLONE_NS_PER_PAGE + self.mappings * CLONE_NS_PER_MAPPING + self.copied.ns()
        )


def choose(wish: FreezeWish, copy: CopyWork, clone: CloneWork | None) -> FreezeBy:
    """What to do for one process; `clone` is None where there can be none."""
    if clone is None or wish is FreezeWish.COPY:
        return FreezeBy.COPY
    if wish is FreezeWish.CLONE or copy.ns() > clone.ns() + CLONE_GAIN_NS:
        return FreezeBy.CLONE
    return FreezeBy.COPY
