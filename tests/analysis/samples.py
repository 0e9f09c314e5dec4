"""Mappings made by hand."""

from __future__ import annotations

from formats.manifest import Vma


def vma(
    start_addr: int, end_addr: int, perms: str = "rw-p", path: str = "", *, kind: str = "anon", inode: int = 0
) -> Vma:
    return Vma(
        start_addr=start_addr,
        end_addr=end_addr,
        perms=perms,
        offset_bytes=0,
        device="08:01" if inode else "00:00",
        inode=inode,
        path=path,
        kind=kind,
        tracked=True,
    )
