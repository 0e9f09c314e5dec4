"""Symbols by address and by name, compared with going through all of them."""

from __future__ import annotations

import struct
from dataclasses import dataclass

import pytest
from hypothesis import given
from hypothesis import strategies as st

from analysis.symbols.symboltable import SymbolKind, SymbolTable

TEXT, DATA, NOTES = 1, 2, 3
LOADED = {TEXT, DATA}
NOTYPE, OBJECT, FUNC, SECTION, FILE, TLS, IFUNC = 0, 1, 2, 3, 4, 6, 10
LOCAL, GLOBAL, WEAK = 0, 1, 2
UNDEF, ABS, XINDEX = 0, 0xFFF1, 0xFFFF


@dataclass(frozen=True)
class Entry:
    name: str
    value: int
    size: int = 0
    type: int = OBJECT
    binding: int = GLOBAL
    section: int = DATA


def table_of(*entries: Entry, versions: bytes = b"") -> SymbolTable:
    strings, packed = b"\0", b""
    for entry in entries:
        packed += struct.pack(
            "<IBBHQQ",
            len(strings) if entry.name else 0,
            entry.binding << 4 | entry.type,
            0,
            entry.section,
            entry.value,
            entry.size,
        )
        strings += entry.name.encode(errors="surrogateescape") + b"\0"
    return SymbolTable(packed, strings, LOADED, versions)


def name_at(table: SymbolTable, value: int) -> str:
    found = table.at(value)
    return found.name if found else ""


ENTRIES = st.lists(st.tuples(st.integers(0, 60), st.integers(0, 12)), max_size=30)


@given(ENTRIES)
def test_an_address_is_in_the_symbol_that_begins_last(ranges: list[tuple[int, int]]) -> None:
    table = table_of(*(Entry(f"s{value}_{size}", value, size) for value, size in ranges))
    for address in range(80):
        around = [(value, size) for value, size in ranges if value == address or value <= address < value + size]
        found = table.at(address)
        if not around:
            assert found is None
        else:
            assert found is not None
            assert found.value == max(value for value, _ in around)
            assert (found.value, found.size_bytes) in around
            assert found.size_bytes > 0 or all(size == 0 for value, size in around if value == found.value)


@given(ENTRIES, st.integers(0, 70), st.integers(0, 70))
def test_those_that_begin_in_a_range(ranges: list[tuple[int, int]], start: int, end: int) -> None:
    table = table_of(*(Entry(f"s{value}_{size}", value, size) for value, size in ranges))
    assert [one.value for one in table.between(start, end)] == sorted({v for v, _ in ranges if start <= v < end})


@given(st.lists(st.tuples(st.sampled_from(["a", "ab", "b", "b@V1", "b@@V2", "abc"]), st.integers(0, 9)), max_size=12))
def test_names(pairs: list[tuple[str, int]]) -> None:
    table = table_of(*(Entry(name, value, 1) for name, value in pairs))
    for name in ("a", "ab", "abc", "b", "c"):
        values = {value for given_name, value in pairs if given_name in {name, f"{name}@@V2"}}
        values = values or {value for given_name, value in pairs if given_name == f"{name}@V1"}
        assert {one.value for one in table.named(name)} == values
        assert {one.name for one in table.named(name)} <= {name}


def test_one_of_many_around_an_address_is_found_though_small_ones_lie_between() -> None:
    inner = [Entry(f"inner{number}", 100 + number * 2, 1) for number in range(50)]
    table = table_of(Entry("outer", 90, 1000), *inner)
    assert name_at(table, 141) == "outer"
    assert name_at(table, 140) == "inner20"
    assert name_at(table, 500) == "outer"


@pytest.mark.parametrize(
    ("better", "worse"),
    [
        (Entry("sized", 8, 4), Entry("unsized", 8)),
        (Entry("seen", 8, 4, binding=WEAK), Entry("its_own", 8, 4, binding=LOCAL)),
        (Entry("typed", 8, 4), Entry("untyped", 8, 4, type=NOTYPE)),
        (Entry("puts", 8, 4, binding=WEAK), Entry("_IO_puts", 8, 4)),
        (Entry("z", 8, 4), Entry("a", 8, 4)),
    ],
)
def test_which_of_several_at_an_address(better: Entry, worse: Entry) -> None:
    for entries in ((better, worse), (worse, better)):
        assert name_at(table_of(*entries), 8) == better.name
        assert [one.name for one in table_of(*entries).between(0, 9)] == [better.name]


@pytest.mark.parametrize(
    "entry",
    [
        Entry("undefined", 8, 4, section=UNDEF),
        Entry("section", 8, 4, type=SECTION),
        Entry("source.c", 8, 4, type=FILE),
        Entry("in_no_memory", 8, 4, section=NOTES),
        Entry("", 8, 4),
    ],
)
def test_what_is_no_symbol_of_the_file(entry: Entry) -> None:
    table = table_of(entry)
    assert len(table) == 0
    assert table.at(8) is None
    assert not entry.name or table.named(entry.name) == []


@pytest.mark.parametrize(
    ("entry", "kind"),
    [
        (Entry("x", 8, 4, type=TLS), SymbolKind.THREAD_LOCAL),
        (Entry("x", 8, 4, section=ABS), SymbolKind.ABSOLUTE),
        (Entry("x", 8, 4, type=IFUNC, section=TEXT), SymbolKind.RESOLVER),
        (Entry("x", 8, 4, section=XINDEX), SymbolKind.PLACE),
    ],
)
def test_kinds(entry: Entry, kind: SymbolKind) -> None:
    table = table_of(entry)
    assert [one.kind for one in table.named("x")] == [kind]
    assert (table.at(8) is not None) == kind.is_address


def test_hidden_versions() -> None:
    table = table_of(Entry("f", 8, 4), Entry("f", 16, 4), versions=struct.pack("<HH", 0x8002, 3))
    assert [one.value for one in table.named("f")] == [16]


def test_names_that_nobody_could_have_meant() -> None:
    table = table_of(Entry("\udcff\x1b[2J", 8, 4), Entry("@", 16, 4), Entry("x" * 100_000, 24, 4))
    assert [name_at(table, 8), name_at(table, 16)] == ["\udcff\x1b[2J", "@"]
    assert len(name_at(table, 24)) < 10_000


def test_numbers_that_lead_nowhere() -> None:
    entry = struct.pack("<IBBHQQ", 1 << 31, GLOBAL << 4 | OBJECT, 0, DATA, (1 << 64) - 1, (1 << 64) - 1)
    table = SymbolTable(entry * 3 + b"rest", b"", LOADED, b"\1")
    assert name_at(table, (1 << 64) - 1) == ""
    assert table.named("x") == []
    assert len(list(table.between(0, 1 << 64))) == 1
