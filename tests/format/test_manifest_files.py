"""Manifests: what is written comes back, what is changed is noticed."""

from __future__ import annotations

import hashlib
import json
import os
from dataclasses import replace
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from formats.errors import ImageCorrupt, ImageVersionUnsupported, StorageError
from formats.layout import MANIFEST_MAX_BYTES, MANIFEST_MAX_OBJECTS, MANIFEST_MAX_VALUES
from formats.manifest import Manifest
from formats.manifestfile import decode_manifest, encode_manifest, read_manifest
from tests.format.images import vma_of
from tests.format.samples import DUMP, MANIFEST


def seal(body: bytes, schema: int = 2) -> bytes:
    """A manifest file around any body, with the right digest."""
    digest = hashlib.sha256(body).hexdigest()
    prefix = f'{{"predump":{{"schema":{schema},"sha256":"{digest}"}},"manifest":'
    return prefix.encode() + body + b"}\n"


@pytest.mark.parametrize("manifest", [MANIFEST, DUMP], ids=["pre-dump", "dump"])
def test_a_manifest_comes_back(manifest: Manifest) -> None:
    assert decode_manifest(encode_manifest(manifest), "m") == manifest


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
    with pytest.raises((ImageCorrupt, ImageVersionUnsupported, StorageError)):
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


def test_derived_figures_of_a_vma() -> None:
    vma = replace(vma_of(0, 8), pages_data=1, pages_zero=2, pages_parent=3)
    assert (vma.n_pages, vma.pages_absent, vma.is_shared) == (8, 2, False)
    assert replace(vma, perms="rw-s").is_shared


@pytest.mark.parametrize("what", ["size", "objects", "values"])
def test_what_no_reader_would_take_is_not_written(what: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """The limit itself is read and written; one more is neither."""
    if what == "size":
        max_bytes = 1 << 16
        monkeypatch.setattr("formats.manifestfile.MANIFEST_MAX_BYTES", max_bytes)
        with_room = replace(MANIFEST, full_reason="x" * (max_bytes - len(encode_manifest(MANIFEST))))
        beyond = replace(with_room, full_reason=with_room.full_reason + "x")
    else:
        body = encode_manifest(MANIFEST).partition(b'"manifest":')[2]
        n_objects, n_values = body.count(b"{"), body.count(b",") + body.count(b"[")
        room = MANIFEST_MAX_OBJECTS - n_objects if what == "objects" else MANIFEST_MAX_VALUES - n_values
        with_room = replace(MANIFEST, full_reason=("{" if what == "objects" else ",") * room)
        beyond = replace(with_room, full_reason=with_room.full_reason[0] + with_room.full_reason)
    assert decode_manifest(encode_manifest(with_room), "m") == with_room
    with pytest.raises(StorageError, match="too many for a manifest"):
        encode_manifest(beyond)


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
