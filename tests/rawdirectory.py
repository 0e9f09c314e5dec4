"""Reads what `export --to raw` writes; it shares no code with the writer."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from formats.chain import AddressAbsent, MemoryView
from formats.manifest import Vma

INDEX = "index.json"
_CHUNK_BYTES = 1 << 20


def read_index(out: Path) -> dict[str, Any]:
    document = json.loads((out / INDEX).read_text())
    assert isinstance(document, dict)
    return document


def assert_same_memory(view: MemoryView, out: Path, is_wanted: Callable[[Vma], bool] = lambda _vma: True) -> None:
    """That the index has the mappings of a view, in pieces without gaps, and that each byte is that of the view."""
    index = read_index(out)
    fields = ("start_addr", "end_addr", "perms", "offset_bytes", "device", "inode", "path", "kind", "note")
    expected = [{name: getattr(vma, name) for name in fields} for vma in view.vmas if is_wanted(vma)]
    assert [{name: vma[name] for name in fields} for vma in index["vmas"]] == expected
    files = {vma["file"] for vma in index["vmas"]} - {""}
    assert files | {INDEX} == {path.name for path in out.iterdir()}
    for vma in index["vmas"]:
        content = (out / vma["file"]).read_bytes() if vma["file"] else b""
        assert len(content) == vma["size_bytes"]
        position, kind = vma["start_addr"], ""
        for piece in vma["pieces"]:
            assert piece["start_addr"] == position
            assert piece["kind"] != kind, "neighbours that are alike"
            position, kind = piece["end_addr"], piece["kind"]
            _check(view, content, vma["start_addr"], piece)
        assert position == vma["end_addr"]


def _check(view: MemoryView, content: bytes, base_addr: int, piece: dict[str, Any]) -> None:
    for addr in range(piece["start_addr"], piece["end_addr"], _CHUNK_BYTES):
        n_bytes = min(_CHUNK_BYTES, piece["end_addr"] - addr)
        here = content[addr - base_addr : addr - base_addr + n_bytes]
        if piece["kind"] == "absent":
            assert not any(here)
            with pytest.raises(AddressAbsent):
                view.read(addr, 1)
            with pytest.raises(AddressAbsent):
                view.read(addr + n_bytes - 1, 1)
            continue
        if piece["kind"] == "zero":
            assert not any(here)
            if piece["end_addr"] - piece["start_addr"] > 1 << 30:  # a reservation: its beginning will do
                n_bytes, here = 4096, b""
                assert not any(view.read(addr, n_bytes))
                return
            here = bytes(n_bytes)
        assert here == view.read(addr, n_bytes), f"{addr:#x}"
