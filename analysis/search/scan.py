"""Searches memory that comes in order, block by block, whatever its blocks are cut at.

Rounds that have the same memory up to some address, and have found the same, share a lane; each block is searched once
for all lanes that go through it:

    blocks      |  a: {1,2,3}  |  b: {1,2}  |  d: {1,2,3}  |
                               |  c: {3}    |
    lanes         {1,2,3}        {1,2} {3}    {1,2} {3}, and one for all once d is what lies before

A match is reported when everything is there that it may depend on: what may still belong to it, and its context.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import NamedTuple

from analysis.search.matchers import Matcher
from formats.columns import Column
from formats.framesahead import FramesAhead, Piece
from formats.layout import PAGES_FRAME_BYTES
from formats.segments import SegmentKind

_BLOCK_BYTES = PAGES_FRAME_BYTES
_ZEROS = bytes(_BLOCK_BYTES)
LONG_ZERO_BYTES = 1 << 15
_MAX_QUEUED = 256


@dataclass(slots=True)
class Match:
    """A match: its address and bytes, in which rounds it is (bits), and what lies around it.

    In zeros, `repeats` more of the same follow, each right behind the one before.
    """

    addr: int
    content: bytes
    encoding: str
    rounds: int
    before: bytes
    after: bytes
    repeats: int = 0


class Block(NamedTuple):
    """Memory `[start_addr, end_addr)`: pieces of frames, or numbers of zeros, and in which rounds it is that.

    `zero_bytes`: pages of zeros within the pieces.
    """

    start_addr: int
    end_addr: int
    parts: list[tuple[list[Piece | int], int]]
    zero_bytes: int = 0


def blocks(columns: Iterable[Column], frames: FramesAhead, n_ahead: int) -> Iterator[Block]:
    """Columns cut at frames, small ones joined, with up to `n_ahead` frames being read ahead."""
    queue: deque[tuple[int, Block]] = deque()
    asked = 0
    for block in _joined(_cut(columns, frames)):
        queue.append((asked, block))
        asked = frames.asked
        while queue and (asked - queue[0][0] > n_ahead or len(queue) > _MAX_QUEUED):
            yield queue.popleft()[1]
    for _, block in queue:
        yield block


def _cut(columns: Iterable[Column], frames: FramesAhead) -> Iterator[Block]:
    for column in columns:
        addr = column.start_addr
        while addr < column.end_addr:
            end_addr = column.end_addr
            found: list[tuple[Piece | None, int]] = []
            for segment, rounds in column.parts:
                piece = None
                if segment.kind is SegmentKind.DATA:
                    piece = frames.piece(segment, addr, end_addr)
                    end_addr = min(end_addr, addr + piece.n_bytes)
                found.append((piece, rounds))
            n_bytes = end_addr - addr
            parts: list[tuple[list[Piece | int], int]] = [
                ([n_bytes if piece is None else piece._replace(n_bytes=n_bytes)], rounds) for piece, rounds in found
            ]
            yield Block(addr, end_addr, parts)
            addr = end_addr


def _joined(cut: Iterable[Block]) -> Iterator[Block]:
    last: Block | None = None
    for block in cut:
        if last is not None and _belong_together(last, block):
            last.parts[0][0].extend(block.parts[0][0])
            last = last._replace(end_addr=block.end_addr)
            continue
        if last is not None:
            yield last
        last = block
    if last is not None:
        yield last


def _belong_together(last: Block, block: Block) -> bool:
    return (
        len(last.parts) == len(block.parts) == 1
        and last.parts[0][1] == block.parts[0][1]
        and last.end_addr == block.start_addr
        and block.end_addr - last.start_addr <= _BLOCK_BYTES
        and not any(_is_long_zero(pieces) for pieces, _ in (*last.parts, *block.parts))
    )


def _is_long_zero(pieces: list[Piece | int]) -> bool:
    """Whether it had better be skipped as the zeros that it is."""
    return isinstance(pieces[-1], int) and pieces[-1] > LONG_ZERO_BYTES


@dataclass(slots=True)
class _Lane:
    """Rounds that have the same right before where the scan is: `held`.

    What begins below `next_addr` has been found, or is no match.
    """

    rounds: int
    held: bytes
    next_addr: int


class Scanner:
    """Looks for the matches in blocks. `searched_bytes` counts what was searched, `zero_bytes` what of it was zeros."""

    def __init__(self, matcher: Matcher, context_bytes: int) -> None:
        """Matches come with up to `context_bytes` of what lies before and behind them, as far as that is known."""
        self.searched_bytes = 0
        self.zero_bytes = 0
        self._matcher = matcher
        self._context_bytes = context_bytes
        self._before_bytes = max(matcher.before_bytes, context_bytes)
        self._margin_bytes = matcher.max_bytes - 1 + context_bytes
        self._held_bytes = self._before_bytes + self._margin_bytes
        self._lanes: list[_Lane] = []
        self._end_addr = -1
        self._pending: dict[tuple[int, int, bytes], Match] = {}

    def scan(self, found: Iterable[Block]) -> Iterator[Match]:
        """The matches in blocks, ascending by address; raises ImageCorrupt, StorageError."""
        for block in found:
            if block.start_addr != self._end_addr:
                self._leave(0)
                yield from self._settled(block.start_addr)
            self._advance(block)
            yield from self._settled(self._end_addr - self._margin_bytes)
        self._leave(0)
        yield from self._settled(self._end_addr)

    def _settled(self, end_addr: int) -> Iterator[Match]:
        """Matches below an address, to which no round will be added."""
        if not self._pending:
            return
        settled = sorted((key for key in self._pending if key[0] < end_addr), key=lambda key: key[:2])
        for key in settled:
            yield self._pending.pop(key)

    def _advance(self, block: Block) -> None:
        n_bytes = block.end_addr - block.start_addr
        self.searched_bytes += n_bytes * len(block.parts)
        self.zero_bytes += block.zero_bytes
        going_on = 0
        for _, rounds in block.parts:
            going_on |= rounds
        self._leave(going_on)
        lanes: list[_Lane] = []
        for pieces, rounds in block.parts:
            entering = self._entering(rounds, block.start_addr)
            n_zeros = sum(piece for piece in pieces if isinstance(piece, int))
            self.zero_bytes += n_zeros
            is_zero = n_zeros == n_bytes
            may_skip = self._matcher.zero_bytes == 0 or len(block.parts) == 1
            if is_zero and may_skip and n_bytes > 2 * self._held_bytes:
                # Behind the first of them there is nothing but zeros around, and the same all over again.
                in_zeros = self._search(entering, bytes(2 * self._held_bytes), block.start_addr)
                lanes += self._skip_zeros(in_zeros, block.end_addr)
            else:
                lanes += self._search(entering, _content(pieces), block.start_addr)
        self._lanes = lanes
        self._end_addr = block.end_addr

    def _entering(self, rounds: int, addr: int) -> list[_Lane]:
        """What of the lanes goes on in these rounds, with one for those that begin here."""
        entering = []
        for lane in self._lanes:
            if lane.rounds & rounds:
                entering.append(_Lane(lane.rounds & rounds, lane.held, lane.next_addr))
                rounds &= ~lane.rounds
        return [*entering, _Lane(rounds, b"", addr)] if rounds else entering

    def _search(self, lanes: list[_Lane], content: bytes, addr: int) -> list[_Lane]:
        """Search content at an address for lanes that go through it; returns what becomes of them behind it."""
        # Up to here lanes may see different bytes before a match.
        border_addr = addr + self._before_bytes
        decided_addr = addr + len(content) - self._margin_bytes
        for lane in lanes:
            start_addr = addr - len(lane.held)
            head = lane.held + content[: self._before_bytes + self._margin_bytes]
            self._find(lane, head, start_addr, min(border_addr, decided_addr))
        followers: dict[int, int] = {}
        for lane in lanes:
            followers[lane.next_addr] = followers.get(lane.next_addr, 0) | lane.rounds
        nexts_addr: dict[int, int] = {}
        for next_addr, rounds in followers.items():
            inner = _Lane(rounds, b"", next_addr)
            if border_addr < decided_addr:
                self._find(inner, content, addr, decided_addr)
            nexts_addr[next_addr] = inner.next_addr
        for lane in lanes:
            lane.next_addr = nexts_addr[lane.next_addr]
            before = content if len(content) >= self._held_bytes else lane.held + content
            lane.held = before[max(0, len(before) - self._held_bytes) :]
        return _merged(lanes)

    def _find(self, lane: _Lane, content: bytes, addr: int, stop_addr: int) -> None:
        """Find what begins below `stop_addr`, in content at an address, and is not decided for a lane as yet."""
        if lane.next_addr >= stop_addr:
            return
        next_addr = lane.next_addr
        for start, end, encoding in self._matcher.find(content, addr, next_addr - addr, stop_addr - addr):
            next_addr = addr + end
            key = addr + start, 0, content[start:end]
            match = self._pending.get(key)
            if match is not None:
                match.rounds |= lane.rounds
                continue
            before = content[max(0, start - self._context_bytes) : start]
            after = content[end : end + self._context_bytes]
            self._pending[key] = Match(key[0], key[2], encoding, lane.rounds, before, after)
        lane.next_addr = max(next_addr, stop_addr)

    def _skip_zeros(self, lanes: list[_Lane], end_addr: int) -> list[_Lane]:
        """Zeros up to an address, with nothing else near: what matches there can be counted."""
        decided_addr = end_addr - self._margin_bytes
        n_bytes, step_bytes = self._matcher.zero_bytes, self._matcher.step_bytes
        context = bytes(self._context_bytes)
        for lane in lanes:
            addr = lane.next_addr + -lane.next_addr % step_bytes
            if n_bytes and addr < decided_addr:
                count = -(-(decided_addr - addr) // n_bytes)
                match = Match(addr, bytes(n_bytes), "", lane.rounds, context, context, count - 1)
                same = self._pending.setdefault((addr, count, match.content), match)
                same.rounds |= lane.rounds
                lane.next_addr = addr + count * n_bytes
            lane.next_addr = max(lane.next_addr, decided_addr)
            lane.held = bytes(self._held_bytes)
        return _merged(lanes)

    def _leave(self, going_on: int) -> None:
        """Memory ends here but for some rounds: what is left of the others is searched to its end."""
        for lane in self._lanes:
            leaving = _Lane(lane.rounds & ~going_on, lane.held, lane.next_addr)
            if leaving.rounds:
                self._find(leaving, lane.held, self._end_addr - len(lane.held), self._end_addr)
            lane.rounds &= going_on
        self._lanes = [lane for lane in self._lanes if lane.rounds]


def _content(pieces: list[Piece | int]) -> bytes:
    """The bytes of a part of a block."""
    found = [_ZEROS[:piece] if isinstance(piece, int) else piece.content() for piece in pieces]
    return found[0] if len(found) == 1 else b"".join(found)


def _merged(lanes: list[_Lane]) -> list[_Lane]:
    """One lane for all that do not differ any more."""
    if len(lanes) == 1:
        return lanes
    found: dict[tuple[bytes, int], _Lane] = {}
    for lane in lanes:
        same = found.setdefault((lane.held, lane.next_addr), lane)
        if same is not lane:
            same.rounds |= lane.rounds
    return list(found.values())
