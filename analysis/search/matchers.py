"""Finds what a pattern matches in bytes: literals by what is rare in them, and regular expressions.

A matcher is asked for the matches that begin in a part of some bytes. It must be given `max_bytes` of what follows on
that part, unless memory ends there, and `before_bytes` of what precedes it, unless memory begins there. Like grep, it
finds the first match, then the first one behind its end, and so on.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import NamedTuple, Protocol

MATCH_MAX_BYTES = 4096
"""What a match has at most, with what a regular expression looks at behind it."""

_LONG_ENOUGH = 3  # bytes of a literal without the zeros at its end, which are everywhere


IsMatch = Callable[[bytes, int], object]
"""Whether what begins at a place in the content is a match, by what comes to true."""


class Found(NamedTuple):
    """Where a match begins and ends in the bytes, and in which encoding it is text ("" if it is none)."""

    start: int
    end: int
    encoding: str


class Matcher(Protocol):
    """What looks for a pattern; `zero_bytes` is what it matches anywhere in the midst of zeros, 0 for nothing."""

    @property
    def max_bytes(self) -> int:
        """The longest match."""

    @property
    def before_bytes(self) -> int:
        """How much before a match may matter to it."""

    @property
    def zero_bytes(self) -> int:
        """The length of each match of so many zeros that nothing else is near."""

    @property
    def step_bytes(self) -> int:
        """Matches begin at multiples of this."""

    def find(self, content: bytes, addr: int, start: int, stop: int) -> Iterator[Found]:
        """Matches in `content`, which lies at an address, that begin in `[start, stop)`."""


class Form(Protocol):
    """One form of what is looked for, always of the same length."""

    @property
    def n_bytes(self) -> int:
        """Its length."""

    @property
    def encoding(self) -> str:
        """As in Found."""

    @property
    def step_bytes(self) -> int:
        """As in Matcher."""

    def end(self, searched: bytes, start: int, stop: int) -> int:
        """Behind the last place in `[start, stop)` where one may begin; `start` if there is none."""

    def next(self, content: bytes, searched: bytes, addr: int, start: int, stop: int) -> int:
        """Where the first one begins in `[start, stop)`, -1 for none.

        `searched` is the content, with ASCII letters in lower case where case does not matter.
        """


@dataclass(frozen=True, slots=True)
class Literal:
    """Bytes of a length, of which those from `offset` on are `anchor`.

    Where the anchor is, `is_match` is asked; None: the anchor says it all.
    """

    n_bytes: int
    anchor: bytes
    offset: int = 0
    is_match: IsMatch | None = None
    encoding: str = ""
    step_bytes: int = 1

    def end(self, searched: bytes, start: int, stop: int) -> int:
        """As Form.end."""
        # From its end Python searches bytes up to four times as fast: mostly there is nothing.
        stop = min(stop, len(searched) - self.n_bytes + 1)
        if stop <= start:
            return start
        last = searched.rfind(self.anchor, start + self.offset, stop - 1 + self.offset + len(self.anchor))
        return start if last < 0 else last - self.offset + 1

    def next(self, content: bytes, searched: bytes, addr: int, start: int, stop: int) -> int:
        """As Form.next."""
        end = stop - 1 + self.offset + len(self.anchor)
        position = start
        while position < stop:
            position = searched.find(self.anchor, position + self.offset, end) - self.offset
            if position < start:
                return -1
            if (addr + position) % self.step_bytes == 0 and (self.is_match is None or self.is_match(content, position)):
                return position
            position += 1
        return -1


@dataclass(frozen=True, slots=True)
class Variants:
    """What has hardly a byte that is always the same: letters of either case whose bytes differ."""

    n_bytes: int
    regex: re.Pattern[bytes]
    encoding: str = ""
    step_bytes: int = 1

    def end(self, searched: bytes, start: int, stop: int) -> int:
        """As Form.end."""
        return max(start, min(stop, len(searched) - self.n_bytes + 1))

    def next(self, content: bytes, searched: bytes, addr: int, start: int, stop: int) -> int:  # noqa: ARG002 -- a Form
        """As Form.next."""
        found = self.regex.search(content, start, stop - 1 + self.n_bytes)
        return found.start() if found else -1


class FormMatcher:
    """Looks for any of some forms; where several match, for the longest."""

    before_bytes = 0

    def __init__(self, forms: Sequence[Form], *, folds: bool = False) -> None:
        """With `folds` their anchors are in lower case, and stand for letters of both."""
        self.max_bytes = max(form.n_bytes for form in forms)
        self.step_bytes = max(form.step_bytes for form in forms)
        self._forms = sorted(forms, key=lambda form: -form.n_bytes)
        self._folds = folds
        zeros = bytes(self.max_bytes)
        found = next(self.find(zeros, 0, 0, 1), None)
        self.zero_bytes = found.end if found else 0

    def find(self, content: bytes, addr: int, start: int, stop: int) -> Iterator[Found]:
        """As Matcher.find."""
        searched = content.lower() if self._folds else content
        position = start
        ahead = [(-1, form, form.end(searched, start, stop)) for form in self._forms]
        while True:
            ahead = [
                (at if at >= position else form.next(content, searched, addr, position, end), form, end)
                for at, form, end in ahead
                if position < end
            ]
            ahead = [one for one in ahead if one[0] >= 0]
            if not ahead:
                return
            # Of those at the same place the first is taken, which is the longest.
            at, form, _ = min(ahead, key=lambda one: one[0])
            position = at + form.n_bytes
            yield Found(at, position, form.encoding)


class RegexMatcher:
    """Looks for a regular expression of Python's `re` for bytes."""

    max_bytes = MATCH_MAX_BYTES
    before_bytes = MATCH_MAX_BYTES
    step_bytes = 1

    def __init__(self, regex: re.Pattern[bytes]) -> None:
        self._regex = regex
        zeros = bytes(self.before_bytes + self.max_bytes)
        found = next(self.find(zeros, 0, self.before_bytes, self.before_bytes + 1), None)
        self.zero_bytes = found.end - found.start if found else 0

    def find(self, content: bytes, addr: int, start: int, stop: int) -> Iterator[Found]:  # noqa: ARG002 -- as Matcher
        """As Matcher.find; matches of no bytes are none."""
        position = start
        while position < stop:
            found = self._regex.search(content, position, min(len(content), stop + self.max_bytes - 1))
            if found is None or found.start() >= stop:
                return
            # What it comes to must not depend on how much there is behind.
            position = found.start()
            found = self._regex.match(content, position, min(len(content), position + self.max_bytes))
            if found is None or found.end() == position:
                position += 1
                continue
            yield Found(position, found.end(), "")
            position = found.end()


def anchored(
    content: bytes, known: Sequence[bool], is_match: IsMatch, encoding: str = "", *, is_sure: bool = True
) -> Literal:
    """A literal that is looked for by the longest row of its bytes that are `known`; there must be one.

    `is_match` is left out where the anchor says it all, if that `is_sure`.
    """
    first, n_bytes = longest_row(known)
    anchor = content[first : first + n_bytes]
    without_zeros = anchor.rstrip(b"\0")
    if len(without_zeros) >= _LONG_ENOUGH:
        anchor = without_zeros
    says_all = is_sure and len(anchor) == len(content)
    return Literal(len(content), anchor, first, None if says_all else is_match, encoding)


def longest_row(known: Sequence[bool]) -> tuple[int, int]:
    """Where the longest row of True begins, and how long it is."""
    best = (0, 0)
    begin = 0
    for position, one in enumerate([*known, False]):
        if not one:
            best = max(best, (begin, position - begin), key=lambda row: row[1])
            begin = position + 1
    return best
