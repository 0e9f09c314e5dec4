"""Checkpoints at the limits of the format: as many of one thing as a manifest may have."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import replace
from typing import Any

from formats.layout import MANIFEST_MAX_BYTES, MANIFEST_MAX_OBJECTS, MANIFEST_MAX_VALUES, pagemap_name, pages_name
from formats.manifest import FileEntry, Gap, Missing
from formats.processstate import Descriptor
from formats.records import encode_record
from tests.format.images import ImageRound, manifest_of, process_of, vma_of
from tests.format.samples import DUMP, SHA256
from tests.fuzz.manifests import sealed
from tests.fuzz.samples import Files

Body = dict[str, Any]

_FEW = json.dumps(encode_record(manifest_of(1, process_of(ImageRound({})), None)))
_ROOM = 4000  # of values, for what is in the manifest besides


def _body(**changes: object) -> Body:
    """A manifest of a process without memory."""
    body: Body = json.loads(_FEW)
    body["processes"][0] |= changes
    return body


def _dump_body() -> Body:
    """A manifest with state of processes."""
    body: Body = json.loads(json.dumps(encode_record(replace(DUMP, files=[], round=1, parent=None, full=True))))
    return body


def _filled(body: Body, put: Callable[[Body, list[Any]], None], example: object) -> bytes:
    """The body with a list that holds something as often as a manifest may, `"@"` in it being 1, 2, ..."""
    one = json.dumps(example, separators=(",", ":")).replace('"@"', "%d").replace("@", "%d")
    n_values = max(1, one.count(",") + one.count("[") + 1)
    n = (MANIFEST_MAX_VALUES - _ROOM) // n_values
    n = min(n, (MANIFEST_MAX_OBJECTS - _ROOM) // max(1, one.count("{")) if "{" in one else n)
    n = min(n, (MANIFEST_MAX_BYTES - (1 << 20)) // (len(one) + 8))
    put(body, ["@LIST"])
    n_numbers = one.count("%d")
    items = ",".join(one % ((number + 1,) * n_numbers) for number in range(n))
    return sealed(json.dumps(body, separators=(",", ":")).replace('"@LIST"', items).encode())


def _in_process(key: str) -> Callable[[Body, list[Any]], None]:
    def put(body: Body, items: list[Any]) -> None:
        body["processes"][0][key] = items

    return put


def _in_state(key: str) -> Callable[[Body, list[Any]], None]:
    def put(body: Body, items: list[Any]) -> None:
        body["processes"][0]["state"][key] = items

    return put


def _in_manifest(key: str) -> Callable[[Body, list[Any]], None]:
    def put(body: Body, items: list[Any]) -> None:
        body[key] = items

    return put


def _as_processes(body: Body, items: list[Any]) -> None:
    body |= {"processes": items, "root_pid": 1}


def many_vmas() -> bytes:
    """Neighbours of one page each."""
    one = encode_record(vma_of(0, 1))
    text = _filled(_body(), _in_process("vmas"), one | {"start_addr": "@", "end_addr": "@", "path": "/lib/some.so"})
    # Addresses of pages need arithmetic: the k-th VMA begins at k pages.
    pieces = text[text.index(b'"manifest":') + 11 : -2].split(b'"start_addr":')
    for index, piece in enumerate(pieces[1:], start=1):
        rest = piece[piece.index(b'"perms"') :]
        pieces[index] = b'%d,"end_addr":%d,%s' % (index * 4096, (index + 1) * 4096, rest)
    return sealed(b'"start_addr":'.join(pieces))


_PLAIN_PROCESS: Body = {
    "pid": "@",
    "start_time_ticks": 0,
    "ppid": 1,
    "name": "",
    "exe": "",
    "exe_build_id": "",
    "cmdline": [],
    "vmas": [],
    "threads": [],
    "unreadable": [],
}


def many_files() -> bytes:
    """Of processes each, none of which is there."""
    entry = encode_record(FileEntry(name="", stored_bytes=17, sha256=SHA256, seek_table_sha256=SHA256))
    n = 20_000
    files = [entry | {"name": name(pid)} for pid in range(1, n + 1) for name in (pages_name, pagemap_name)]
    processes = [_PLAIN_PROCESS | {"pid": pid} for pid in range(1, n + 1)]
    return sealed(_body() | {"files": files, "processes": processes, "root_pid": 1})


HUGE: dict[str, Callable[[], bytes]] = {
    "VMAs": many_vmas,
    "threads": lambda: _filled(_body(), _in_process("threads"), {"tid": "@", "name": ""}),
    "gaps": lambda: _filled(
        _body(), _in_process("unreadable"), encode_record(Gap(start_addr=4096, end_addr=8192, reason="x"))
    ),
    "things missing": lambda: _filled(
        _body(), _in_process("missing"), encode_record(Missing(what="a @ b @", reason="why @"))
    ),
    "descriptors": lambda: _filled(
        _dump_body(),
        _in_state("descriptors"),
        encode_record(Descriptor(fd=0, open_file=3, close_on_exec=False)) | {"fd": "@"},
    ),
    "processes": lambda: _filled(
        _body(),
        _as_processes,
        _PLAIN_PROCESS,
    ),
    "processes with files": many_files,
    "values nobody knows": lambda: _filled(_body(), _in_manifest("unknown"), []),
    "strings nobody knows": lambda: _filled(_body(), _in_manifest("unknown"), "abc"),
    "objects nobody knows": lambda: _filled(_body(), _in_manifest("unknown"), {"a": 0}),
}


def of_one_round(manifest: bytes) -> Files:
    """A checkpoint without memory."""
    return {"0001/manifest.json": manifest}
