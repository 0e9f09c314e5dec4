"""Which mapping became which."""

from __future__ import annotations

from dataclasses import replace

from analysis.diff.rounds import MappingDiff, PageCounts, is_news
from analysis.diff.vmas import Part, Span, VmaPair, pair_vmas
from formats.manifest import Process, Vma
from tests.analysis.samples import vma
from tests.format.images import ImageRound, process_of

PROGRAM = "/bin/target"


def pairs(before: list[Vma], after: list[Vma], *, same_process: bool = True) -> list[VmaPair]:
    def process(vmas: list[Vma], start_time_ticks: int) -> Process:
        return process_of(ImageRound({}, tuple(vmas), start_time_ticks=start_time_ticks))

    return pair_vmas(process(before, 7), process(after, 7 if same_process else 8))


def test_the_same() -> None:
    heap = vma(0x1000, 0x5000, path="[heap]", kind="heap")
    (pair,) = pairs([heap], [heap])
    assert pair == VmaPair(heap, heap, [Span(heap, heap, 0x1000, 0x5000, 0)])
    assert not is_news(MappingDiff(pair, PageCounts()))


def test_one_that_grew_and_one_that_shrank() -> None:
    heap, stack = vma(0x1000, 0x5000, kind="heap"), vma(0x9000, 0xC000, kind="stack")
    grown, shrunk = replace(heap, end_addr=0x7000), replace(stack, start_addr=0xA000)
    first, second = pairs([heap, stack], [grown, shrunk])
    assert (first.before, first.after, first.came, first.gone) == (heap, grown, [Part(grown, 0x5000, 0x7000)], [])
    assert (second.before, second.after, second.came, second.gone) == (stack, shrunk, [], [Part(stack, 0x9000, 0xA000)])
    assert is_news(MappingDiff(first, PageCounts()))
    assert is_news(MappingDiff(second, PageCounts()))


def test_one_that_mprotect_split() -> None:
    whole = vma(0x1000, 0x4000)
    parts = [vma(0x1000, 0x2000), vma(0x2000, 0x3000, "r--p"), vma(0x3000, 0x4000)]
    found = pairs([whole], parts)
    assert [(pair.before, pair.after, pair.split) for pair in found] == [
        (whole, part, part is not parts[0]) for part in parts
    ]
    assert not any(pair.came or pair.gone for pair in found)


def test_several_that_became_one() -> None:
    parts = [vma(0x1000, 0x2000), vma(0x2000, 0x3000, "r--p")]
    whole = vma(0x1000, 0x3000)
    (pair,) = pairs(parts, [whole])
    assert [span.before for span in pair.spans] == parts
    assert (pair.before, pair.came, pair.gone) == (parts[0], [], [])


def test_something_else_in_its_place() -> None:
    anon, file = vma(0x1000, 0x3000), vma(0x1000, 0x3000, path="/lib/a", kind="file", inode=5)
    moved = replace(file, offset_bytes=0x1000)
    gone, came = pairs([anon], [file])
    assert {(pair.before, pair.after) for pair in (gone, came)} == {(anon, None), (None, file)}
    assert len(pairs([file], [moved])) == 2
    assert len(pairs([anon], [replace(anon, perms="rw-s")])) == 2


def test_a_file_that_was_deleted_meanwhile_is_the_same() -> None:
    file = vma(0x1000, 0x3000, path="/lib/a", kind="file", inode=5)
    (pair,) = pairs([file], [replace(file, path="/lib/a (deleted)")])
    assert pair.spans
    assert is_news(MappingDiff(pair, PageCounts()))


def moved(one: Vma, shift: int, grown_bytes: int = 0) -> Vma:
    return replace(one, start_addr=one.start_addr + shift, end_addr=one.end_addr + shift + grown_bytes)


def test_another_process_of_the_program_is_matched_by_name() -> None:
    before = [
        vma(0x1000, 0x3000, "r-xp", PROGRAM, kind="file", inode=5),
        vma(0x8000, 0x9000, path="[heap]", kind="heap"),
        vma(0x20000, 0x21000),
        vma(0x30000, 0x33000, path="[stack]", kind="stack"),
    ]
    after = [moved(before[0], 0x100000), moved(before[1], 0x200000, 0x1000), moved(before[2], 0x300000)]
    after += [replace(moved(before[3], 0x400000), start_addr=0x42F000)]
    found = pairs(before, after, same_process=False)
    assert [(pair.before, pair.after, pair.shift) for pair in found] == [
        (before[0], after[0], 0x100000),
        (before[1], after[1], 0x200000),
        (before[2], after[2], 0x300000),
        (before[3], after[3], 0x400000),  # from its upper end on
    ]
    assert [part.start_addr for pair in found for part in pair.came] == [0x209000, 0x42F000]
    assert [is_news(MappingDiff(pair, PageCounts())) for pair in found] == [False, True, False, True]


def test_another_process_at_the_same_addresses_is_matched_by_these() -> None:
    """Such as one that was restored."""
    before = [vma(0x1000, 0x3000, "r-xp", PROGRAM, kind="file", inode=5), vma(0x8000, 0x9000), vma(0xA000, 0xB000)]
    found = pairs(before, [replace(before[0], inode=77), before[2]], same_process=False)
    assert [(pair.before, pair.after) for pair in found] == [
        (before[0], replace(before[0], inode=77)),
        (before[1], None),
        (before[2], before[2]),
    ]
