"""Which frames of several pages files make a new one: those that go on as they are, and those made of parts of others.

Pages are wanted in an order of their own. Where a stretch of it is a whole frame of some file, that frame is copied;
what lies between such stretches is gathered into new frames:

    wanted          a0 a1 a2 a3   b0   a5 a6 a7   c0 c1 c2 c3
    old frames      |a0 a1 a2 a3| a4 a5 a6 a7|    b0 b1 ..|    |c0 c1 c2 c3|
    new frames      | copied    | made of b0, a5 a6 a7 | copied    |
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass, replace

from formats.layout import FRAME_PAGES

COPIED_MIN_PAGES = FRAME_PAGES // 2
"""Shorter frames join their neighbours if they can: else each flattening would leave more of them."""


@dataclass(frozen=True, slots=True)
class Part:
    """`n_pages` pages of a frame of `frame_pages`, from `first_page` of it on. `source` says which file it is of."""

    source: int
    frame_index: int
    frame_pages: int
    first_page: int
    n_pages: int

    @property
    def is_whole(self) -> bool:
        """Whether it is all of the frame."""
        return self.n_pages == self.frame_pages

    def take(self, first: int, n_pages: int) -> Part:
        """Some of its pages."""
        return replace(self, first_page=self.first_page + first, n_pages=n_pages)


def joined(parts: Iterable[Part]) -> Iterator[Part]:
    """The same pages, with consecutive parts of a frame as one."""
    last: Part | None = None
    for part in parts:
        if last is not None and last.take(last.n_pages, part.n_pages) == part:
            last = last.take(0, last.n_pages + part.n_pages)
            continue
        if last is not None:
            yield last
        last = part
    if last is not None:
        yield last


def planned(parts: Iterable[Part]) -> Iterator[list[Part]]:
    """The new frames in order, each as the parts it is made of: at least one, at most FRAME_PAGES pages in all.

    One that is made of a whole frame alone is a copy of it.
    """
    pending: list[Part] = []
    room_pages = FRAME_PAGES
    for part in joined(parts):
        if part.is_whole and part.n_pages >= COPIED_MIN_PAGES:
            if pending:
                yield pending
            yield [part]
            pending, room_pages = [], FRAME_PAGES
            continue
        taken_pages = 0
        while taken_pages < part.n_pages:
            n_pages = min(room_pages, part.n_pages - taken_pages)
            pending.append(part.take(taken_pages, n_pages))
            taken_pages += n_pages
            room_pages -= n_pages
            if not room_pages:
                yield pending
                pending, room_pages = [], FRAME_PAGES
    if pending:
        yield pending
