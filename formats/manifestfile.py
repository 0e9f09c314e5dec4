"""The file of a manifest: one JSON document, laid out so that it can be checked before it is parsed.

    {"predump":{"schema":1,"sha256":"<64 hex digits>"},"manifest":BODY}\\n

`sha256` is over the bytes of BODY.
"""

from __future__ import annotations

import hashlib
import json
import os
import re
from pathlib import Path

from formats import manifestrules
from formats.errors import ImageCorrupt, ImageVersionUnsupported
from formats.files import open_regular, read_exactly
from formats.layout import MANIFEST_MAX_BYTES, SCHEMA_VERSION
from formats.manifest import Manifest
from formats.records import decode_record, encode_record

_SCHEMA_PREFIX = re.compile(rb'\{"predump":\{"schema":([0-9]{1,9})[,}]')
_PREFIX = re.compile(rb'\{"predump":\{"schema":[0-9]{1,9},"sha256":"(?P<sha256>[0-9a-f]{64})"\},"manifest":')
_SUFFIX = b"}\n"


def encode_manifest(manifest: Manifest) -> bytes:
    """The bytes of a manifest file; raises ValueError for a manifest no reader would accept."""
    problem = manifestrules.find_problem(manifest)
    if problem:
        raise ValueError(f"manifest of round {manifest.round}: {problem}")
    # Only ASCII goes out: surrogates from undecodable paths survive as escapes.
    text = json.dumps(encode_record(manifest), indent=1, ensure_ascii=True, allow_nan=False)
    body = text.encode("ascii")
    digest = hashlib.sha256(body).hexdigest()
    prefix = f'{{"predump":{{"schema":{SCHEMA_VERSION},"sha256":"{digest}"}},"manifest":'
    return prefix.encode("ascii") + body + _SUFFIX


def decode_manifest(data: bytes, name: str) -> Manifest:
    """Check and parse the bytes of a manifest file; `name` stands for it in messages.

    Raises ImageCorrupt, and ImageVersionUnsupported if a newer schema or feature is in use.
    """
    manifest = decode_record(Manifest, _parse(_checked_body(data, name), name), name)
    unknown = sorted(set(manifest.features) - manifestrules.KNOWN_FEATURES)
    if unknown:
        raise ImageVersionUnsupported(
            f"{name} needs features that this version lacks: {', '.join(unknown)[:200]}.",
            path=name,
        )
    problem = manifestrules.find_problem(manifest)
    if problem:
        raise ImageCorrupt(f"{name} is damaged: {problem}.", path=name)
    return manifest


def read_manifest(path: Path) -> tuple[Manifest, str]:
    """Read a manifest file; returns it with the SHA-256 (hex) of the file's bytes.

    Raises ImageCorrupt, ImageVersionUnsupported, StorageError.
    """
    fd, size_bytes = open_regular(path)
    try:
        if size_bytes > MANIFEST_MAX_BYTES:
            raise ImageCorrupt(
                f"{path} is damaged: {size_bytes} bytes are too many for a manifest.",
                path=str(path),
            )
        data = read_exactly(fd, size_bytes, 0, path)
    finally:
        os.close(fd)
    return decode_manifest(data, str(path)), hashlib.sha256(data).hexdigest()


def _checked_body(data: bytes, name: str) -> bytes:
    """The bytes of BODY, once version and digest are right."""
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
    body = data[prefix.end() : -len(_SUFFIX)]
    if hashlib.sha256(body).hexdigest().encode("ascii") != prefix["sha256"]:
        raise ImageCorrupt(f"{name} is damaged: its checksum does not match.", path=name)
    return body


def _parse(body: bytes, name: str) -> object:
    try:
        value: object = json.loads(body.decode("ascii"))
    except (ValueError, RecursionError) as error:
        raise ImageCorrupt(f"{name} is damaged: it is not ASCII JSON.", path=name) from error
    return value
