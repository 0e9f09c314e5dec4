"""Searches of small checkpoints, compared with a plain search of the bytes that each round stands for."""

from __future__ import annotations

import re
import struct
import tracemalloc
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from analysis.places import Places
from analysis.search.matchers import MATCH_MAX_BYTES
from analysis.search.patterns import pattern_of
from analysis.search.scan import Match
from analysis.search.search import Mapped, ProcessSearch, Scope, Search, SearchOptions, rounds_text
from analysis.selection import VmaSelection
from formats import runs
from formats.chain import MemoryView
from formats.errors import ImageCorrupt, UsageError
from formats.layout import FRAME_PAGES, PAGE_BYTES, RunKind, pages_name
from formats.manifest import Gap
from formats.opening import open_images
from tests import criuwriter as criu
from tests.format.images import (
    BASE_ADDR,
    PID,
    ZERO_PAGE,
    ImageObject,
    ImageRound,
    PageState,
    addr_of,
    object_vma,
    page_of,
    vma_of,
    write_chain,
    write_tree,
)
from tests.format.test_memory_objects import Tree, trees
from tests.format.test_memory_view import Memory, histories

CONTEXT_BYTES = 20
Place = tuple[int, bytes]
"""The address of a match, and its bytes."""


@dataclass(frozen=True)
class Answer:
    """Where a search found what, and in which rounds; contexts by place and round."""

    rounds: dict[Place, set[int]]
    context: dict[tuple[Place, int], tuple[bytes, bytes]]
    addrs: list[int]
    searched_bytes: int


def search(
    checkpoint: Path, words: str, scope: Scope | None = None, *, threads: int = 2, **text: bool
) -> list[tuple[ProcessSearch, Match]]:
    found = Search(
        open_images(checkpoint),
        pattern_of(words, **text),
        scope or Scope(),
        lambda _manifest, view: Places(view.vmas),
        SearchOptions(CONTEXT_BYTES, threads),
    )
    return list(found.results(lambda _done, _total: None))


def answer(checkpoint: Path, words: str, scope: Scope | None = None, **text: bool) -> Answer:
    found = Search(
        open_images(checkpoint),
        pattern_of(words, **text),
        scope or Scope(),
        lambda _manifest, view: Places(view.vmas),
        SearchOptions(CONTEXT_BYTES, 2),
    )
    rounds: dict[Place, set[int]] = {}
    context: dict[tuple[Place, int], tuple[bytes, bytes]] = {}
    addrs = []
    for whose, match in found.results(lambda _done, _total: None):
        numbers = whose.rounds_of(match)
        addrs.append(match.addr)
        for addr, around in expanded(match):
            place = addr, match.content
            assert not rounds.get(place, set()) & set(numbers)
            rounds.setdefault(place, set()).update(numbers)
            context[place, numbers[0]] = around
    return Answer(rounds, context, addrs, found.searched_bytes)


def expanded(match: Match) -> Iterator[tuple[int, tuple[bytes, bytes]]]:
    """The match and those that follow on it in zeros."""
    for position in range(match.repeats + 1):
        yield match.addr + position * len(match.content), (match.before, match.after)


# ---- the model: whole stretches of memory in one piece, and one match after the other ----


def stretches(memory: dict[int, bytes | None] | Memory, pages: Iterable[int]) -> Iterator[tuple[int, bytes]]:
    """Address and bytes of what is known without a gap."""
    start, content = 0, b""
    for page in pages:
        known = memory.get(page)
        if known is not None and content and addr_of(page) == start + len(content):
            content += known
            continue
        if content:
            yield start, content
        start, content = addr_of(page), known or b""
    if content:
        yield start, content


def literal(expression: bytes) -> Callable[[bytes, int], Iterator[tuple[int, int]]]:
    """A model of what is always of a few bytes."""

    def find(content: bytes, _addr: int) -> Iterator[tuple[int, int]]:
        return (match.span() for match in re.finditer(expression, content))

    return find


def bounded(expression: bytes) -> Callable[[bytes, int], Iterator[tuple[int, int]]]:
    """A model of regular expressions: the first place where it matches within the limit, then on behind that."""
    regex = re.compile(expression)

    def find(content: bytes, _addr: int) -> Iterator[tuple[int, int]]:
        position = 0
        while (longer := regex.search(content, position)) is not None:
            position = longer.start()
            match = regex.match(content, position, position + MATCH_MAX_BYTES)
            if match:
                yield match.span()
            position = match.end() if match else position + 1

    return find


def pointing(low: int, high: int) -> Callable[[bytes, int], Iterator[tuple[int, int]]]:
    """A model of pointers."""

    def find(content: bytes, addr: int) -> Iterator[tuple[int, int]]:
        for offset in range(-addr % 8, len(content) - 7, 8):
            if low <= int.from_bytes(content[offset : offset + 8], "little") < high:
                yield offset, offset + 8

    return find


MODELS: dict[str, Callable[[bytes, int], Iterator[tuple[int, int]]]] = {
    "needle": literal(b"n\0e\0e\0d\0l\0e\0|needle"),
    "e": literal(b"e\0|e"),
    "hex:61 61": literal(b"aa"),
    "hex:61 61 61 61 61": literal(b"aaaaa"),
    "hex:00 00 00": literal(b"\0\0\0"),
    "hex:6e ?? 65": literal(b"(?s)n.e"),
    "hex:?? 00 00 ??": literal(b"(?s).\0\0."),
    "hex:00": literal(b"\0"),
    "re:n[a-e]+le": bounded(b"n[a-e]+le"),
    "re:(?<=need)le": bounded(b"(?<=need)le"),
    "re:(?s)a.{3000}e": bounded(b"(?s)a.{3000}e"),
    "re:a+": bounded(b"a+"),
    "re:\\x00+e?": bounded(b"\\x00+e?"),
    f"ptr:{BASE_ADDR:#x}-{BASE_ADDR + 0x2000:#x}": pointing(BASE_ADDR, BASE_ADDR + 0x2000),
    "ptr:0x0-0x40": pointing(0, 0x40),
    f"ptr:{BASE_ADDR + 0x1000:#x}": pointing(BASE_ADDR + 0x1000, BASE_ADDR + 0x1001),
}
WORD = struct.Struct("<Q")


def filled(begin: bytes = b"", middle: bytes = b"", end: bytes = b"", filling: bytes = b".") -> bytes:
    """A page with something at its beginning, in it and at its end."""
    first = begin + filling * (1000 - len(begin)) + middle
    return first + filling * (PAGE_BYTES - len(first) - len(end)) + end


CONTENTS = [
    filled(begin=b"le", middle=b"needle", end=b"need"),
    filled(begin=b"edle", middle="needle".encode("utf-16-le"), end=b"ne"),
    filled(begin=b"e", end="needle".encode("utf-16-le")[:7]),
    filled(begin="needle".encode("utf-16-le")[7:], end=b"\0"),
    filled(filling=b"a"),
    filled(begin=b"a", end=b"aaaa"),
    filled(begin=WORD.pack(BASE_ADDR), middle=WORD.pack(BASE_ADDR + 0x1000), end=WORD.pack(BASE_ADDR + 0x1FFF)),
    filled(begin=b"\0e", end=b"\0\0\0\0", filling=b"\0"),
    filled(middle=b"needle" * 3, end=b"\0\0"),
]


def planted(history: tuple[list[ImageRound], list[Memory]]) -> tuple[list[ImageRound], list[Memory]]:
    """A history with contents in which something is found."""
    images, memories = history
    made: dict[bytes, bytes] = {ZERO_PAGE: ZERO_PAGE}

    def content_of(page: bytes) -> bytes:
        return made.setdefault(page, CONTENTS[len(made) * 7 % len(CONTENTS)])

    memories = [{page: content_of(content) for page, content in memory.items()} for memory in memories]
    return [
        replace(
            image,
            pages={
                page: content_of(state) if isinstance(state, bytes) else state for page, state in image.pages.items()
            },
        )
        for image in images
    ], memories


def expected(words: str, memory: dict[int, bytes | None] | Memory, pages: Iterable[int]) -> dict[Place, int]:
    """The matches of a model, and how often each is there, which is once."""
    found: dict[Place, int] = {}
    for addr, content in stretches(memory, pages):
        for start, end in MODELS[words](content, addr):
            found[addr + start, content[start:end]] = 1
    return found


@given(history=histories(), words=st.sampled_from(sorted(MODELS)))
@settings(max_examples=20, deadline=None)
def test_each_round_and_all_of_them(
    tmp_path_factory: pytest.TempPathFactory, history: tuple[list[ImageRound], list[Memory]], words: str
) -> None:
    images, memories = planted(history)
    checkpoint = write_chain(tmp_path_factory.mktemp("search") / "checkpoint", *images)
    n_pages = (images[0].vmas[0].end_addr - BASE_ADDR) // PAGE_BYTES
    in_rounds: dict[Place, set[int]] = {}
    for number, memory in enumerate(memories, start=1):
        whole = {page: memory.get(page, ZERO_PAGE) for page in range(n_pages)}
        wanted = expected(words, whole, range(n_pages))
        one = answer(checkpoint, words, Scope(number))
        assert one.rounds == {place: {number} for place in wanted}
        assert one.addrs == sorted(one.addrs)
        assert one.searched_bytes == n_pages * PAGE_BYTES
        for place in wanted:
            in_rounds.setdefault(place, set()).add(number)
    found = answer(checkpoint, words, Scope(all_rounds=True))
    assert found.rounds == in_rounds
    assert found.addrs == sorted(found.addrs)


@given(tree=trees(), words=st.sampled_from(sorted(MODELS)))
@settings(max_examples=20, deadline=None)
def test_processes_with_memory_objects(tmp_path_factory: pytest.TempPathFactory, tree: Tree, words: str) -> None:
    checkpoint = tree.write(tmp_path_factory.mktemp("search") / "checkpoint")
    for pid, memory in tree.memories.items():
        wanted = expected(words, memory, sorted(memory))
        assert set(answer(checkpoint, words, Scope(pid=pid)).rounds) == set(wanted)
        both = answer(checkpoint, words, Scope(pid=pid, all_rounds=True))
        assert {place for place, numbers in both.rounds.items() if 2 in numbers} == set(wanted)


def test_context_is_what_lies_around_whatever_the_memory_is_cut_at(tmp_path: Path) -> None:
    pages: dict[int, PageState] = {page: page_of(page) for page in range(2 * FRAME_PAGES)}
    content = bytearray(b"".join(page for page in pages.values() if isinstance(page, bytes)))
    at = FRAME_PAGES * PAGE_BYTES
    plants = [0, 5, PAGE_BYTES - 3, at - 6, at - 5, at + 7, len(content) - 6]
    for plant in plants:
        content[plant : plant + 6] = b"needle"
    plants.remove(at - 6)  # half of it was overwritten
    pages = {page: bytes(content[page * PAGE_BYTES :][:PAGE_BYTES]) for page in pages}
    checkpoint = write_chain(tmp_path / "checkpoint", ImageRound(pages, vmas=(vma_of(0, len(pages)),)))
    plants.remove(0)  # so was this
    matches = [match for _, match in search(checkpoint, "needle")]
    assert [match.addr - BASE_ADDR for match in matches] == plants
    for plant, match in zip(plants, matches, strict=True):
        assert match.before == content[max(0, plant - CONTEXT_BYTES) : plant]
        assert match.after == content[plant + 6 : plant + 6 + CONTEXT_BYTES]


def test_borders_of_frames_of_many_pages(tmp_path: Path) -> None:
    n_pages = 3 * FRAME_PAGES
    first: dict[int, PageState] = {page: CONTENTS[page % 3] for page in range(n_pages)}
    second = dict.fromkeys(range(n_pages), RunKind.PARENT) | {
        page: CONTENTS[(page + 1) % 3] for page in range(10, n_pages, FRAME_PAGES // 2)
    }
    images = [ImageRound(pages, vmas=(vma_of(0, n_pages),)) for pages in (first, second)]
    checkpoint = write_chain(tmp_path / "checkpoint", *images)
    for words in ("needle", "re:n[a-e]+le"):
        wanted: dict[Place, set[int]] = {}
        for number in (1, 2):
            with MemoryView(open_images(checkpoint), number) as view:
                content = view.read(BASE_ADDR, n_pages * PAGE_BYTES)
            for start, end in MODELS[words](content, BASE_ADDR):
                wanted.setdefault((BASE_ADDR + start, content[start:end]), set()).add(number)
        assert answer(checkpoint, words, Scope(all_rounds=True)).rounds == wanted


def test_mappings_next_to_each_other_are_one_piece_and_gaps_are_none(tmp_path: Path) -> None:
    pages: dict[int, PageState] = {page: filled(begin=b"le", end=b"need") for page in range(6)}
    vmas = (vma_of(0, 2), vma_of(2, 3), vma_of(4, 5), vma_of(5, 6))
    del pages[3]
    checkpoint = write_chain(tmp_path / "checkpoint", ImageRound(pages, vmas))
    addrs = [addr_of(page) - 4 for page in (1, 2, 5)]
    assert [match.addr for _, match in search(checkpoint, "needle")] == addrs
    selection = VmaSelection((hex(addr_of(0)), hex(addr_of(4))))
    assert [match.addr for _, match in search(checkpoint, "needle", Scope(selection=selection))] == addrs[:1]


def test_what_nobody_knows_is_no_part_of_memory(tmp_path: Path) -> None:
    gap = Gap(start_addr=addr_of(1), end_addr=addr_of(2), reason="device")
    image = ImageRound({0: filled(end=b"\0\0")}, (vma_of(0, 3), vma_of(3, 4, "file", "/lib/a")), (gap,))
    checkpoint = write_chain(tmp_path / "checkpoint", image, replace(image, pages={0: RunKind.PARENT}))
    wanted = {(addr_of(1) - 1, b"\0"), *((addr, b"\0") for addr in range(addr_of(2), addr_of(3)))}
    wanted.add((addr_of(1) - 2, b"\0"))
    assert set(answer(checkpoint, "hex:00").rounds) == wanted
    assert set(answer(checkpoint, "hex:00", Scope(all_rounds=True)).rounds) == wanted


def test_zeros_of_terabytes_are_counted_without_a_look_at_them(tmp_path: Path) -> None:
    n_pages = (8 << 40) // PAGE_BYTES
    image = ImageRound({0: b"x" * PAGE_BYTES, n_pages - 1: b"y" * PAGE_BYTES}, (vma_of(0, n_pages),))
    checkpoint = write_chain(tmp_path / "checkpoint", image)
    n_zeros = (n_pages - 2) * PAGE_BYTES
    for words, n_bytes in (("hex:00 00 00", 3), ("ptr:0x0-0x1", 8), ("re:\\x00{2,7}", 7)):
        matches = [match for _, match in search(checkpoint, words)]
        assert sum(1 + match.repeats for match in matches) == -(-(n_zeros - n_bytes + 1) // n_bytes)
        assert matches[0].addr == addr_of(1)
    assert search(checkpoint, "needle") == []
    (found,) = search(checkpoint, "re:\\x00y")
    assert found[1].addr == addr_of(n_pages - 1) - 1


def test_case_of_letters_in_both_encodings(tmp_path: Path) -> None:
    texts = ["Größe", "GRÖSSE", "gRÖßE", "привет Привет ПРИВЕТ", "ſ", "K", "中N", "中n"]
    content = b"|".join(text.encode(encoding) for text in texts for encoding in ("utf-8", "utf-16-le"))
    image = ImageRound({0: filled(middle=content)}, (vma_of(0, 1),))
    checkpoint = write_chain(tmp_path / "checkpoint", image)

    def texts_found(words: str) -> list[str]:
        found = [match for _, match in search(checkpoint, words, ignore_case=True)]
        return [match.content.decode(match.encoding) for match in found]

    assert texts_found("größe") == ["Größe", "Größe", "gRÖßE", "gRÖßE"]
    assert texts_found("ПРИВЕТ") == ["привет", "Привет", "ПРИВЕТ"] * 2
    assert texts_found("中n") == ["中N", "中N", "中n", "中n"]
    assert texts_found("groß") == []
    assert texts_found("рр") == []


def test_pointers_to_mappings_and_from_unaligned_words(tmp_path: Path) -> None:
    vmas = (vma_of(0, 1, "heap", "[heap]"), vma_of(8, 9, "stack", "[stack]"), vma_of(16, 17))
    words = [addr_of(0), addr_of(1), addr_of(8) + 17, addr_of(16), addr_of(17) - 1, 0x5555_0000_0000, 7]
    content = b"".join(map(WORD.pack, words)) + b"1234" + WORD.pack(addr_of(0))
    checkpoint = write_chain(
        tmp_path / "checkpoint", ImageRound({16: content.ljust(PAGE_BYTES, b"."), 0: bytes([1]) * PAGE_BYTES}, vmas)
    )

    def targets(place: str) -> list[int]:
        return [(match.addr - addr_of(16)) // 8 for _, match in search(checkpoint, f"ptr:{place}")]

    assert targets("heap") == [0]
    assert targets("stack") == [2]
    assert targets("anon") == [3, 4]
    assert targets("*") == [0, 2, 3, 4]
    assert targets("[[]*]") == [0, 2]
    assert targets("heap+0x0") == [0]
    assert targets("stack+17") == [2]
    assert targets("0x555500000000-0x800000000000") == [0, 1, 2, 3, 4, 5]
    assert targets("0x7") == [6]
    with pytest.raises(UsageError, match="no place"):
        targets("nowhere")


def shared_tree(directory: Path) -> Path:
    """Two processes that share an object, one of them twice, and a private page in front of it."""
    held = ImageObject(1, {0: filled(middle=b"needle", end=b"need"), 1: filled(begin=b"le")}, 3 * PAGE_BYTES)
    images = {
        PID: ImageRound({0: filled(end=b"needle")}, (vma_of(0, 1), object_vma(1, 2, 1))),
        PID + 1: ImageRound({4: filled(middle=b"needle")}, (vma_of(4, 5), object_vma(8, 11, 1), object_vma(20, 22, 1))),
    }
    write_tree(directory, 1, images, [held])
    return directory


def test_shared_memory_is_searched_once_for_all_processes(tmp_path: Path) -> None:
    checkpoint = shared_tree(tmp_path / "checkpoint")
    for all_rounds in (False, True):
        scope = Scope(all_processes=True, all_rounds=all_rounds)
        found = [(whose.pid, match.addr, whose.elsewhere(match)) for whose, match in search_open(checkpoint, scope)]
        in_object = [Mapped(PID + 1, addr_of(8) + 1000), Mapped(PID + 1, addr_of(20) + 1000)]
        assert found == [
            (PID, addr_of(1) - 6, []),
            (PID, addr_of(1) + 1000, in_object),
            (PID + 1, addr_of(4) + 1000, []),
        ]
        alone = [match.addr for _, match in search(checkpoint, "needle", Scope(pid=PID + 1, all_rounds=all_rounds))]
        in_memory = (addr_of(4) + 1000, addr_of(8) + 1000, addr_of(9) - 4, addr_of(20) + 1000, addr_of(21) - 4)
        assert alone == list(in_memory)


def search_open(checkpoint: Path, scope: Scope) -> Iterator[tuple[ProcessSearch, Match]]:
    """One after the other, while the files are open."""
    found = Search(
        open_images(checkpoint),
        pattern_of("needle"),
        scope,
        lambda _manifest, view: Places(view.vmas),
        SearchOptions(CONTEXT_BYTES, 1),
    )
    yield from found.results(lambda _done, _total: None)


def test_a_pid_that_was_used_again_is_another_process(tmp_path: Path) -> None:
    needle: dict[int, PageState] = {0: filled(middle=b"needle")}
    checkpoint = write_chain(tmp_path / "checkpoint", ImageRound(needle, (vma_of(0, 1),)))
    again = ImageRound(needle, (vma_of(0, 1),), start_time_ticks=8)
    write_tree(checkpoint, 2, {PID: again}, [])
    scope = Scope(all_rounds=True)
    assert [whose.rounds_of(match) for whose, match in search(checkpoint, "needle", scope)] == [[1], [2]]


def test_checkpoints_of_criu(tmp_path: Path) -> None:
    """A pre-dump, of which no mappings are known, and a dump on top of it; its shared memory has a parent, too."""
    first = criu.CriuImages(
        running={PID: {0: CONTENTS[0], 1: CONTENTS[8], 5: CONTENTS[1]}}, shared={55: {0: CONTENTS[0], 1: CONTENTS[4]}}
    )
    parents = dict.fromkeys((0, 1), criu.Mark.PARENT)
    task = criu.Task(PID, (criu.Vma(0, 8), criu.shared(8, 10, 55)), {**parents, 2: CONTENTS[1], 5: CONTENTS[8]})
    second = criu.CriuImages([task], shared={55: {0: criu.Mark.PARENT, 1: CONTENTS[1]}})
    checkpoint = criu.write_chain(tmp_path, first, second)
    for words in ("needle", "re:n[a-e]+le", "hex:61 61"):
        wanted: dict[Place, set[int]] = {}
        for number in (1, 2):
            in_round = set()
            with MemoryView(open_images(checkpoint), number) as view:
                for start_addr, end_addr in runs.merge((vma.start_addr, vma.end_addr) for vma in view.vmas):
                    content = view.read(start_addr, end_addr - start_addr)
                    spans = MODELS[words](content, start_addr)
                    in_round |= {(start_addr + start, content[start:end]) for start, end in spans}
            assert set(answer(checkpoint, words, Scope(number)).rounds) == in_round
            for place in in_round:
                wanted.setdefault(place, set()).add(number)
        assert wanted or words == "hex:61 61"
        assert answer(checkpoint, words, Scope(all_rounds=True)).rounds == wanted


@pytest.mark.parametrize(
    ("words", "message"),
    [
        ("", "nothing to search"),
        ("hex:", "no row of bytes"),
        ("hex:?? ??", "no row of bytes"),
        ("hex:abc", "no row of bytes"),
        ("re:a*", "matches where nothing is"),
        ("re:(", "no regular expression"),
        ("re:a{99999999999999999999}", "no regular expression"),
        ("x" * (MATCH_MAX_BYTES + 1), "too many"),
        ("\udc80", "no utf-8"),
    ],
)
def test_patterns_that_are_none(words: str, message: str) -> None:
    with pytest.raises(UsageError, match=message):
        pattern_of(words)


@pytest.mark.parametrize("words", ["0x2-0x1", "0x10000000000000000", "nowhere"])
def test_places_that_are_none(words: str) -> None:
    with pytest.raises(UsageError):
        pattern_of(f"ptr:{words}").matcher(Places([]))


def test_damage_is_found_by_who_searches_there(tmp_path: Path) -> None:
    image = ImageRound({0: page_of(1)}, (vma_of(0, 1),))
    checkpoint = write_chain(tmp_path / "checkpoint", image)
    path = checkpoint / "0001" / pages_name(PID)
    content = bytearray(path.read_bytes())
    content[20] ^= 1
    path.write_bytes(content)
    for scope in (Scope(), Scope(all_rounds=True)):
        with pytest.raises(ImageCorrupt):
            search(checkpoint, "needle", scope)
    (checkpoint / "0001" / pages_name(PID)).write_bytes(b"")
    with pytest.raises(ImageCorrupt):
        search(checkpoint, "needle")


def test_a_page_that_the_parent_does_not_have(tmp_path: Path) -> None:
    image = ImageRound({0: page_of(1)}, (vma_of(0, 2),))
    checkpoint = write_chain(tmp_path / "checkpoint", image, replace(image, pages={1: RunKind.PARENT}))
    with pytest.raises(ImageCorrupt, match="refers to its parent"):
        search(checkpoint, "needle", Scope(all_rounds=True))


def test_memory_is_bounded(tmp_path: Path) -> None:
    n_pages = 8_192
    pages: dict[int, PageState] = {page: page_of(page) for page in range(n_pages)}
    parents: dict[int, PageState] = dict.fromkeys(range(n_pages), RunKind.PARENT)
    changed = {page: page_of(page + n_pages) for page in range(0, n_pages, 8)}
    vmas = (vma_of(0, n_pages),)
    checkpoint = write_chain(tmp_path / "checkpoint", ImageRound(pages, vmas), ImageRound(parents | changed, vmas))
    tracemalloc.start()
    try:
        for scope in (Scope(), Scope(all_rounds=True)):
            search(checkpoint, "needle", scope, threads=4)
        _, peak_bytes = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert peak_bytes < 12 << 20


def test_numbers_of_rounds_in_words() -> None:
    assert rounds_text([2, 3, 4, 5, 7]) == "2-5, 7"
    assert rounds_text([1]) == "1"
