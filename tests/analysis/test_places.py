"""What addresses are called."""

from __future__ import annotations

from analysis.places import Places
from tests.analysis.samples import vma


def test_files_count_from_where_they_were_mapped_first() -> None:
    places = Places(
        [
            vma(0x1000, 0x2000, "r--p", "/usr/lib/libc.so.6", inode=7),
            vma(0x2000, 0x4000, "r-xp", "/usr/lib/libc.so.6", inode=7),
        ]
    )
    assert places.name(0x1000) == "libc.so.6"
    assert places.name(0x2010) == "libc.so.6+0x1010"


def test_memory_without_a_file_counts_from_its_start() -> None:
    places = Places([vma(0x1000, 0x2000, path="[heap]", kind="heap"), vma(0x9000, 0xA000, path="[vdso]")])
    assert places.name(0x11A0) == "heap+0x1a0"
    assert places.name(0x9000) == "vdso"


def test_one_of_several_is_told_by_its_start() -> None:
    places = Places([vma(0x1000, 0x2000), vma(0x3000, 0x4000)])
    assert places.name(0x3008) == "anon@3000+0x8"


def test_what_is_not_mapped_has_no_name() -> None:
    places = Places([vma(0x1000, 0x2000), vma(0x3000, 0x4000)])
    assert [places.name(addr) for addr in (0, 0xFFF, 0x2000, 0x4000)] == [""] * 4
    assert places.vma_at(0x2FFF) is None


def test_a_deleted_file_has_its_name() -> None:
    places = Places([vma(0x1000, 0x2000, path="/tmp/data (deleted)", inode=3)])
    assert places.name(0x1FFF) == "data+0xfff"


def test_files_of_one_name_are_told_by_where_they_are() -> None:
    places = Places(
        [
            vma(0x1000, 0x2000, path="/a/libx.so", inode=3),
            vma(0x3000, 0x4000, path="/b/libx.so", inode=4),
            vma(0x4000, 0x5000, path="/b/libx.so", inode=4),
        ]
    )
    assert places.name(0x1001) == "libx.so@1000+0x1"
    assert places.name(0x4001) == "libx.so@3000+0x1001"
    assert places.named("libx.so") == {0x1000: "libx.so@1000", 0x3000: "libx.so@3000"}
    assert places.named("libx.so@3000") == places.named("/b/libx.so") == {0x3000: "libx.so@3000"}
