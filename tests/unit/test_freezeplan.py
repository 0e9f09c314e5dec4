"""Which is shorter, a copy or a clone: numbers in, decision out."""

from __future__ import annotations

from dataclasses import replace

import pytest

from dumper.freezeplan import CloneWork, CopyWork, FreezeWish, choose
from dumper.prediction import CLONE_GAIN_NS
from formats.manifest import FreezeBy

GIB_PAGES = 1 << 18
ROOM = 1 << 16

MUCH = CopyWork(pages=100_000, room_pages=ROOM, ns_per_page=700)
FEW = CopyWork(pages=500, room_pages=ROOM, ns_per_page=700)
IN_DOUBT = CopyWork(pages=500, room_pages=ROOM, pages_in_doubt=GIB_PAGES, ns_per_page=700)
GIB = CloneWork(resident_pages=GIB_PAGES, mappings=100)
TIB = CloneWork(resident_pages=GIB_PAGES << 10, mappings=100)
SMALL = CloneWork(resident_pages=1_000, mappings=100)
MANY_MAPPINGS = replace(SMALL, mappings=60_000)


@pytest.mark.parametrize(
    ("wish", "copy", "clone", "expected"),
    [
        (FreezeWish.AUTO, MUCH, GIB, FreezeBy.CLONE),
        (FreezeWish.AUTO, FEW, GIB, FreezeBy.COPY),
        (FreezeWish.AUTO, MUCH, TIB, FreezeBy.COPY),
        (FreezeWish.AUTO, FEW, SMALL, FreezeBy.COPY),  # it would gain less than what it costs the process
        (FreezeWish.AUTO, replace(MUCH, room_pages=100_000), SMALL, FreezeBy.CLONE),
        (FreezeWish.AUTO, replace(MUCH, room_pages=100_000), MANY_MAPPINGS, FreezeBy.CLONE),
        (FreezeWish.AUTO, replace(FEW, pages=20_000), MANY_MAPPINGS, FreezeBy.COPY),
        (FreezeWish.AUTO, IN_DOUBT, GIB, FreezeBy.CLONE),
        (FreezeWish.AUTO, MUCH, replace(SMALL, copied=MUCH), FreezeBy.COPY),  # a clone has none of it
        (FreezeWish.AUTO, MUCH, None, FreezeBy.COPY),
        (FreezeWish.COPY, MUCH, SMALL, FreezeBy.COPY),
        (FreezeWish.CLONE, FEW, TIB, FreezeBy.CLONE),
        (FreezeWish.CLONE, MUCH, None, FreezeBy.COPY),
    ],
)
def test_what_is_chosen(wish: FreezeWish, copy: CopyWork, clone: CloneWork | None, expected: FreezeBy) -> None:
    assert choose(wish, copy, clone) is expected


def test_what_does_not_fit_takes_longer() -> None:
    fits = CopyWork(pages=1_000, room_pages=1_000, ns_per_page=700)
    assert fits.ns() == 700_000
    assert replace(fits, room_pages=999).ns() > fits.ns() + 700
    assert replace(fits, room_pages=2_000).ns() == fits.ns()


def test_a_speed_that_was_not_measured_is_assumed() -> None:
    assert CopyWork(pages=1_000, room_pages=1_000).ns() > 0


def test_the_more_there_is_to_copy_the_sooner_a_clone() -> None:
    """Once it is chosen, more pages do not make it a copy again; before, the copy is longer by the gain at most."""
    chosen = [choose(FreezeWish.AUTO, replace(MUCH, pages=pages), GIB) for pages in range(0, 100_000, 1_000)]
    first = chosen.index(FreezeBy.CLONE)
    assert set(chosen[first:]) == {FreezeBy.CLONE}
    assert replace(MUCH, pages=(first - 1) * 1_000).ns() <= GIB.ns() + CLONE_GAIN_NS
