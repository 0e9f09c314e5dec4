"""The file of a manifest: one JSON document, laid out so that it can be checked before it is parsed.

    {"predump":{"schema":1,"sha256":"<64 hex digits>"},"manifest":BODY}\\n

`sha256` is over the bytes of BODY.
"""

from __future__ import annotations

import gc
import hashlib
import json
import os
import re
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from formats import manifestrules
from formats.errors import ImageCorrupt, ImageVersionUnsupported, StorageError
from formats.files import open_regular, read_exactly
from formats.layout import MANIFEST_MAX_BYTES, MANIFEST_MAX_OBJECTS, MANIFEST_MAX_VALUES, SCHEMA_VERSION
from formats.manifest import Manifest
from formats.outline import ManifestOutline
from formats.records import decode_record, encode_record

_SCHEMA_PREFIX = re.compile(rb'\{"predump":\{"schema":([0-9]{1,9})[,}]')
_PREFIX = re.compile(rb'\{"predump":\{"schema":[0-9]{1,9},"sha256":"(?P<sha256>[0-9a-f]{64})"\},"manifest":')
_SUFFIX = b"}\n"


def encode_manifest(manifest: Manifest) -> bytes:
    """The bytes of a manifest file.

    Raises ValueError for a manifest no reader would accept, and StorageError for one that is too large.
    """
    problem = manifestrules.find_problem(manifest)
    if problem:
        raise ValueError(f"manifest of round {manifest.round}: {problem}")
    # Only ASCII goes out: surrogates from undecodable paths survive as escapes. Indenting takes five times as long.
    text = json.dumps(encode_record(manifest), separators=(",", ":"), ensure_ascii=True, allow_nan=False)
    body = text.encode("ascii")
    digest = hashlib.sha256(body).hexdigest()
    prefix = f'{{"predump":{{"schema":{SCHEMA_VERSION},"sha256":"{digest}"}},"manifest":'
    data = prefix.encode("ascii") + body + _SUFFIX
    excess = _excess(len(data)) or _excess_of_parts(data, len(prefix))
    if excess:
        raise StorageError(
            f"Cannot write the manifest of round {manifest.round}: {excess}.",
            hint="A target of so many mappings, threads or open files cannot be captured.",
        )
    return data


def decode_manifest(data: bytes, name: str) -> Manifest:
    """Check and parse the bytes of a manifest file; `name` stands for it in messages.

    Raises ImageCorrupt, and ImageVersionUnsupported if a newer schema or feature is in use.
    """
    with _no_collections():
        return _decode(_parse(_checked_body(data, name), name), name)


def _decode(value: object, name: str) -> Manifest:
    """What a parsed BODY says; it is used up."""
    manifest = decode_record(Manifest, value, name)
    _refuse_unknown(manifest.features, name)
    problem = manifestrules.find_problem(manifest)
    if problem:
        raise ImageCorrupt(f"{name} is damaged: {problem}.", path=name)
    return manifest


def _refuse_unknown(features: list[str], name: str) -> None:
    unknown = sorted(set(features) - manifestrules.KNOWN_FEATURES)
    if unknown:
        raise ImageVersionUnsupported(
            f"{name} needs features that this version lacks: {', '.join(unknown)[:200]}.",
            path=name,
        )


def read_manifest(path: Path) -> tuple[Manifest, str]:
    """Read a manifest file; returns it with the SHA-256 (hex) of the file's bytes.

    Raises ImageCorrupt, ImageVersionUnsupported, StorageError.
    """
    with _no_collections():
        value, sha256 = _read(path)
        return _decode(value, str(path)), sha256


def read_outline(path: Path) -> tuple[ManifestOutline, str]:
    """Read a part of a manifest file, checked as a whole, in less time; returns it with the digest of `read_manifest`.

    Raises ImageCorrupt, ImageVersionUnsupported, StorageError.
    """
    with _no_collections():
        value, sha256 = _read(path)
        outline = decode_record(ManifestOutline, value, str(path))
        _refuse_unknown(outline.features, str(path))
        problem = manifestrules.find_problem_of_outline(outline)
        if problem:
            raise ImageCorrupt(f"{path} is damaged: {problem}.", path=str(path))
        return outline, sha256


def _read(path: Path) -> tuple[object, str]:
    """The parsed BODY, of whose text nothing is held any more, and the digest of the whole file."""
    fd, size_bytes = open_regular(path)
    try:
        excess = _excess(size_bytes)
        if excess:
            raise ImageCorrupt(f"{path} is damaged: {excess}.", path=str(path))
        data = read_exactly(fd, size_bytes, 0, path)
    finally:
        os.close(fd)
    sha256 = hashlib.sha256(data).hexdigest()
    body = _checked_body(data, str(path))
    del data  # it is as large as the text
    return _parse(body, str(path)), sha256


def _checked_body(data: bytes, name: str) -> str:
    """The text of BODY, once version, digest and number of values are right."""
    schema = _SCHEMA_PREFIX.match(data)
    if schema is None:
        raise ImageCorrupt(f"{name} is damaged: it does not begin like a manifest.", path=name)
    version = int(schema[1])
    if version != SCHEMA_VERSION:
        raise ImageVersionUnsupported(
            f"{name} has schema version {version}; this version of predump reads {SCHEMA_VERSION}.",
            path=name,
            schema=version,
        )
    prefix = _PREFIX.match(data)
    if prefix is None or not data.endswith(_SUFFIX):
        raise ImageCorrupt(f"{name} is damaged: it is cut off or overwritten.", path=name)
    body = memoryview(data)[prefix.end() : -len(_SUFFIX)]
    if hashlib.sha256(body).hexdigest().encode("ascii") != prefix["sha256"]:
        raise ImageCorrupt(f"{name} is damaged: its checksum does not match.", path=name)
    excess = _excess_of_parts(data, prefix.end())
    if excess:
        raise ImageCorrupt(f"{name} is damaged: {excess}.", path=name)
    try:
        return str(body, "ascii")
    except UnicodeDecodeError as error:
        raise _no_json(name) from error


def _parse(body: str, name: str) -> object:
    try:
        value: object = json.loads(body)
    except (ValueError, RecursionError) as error:
        raise _no_json(name) from error
    return value


def _no_json(name: str) -> ImageCorrupt:
    return ImageCorrupt(f"{name} is damaged: it is not ASCII JSON.", path=name)


def _excess(size_bytes: int) -> str:
    """What is too much in a manifest file of that size, as half a sentence, or ""."""
    return f"{size_bytes} bytes are too many for a manifest" if size_bytes > MANIFEST_MAX_BYTES else ""


def _excess_of_parts(data: bytes, body_offset: int) -> str:
    """The same of its BODY: each value takes many times the memory of its text."""
    if len(data) < MANIFEST_MAX_OBJECTS:
        return ""  # counting takes a third of the time of reading a manifest of usual size
    n_objects = data.count(b"{", body_offset)
    n_values = data.count(b",", body_offset) + data.count(b"[", body_offset) if len(data) > MANIFEST_MAX_VALUES else 0
    if n_objects > MANIFEST_MAX_OBJECTS or n_values > MANIFEST_MAX_VALUES:
        return f"{n_objects} objects with {n_values} values are too many for a manifest"
    return ""


@contextmanager
def _no_collections() -> Iterator[None]:
    """No garbage collections in the block: each would go through all that has been decoded so far."""
    was_enabled = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if was_enabled:
            gc.enable()
