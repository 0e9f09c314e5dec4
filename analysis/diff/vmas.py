"""Mappings of a process in two rounds: which one became which, and what of their ranges can be compared.

before   |      heap      |            | libc, r--p |     | anon |
after    |          heap           |   | libc, r--p | r-xp |        | anon |
          compared         came          compared    came   gone     came
"""

from __future__ import annotations

from collections import defaultdict, deque
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import NamedTuple

from formats import runs
from formats.manifest import UNKNOWN_VMA_KIND, Process, Vma

DELETED = " (deleted)"


class Span(NamedTuple):
    """Pages `[start_addr, end_addr)` of `before` that are those of `after` from `start_addr + shift` on."""

    before: Vma
    after: Vma
    start_addr: int
    end_addr: int
    shift: int


class Part(NamedTuple):
    """Pages `[start_addr, end_addr)` of a mapping that only one of the rounds has."""

    vma: Vma
    start_addr: int
    end_addr: int


@dataclass(slots=True)
class VmaPair:
    """A mapping in both rounds; `before` or `after` is None where it has come or gone.

    `gone` and `came` are parts of it where the other round has nothing mapped, or something else. Where several
    mappings became one, `before` is the first of them; where one became several, all but the first are `split` from it.
    """

    before: Vma | None
    after: Vma | None
    spans: list[Span] = field(default_factory=list)
    gone: list[Part] = field(default_factory=list)
    came: list[Part] = field(default_factory=list)
    split: bool = False

    @property
    def vma(self) -> Vma:
        """The mapping as it is, or as it was before it was gone."""
        vma = self.after or self.before
        assert vma is not None
        return vma

    @property
    def shift(self) -> int:
        """How much further its pages lie than before; of another process all mappings lie somewhere else."""
        return self.spans[0].shift if self.spans else 0


def is_same_process(before: Process, after: Process) -> bool:
    """Whether they are one process, as far as numbers of one boot tell."""
    return (before.pid, before.start_time_ticks) == (after.pid, after.start_time_ticks)


def pair_vmas(before: Process, after: Process) -> list[VmaPair]:
    """All mappings of both, ascending by address; each range of each is in one pair.

    By address where it is the same process, or its program lies where it was; else by name, and by the place in a file.
    """
    if is_same_process(before, after) or _program_addr(before) == _program_addr(after):
        spans = _spans_by_address(before.vmas, after.vmas)
    else:
        spans = _spans_by_name(before.vmas, after.vmas)
    pairs = [VmaPair(None, vma) for vma in after.vmas]
    home: dict[int, VmaPair] = {}
    parts: dict[int, list[runs.Range]] = defaultdict(list)
    for i, j, span in spans:
        pair = pairs[j]
        pair.spans.append(span)
        first = home.setdefault(i, pair)
        if pair.before is None:
            pair.before, pair.split = span.before, first is not pair
        parts[i].append((span.start_addr, span.end_addr))
    for pair in pairs:
        compared = sorted((span.start_addr + span.shift, span.end_addr + span.shift) for span in pair.spans)
        pair.came = _rest(pair.vma, compared)
    for i, vma in enumerate(before.vmas):
        rest = _rest(vma, sorted(parts[i]))
        if i in home:
            home[i].gone += rest
        else:
            pairs.append(VmaPair(vma, None, gone=rest))
    return sorted(pairs, key=lambda pair: pair.vma.start_addr)


def _rest(vma: Vma, compared: list[runs.Range]) -> list[Part]:
    return [Part(vma, start, end) for start, end in runs.subtract([(vma.start_addr, vma.end_addr)], compared)]


def _program_addr(process: Process) -> int:
    return next((vma.start_addr for vma in process.vmas if vma.has_file and vma.path == process.exe), 0)


def _path(vma: Vma) -> str:
    return vma.path.removesuffix(DELETED)


def _is_same(before: Vma, after: Vma) -> bool:
    """Whether what lies at one address of both is one and the same thing."""
    if UNKNOWN_VMA_KIND in (before.kind, after.kind):
        return True
    if before.kind != after.kind or before.is_shared != after.is_shared or _path(before) != _path(after):
        return False
    if not (before.has_file or after.has_file):
        return True
    return before.offset_bytes - before.start_addr == after.offset_bytes - after.start_addr


def _spans_by_address(before: Sequence[Vma], after: Sequence[Vma]) -> Iterator[tuple[int, int, Span]]:
    i = j = 0
    while i < len(before) and j < len(after):
        old, new = before[i], after[j]
        start_addr, end_addr = max(old.start_addr, new.start_addr), min(old.end_addr, new.end_addr)
        if start_addr < end_addr and _is_same(old, new):
            yield i, j, Span(old, new, start_addr, end_addr, 0)
        if old.end_addr <= new.end_addr:
            i += 1
        else:
            j += 1


def _spans_by_name(before: Sequence[Vma], after: Sequence[Vma]) -> Iterator[tuple[int, int, Span]]:
    known: dict[tuple[object, ...], deque[int]] = defaultdict(deque)
    for i, old in enumerate(before):
        known[_name(old)].append(i)
    for j, new in enumerate(after):
        waiting = known.get(_name(new))
        if not waiting:
            continue
        i = waiting.popleft()
        old = before[i]
        n_bytes = min(old.end_addr - old.start_addr, new.end_addr - new.start_addr)
        if old.kind == "stack":  # which grows downwards
            yield i, j, Span(old, new, old.end_addr - n_bytes, old.end_addr, new.end_addr - old.end_addr)
        else:
            yield i, j, Span(old, new, old.start_addr, old.start_addr + n_bytes, new.start_addr - old.start_addr)


def _name(vma: Vma) -> tuple[object, ...]:
    """What one process has in common with another that runs the same program."""
    if vma.path:
        return vma.kind, vma.is_shared, _path(vma), vma.offset_bytes if vma.has_file else 0
    return vma.kind, vma.is_shared, vma.perms, vma.n_pages
