"""Manifests: what is written comes back, what is changed is noticed."""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from formats.errors import ImageCorrupt, ImageVersionUnsupported
from formats.layout import MANIFEST_MAX_BYTES, pagemap_name, pages_name
from formats.manifest import (
    FileEntry,
    Gap,
    Manifest,
    Parent,
)
from formats.manifestfile import decode_manifest, encode_manifest, read_manifest
from formats.threadstate import Thread
from tests.format.images import BASE_ADDR, PID, ImageRound, manifest_of, process_of, vma_of

SHA256 = "ab" * 32
FILES = [
    FileEntry(name=name, stored_bytes=17, sha256=SHA256, seek_table_sha256=SHA256)
    for name in (pages_name(PID), pagemap_name(PID))
]
PROCESS = replace(
    process_of(ImageRound({}, vmas=(vma_of(0, 8), vma_of(8, 9, "file", "/tmp/\udcff\u00e9")))),
    cmdline=["target", "\udc80"],
    threads=[Thread(tid=PID, name="t", registers={"rip": 2**64 - 1}, fpregs=b"\0\xff", xstate=b"x")],
    unreadable=[Gap(start_addr=BASE_ADDR, end_addr=BASE_ADDR + 4096, reason="device")],
)
MANIFEST = replace(manifest_of(3, PROCESS, Parent(round=2, sha256=SHA256)), files=FILES, full_reason="")


def seal(body: bytes, schema: int = 2) -> bytes:
    """A manifest file around any body, with the right digest."""
    digest = hashlib.sha256(body).hexdigest()
    prefix = f'{{"predump":{{"schema":{schema},"sha256":"{digest}"}},"manifest":'
    return prefix.encode() + body + b"}\n"


def test_a_manifest_comes_back() -> None:
    assert decode_manifest(encode_manifest(MANIFEST), "m") == MANIFEST


def test_a_manifest_file_comes_back_with_its_digest(tmp_path: Path) -> None:
    path = tmp_path / "manifest.json"
    path.write_bytes(encode_manifest(MANIFEST))
    assert read_manifest(path) == (MANIFEST, hashlib.sha256(path.read_bytes()).hexdigest())


def test_the_file_is_one_ascii_json_document() -> None:
    data = encode_manifest(MANIFEST)
    document = json.loads(data.decode("ascii"))
    assert document["predump"]["schema"] == 2
    assert document["manifest"]["round"] == 3
    body = data[data.index(b'"manifest":') + len(b'"manifest":') : -2]
    assert document["predump"]["sha256"] == hashlib.sha256(body).hexdigest()
    assert os.fsencode(document["manifest"]["processes"][0]["cmdline"][1]) == b"\x80"


@given(data=st.data())
def test_any_flipped_bit_is_noticed(data: st.DataObject) -> None:
    original = encode_manifest(MANIFEST)
    position = data.draw(st.integers(0, len(original) - 1))
    bit = data.draw(st.integers(0, 7))
    damaged = bytearray(original)
    damaged[position] ^= 1 << bit
    with pytest.raises((ImageCorrupt, ImageVersionUnsupported)):
        decode_manifest(bytes(damaged), "m")


@given(data=st.data())
def test_any_truncation_is_noticed(data: st.DataObject) -> None:
    original = encode_manifest(MANIFEST)
    with pytest.raises(ImageCorrupt):
        decode_manifest(original[: data.draw(st.integers(0, len(original) - 1))], "m")


@given(st.binary(max_size=200))
def test_any_sealed_body_is_checked(body: bytes) -> None:
    with pytest.raises(ImageCorrupt):
        decode_manifest(seal(body), "m")


@pytest.mark.parametrize(
    "body",
    [
        b"[" * 100_000,
        b'{"a":' * 100_000,
        b"9" * 5000,
        b"null",
        b"{}",
        b"\xff\xfe",
        "\u00e9".encode("utf-16"),
    ],
    ids=lambda body: str(body[:5]),
)
def test_hostile_json_is_damage(body: bytes) -> None:
    with pytest.raises(ImageCorrupt):
        decode_manifest(seal(body), "m")


def test_another_schema_is_reported_before_the_digest() -> None:
    data = encode_manifest(MANIFEST).replace(b'"schema":2', b'"schema":3', 1)[:-500]
    with pytest.raises(ImageVersionUnsupported, match="schema version 3") as caught:
        decode_manifest(data, "m")
    assert caught.value.exit_code == 21


def test_a_later_prefix_is_a_version_not_damage() -> None:
    with pytest.raises(ImageVersionUnsupported):
        decode_manifest(b'{"predump":{"schema":3,"blake3":"00"}}', "m")


def test_an_unknown_feature_is_a_version_not_damage() -> None:
    with pytest.raises(ImageVersionUnsupported, match="frobnication"):
        decode_manifest(encode_manifest(replace(MANIFEST, features=["frobnication"])), "m")


def with_vmas(*ranges: tuple[int, int], perms: str = "rw-p", pages_data: int = 0) -> Manifest:
    vmas = [
        replace(vma_of(0, 1), start_addr=start, end_addr=end, perms=perms, pages_data=pages_data)
        for start, end in ranges
    ]
    return replace(MANIFEST, processes=[replace(PROCESS, vmas=vmas)])


def with_files(*names: str) -> Manifest:
    return replace(MANIFEST, files=[replace(FILES[0], name=name) for name in names])


UNSOUND: dict[str, Callable[[], Manifest]] = {
    "checkpoint id": lambda: replace(MANIFEST, checkpoint_id="../etc"),
    "round 0": lambda: replace(MANIFEST, round=0),
    "own parent": lambda: replace(MANIFEST, parent=Parent(round=3, sha256=SHA256)),
    "later parent": lambda: replace(MANIFEST, parent=Parent(round=4, sha256=SHA256)),
    "parent 0": lambda: replace(MANIFEST, parent=Parent(round=0, sha256=SHA256)),
    "parent digest": lambda: replace(MANIFEST, parent=Parent(round=2, sha256="")),
    "no parent": lambda: replace(MANIFEST, parent=None),
    "page size": lambda: replace(MANIFEST, host=replace(MANIFEST.host, page_bytes=16384)),
    "process twice": lambda: replace(MANIFEST, processes=[PROCESS, PROCESS]),
    "no process": lambda: replace(MANIFEST, processes=[]),
    "root not in it": lambda: replace(MANIFEST, root_pid=PID + 1),
    "pid 0": lambda: replace(MANIFEST, root_pid=0, processes=[replace(PROCESS, pid=0)], files=[]),
    "thread twice": lambda: replace(MANIFEST, processes=[replace(PROCESS, threads=PROCESS.threads * 2)]),
    "negative count": lambda: replace(MANIFEST, processes=[replace(PROCESS, pages_zero=-1)]),
    "negative stats": lambda: replace(MANIFEST, stats=replace(MANIFEST.stats, pages_data=-1)),
    "empty VMA": lambda: with_vmas((4096, 4096)),
    "backward VMA": lambda: with_vmas((8192, 4096)),
    "unaligned VMA": lambda: with_vmas((4096, 8193)),
    "VMA beyond 64 bits": lambda: with_vmas(((1 << 64) - 4096, 1 << 64), (1 << 64, 2 << 64)),
    "negative VMA": lambda: with_vmas((-4096, 4096)),
    "overlapping VMAs": lambda: with_vmas((0, 8192), (4096, 12288)),
    "VMAs out of order": lambda: with_vmas((8192, 12288), (0, 4096)),
    "perms": lambda: with_vmas((0, 4096), perms="wr-p"),
    "negative VMA count": lambda: with_vmas((0, 4096), pages_data=-1),
    "unaligned gap": lambda: replace(
        MANIFEST,
        processes=[replace(PROCESS, unreadable=[Gap(start_addr=1, end_addr=4096, reason="")])],
    ),
    "path as a name": lambda: with_files("../pages-42.zst", "pagemap-42.zst"),
    "absolute name": lambda: with_files("/pages-42.zst", "pagemap-42.zst"),
    "name with a newline": lambda: with_files("pages-42.zst\n", "pagemap-42.zst"),
    "name with a zero": lambda: with_files("pages-042.zst", "pagemap-042.zst"),
    "file twice": lambda: with_files("pages-42.zst", "pagemap-42.zst", "pages-42.zst"),
    "half a pair": lambda: with_files("pages-42.zst"),
    "file of nobody": lambda: with_files("pages-43.zst", "pagemap-43.zst"),
    "file digest": lambda: replace(MANIFEST, files=[replace(FILES[0], sha256="x"), FILES[1]]),
    "file size": lambda: replace(MANIFEST, files=[replace(FILES[0], stored_bytes=-1), FILES[1]]),
}


@pytest.mark.parametrize("case", UNSOUND)
def test_an_unsound_manifest_is_neither_written_nor_read(case: str, monkeypatch: pytest.MonkeyPatch) -> None:
    manifest = UNSOUND[case]()
    with pytest.raises(ValueError, match="manifest of round"):
        encode_manifest(manifest)
    with monkeypatch.context() as patch:
        patch.setattr("formats.manifestrules.find_problem", lambda _manifest: None)
        data = encode_manifest(manifest)
    with pytest.raises(ImageCorrupt) as caught:
        decode_manifest(data, "m.json")
    assert caught.value.message.startswith("m.json is damaged: ")


def test_a_process_without_memory_needs_no_files() -> None:
    manifest = replace(MANIFEST, files=[])
    assert decode_manifest(encode_manifest(manifest), "m") == manifest


def test_a_vma_in_the_upper_half_is_fine() -> None:
    manifest = with_vmas((0xFFFFFFFFFF600000, 0xFFFFFFFFFF601000))
    assert decode_manifest(encode_manifest(manifest), "m") == manifest


def test_derived_figures_of_a_vma() -> None:
    vma = replace(vma_of(0, 8), pages_data=1, pages_zero=2, pages_parent=3)
    assert (vma.n_pages, vma.pages_absent, vma.is_shared) == (8, 2, False)
    assert replace(vma, perms="rw-s").is_shared


class TestFiles:
    def test_a_huge_file_is_not_read(self, tmp_path: Path) -> None:
        path = tmp_path / "manifest.json"
        path.touch()
        os.truncate(path, MANIFEST_MAX_BYTES + 1)
        with pytest.raises(ImageCorrupt, match="too many for a manifest"):
            read_manifest(path)

    def test_a_fifo_does_not_block(self, tmp_path: Path) -> None:
        os.mkfifo(tmp_path / "manifest.json")
        with pytest.raises(ImageCorrupt, match="not a regular file"):
            read_manifest(tmp_path / "manifest.json")

    def test_a_link_is_not_followed(self, tmp_path: Path) -> None:
        (tmp_path / "real").write_bytes(encode_manifest(MANIFEST))
        (tmp_path / "manifest.json").symlink_to("real")
        with pytest.raises(ImageCorrupt, match="not a regular file"):
            read_manifest(tmp_path / "manifest.json")

    def test_a_directory_or_device_is_no_manifest(self, tmp_path: Path) -> None:
        for path in (tmp_path, Path("/dev/null")):
            with pytest.raises(ImageCorrupt, match="not a regular file"):
                read_manifest(path)

    def test_a_missing_file_is_damage(self, tmp_path: Path) -> None:
        with pytest.raises(ImageCorrupt, match="is missing"):
            read_manifest(tmp_path / "manifest.json")
