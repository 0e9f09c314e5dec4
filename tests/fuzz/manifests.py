"""Manifests with anything in them, signed as if predump had written them: only the rules for values can refuse them."""

from __future__ import annotations

import copy
import json
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import PurePath
from typing import Any

from formats.layout import SCHEMA_VERSION, SEEK_TABLE_FOOTER
from tests.fuzz.samples import Files, sha256_of

Json = Any
Place = tuple[str | int, ...]
"""Where a value is in a manifest: keys and indexes from the outside in."""

TERMINAL = "\x1b]0;owned\x07\x1b[2J\r\n[bold]x[/nope][link=http://x]\u202e\udcff:smile:\u2028"
"""What a terminal or the library that writes to it might act on."""

NASTY: tuple[Json, ...] = (
    None,
    True,
    -1,
    0,
    1,
    4095,
    4096,
    1 << 31,
    (1 << 63) - 1,
    1 << 63,
    (1 << 64) - 4096,
    (1 << 64) - 1,
    1 << 64,
    -(1 << 63),
    -(1 << 63) - 1,
    0.5,
    1e308,
    float("nan"),
    float("inf"),
    "",
    "0",
    TERMINAL,
    "../../../../etc/passwd",
    "/etc/passwd",
    "a\0b",
    "x" * 5000,
    "QUJD",
    [],
    [[]],
    [None],
    {},
    {"": 0},
    {TERMINAL: 1},
)


def body_of(manifest: bytes) -> Json:
    """What a manifest says."""
    return json.loads(manifest)["manifest"]


def sealed(body: Json | bytes) -> bytes:
    """A manifest file that says this; bytes are taken as they are."""
    data = body if isinstance(body, bytes) else json.dumps(body, separators=(",", ":")).encode()
    head = f'{{"predump":{{"schema":{SCHEMA_VERSION},"sha256":"{sha256_of(data)}"}},"manifest":'
    return head.encode() + data + b"}\n"


def resealed(files: Files, number: int, body: Json | bytes) -> Files:
    """The checkpoint with this body in a round; its files, and the rounds on top of it, are made to fit."""
    result = dict(files)
    names = sorted(name for name in files if PurePath(name).name == "manifest.json")
    for name in names:
        here = PurePath(name).parts[0]
        if int(here) < number:
            continue
        if int(here) > number:
            body = body_of(result[name])
            _sign_parent(body, result)
        if not isinstance(body, bytes):
            _sign_files(body, result, here)
        result[name] = sealed(body)
    return result


def _sign_parent(body: Json, files: Files) -> None:
    parent = body.get("parent")
    if parent:
        manifest = files.get(f"{parent['round']:04d}/manifest.json")
        if manifest is not None:
            parent["sha256"] = sha256_of(manifest)


def _sign_files(body: Json, files: Files, here: str) -> None:
    """Have sizes and digests of files that are there be theirs, if the entries look like it."""
    entries = body.get("files") if isinstance(body, dict) else None
    for entry in entries if isinstance(entries, list) else ():
        content = files.get(f"{here}/{entry.get('name')}") if isinstance(entry, dict) else None
        if content is not None:
            entry.update(signature_of(content))


def signature_of(content: bytes) -> dict[str, Json]:
    """Size and digests of a file of frames, as far as it looks like one."""
    n_frames = SEEK_TABLE_FOOTER.unpack(content[-SEEK_TABLE_FOOTER.size :])[0] if len(content) >= 17 else 0
    table = content[-min(len(content), 17 + 12 * n_frames) :]
    return {"stored_bytes": len(content), "sha256": sha256_of(content), "seek_table_sha256": sha256_of(table)}


@dataclass(frozen=True)
class Field:
    """A value in a manifest."""

    place: Place
    value: Json


def fields_of(body: Json, place: Place = ()) -> Iterator[Field]:
    """Every value in a manifest, each kind of place in a list once: the first and the last entry."""
    if place:
        yield Field(place, body)
    if isinstance(body, dict):
        for key, value in body.items():
            yield from fields_of(value, (*place, key))
    elif isinstance(body, list):
        for index in sorted({0, len(body) - 1} if body else ()):
            yield from fields_of(body[index], (*place, index))


def replaced(body: Json, place: Place, value: Json) -> Json:
    """A manifest with another value there."""
    result = copy.deepcopy(body)
    inside = result
    for step in place[:-1]:
        inside = inside[step]
    inside[place[-1]] = value
    return result


def without(body: Json, place: Place) -> Json:
    """A manifest without that value."""
    result = copy.deepcopy(body)
    inside = result
    for step in place[:-1]:
        inside = inside[step]
    del inside[place[-1]]
    return result
