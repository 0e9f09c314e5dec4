"""Names of CRIU's image files, and by them its directories."""

from __future__ import annotations

import os
import re
from pathlib import Path

INVENTORY_NAME = "inventory.img"
TREE_NAME = "pstree.img"
FILES_NAME = "files.img"
MEMFD_NAME = "memfd.img"
STATS_NAME = "stats-dump"
PARENT_NAME = "parent"
"""A symbolic link to the directory that PARENT entries refer to."""

_PAGEMAP = re.compile(r"pagemap-([1-9][0-9]{0,9})\.img")
_PID_MAX = (1 << 31) - 1


def pagemap_name(pid: int) -> str:
    """Of the pages of a process."""
    return f"pagemap-{pid}.img"


def shared_pagemap_name(number: int) -> str:
    """Of the pages of shared memory."""
    return f"pagemap-shmem-{number}.img"


def pages_name(number: int) -> str:
    """Of the pages that a pagemap of this `pages_id` is of."""
    return f"pages-{number}.img"


def of_task(kind: str, number: int) -> str:
    """Of what is there once for a process, a thread or a table of descriptors, such as "mm"."""
    return f"{kind}-{number}.img"


def is_of_memory(name: str) -> bool:
    """Whether a file has pages, or says which there are."""
    return name.startswith(("pages-", "pagemap-")) and name.endswith(".img")


def pagemap_pid(name: str) -> int | None:
    """The process whose pagemap has this name, None if it is another file."""
    match = _PAGEMAP.fullmatch(name)
    pid = int(match[1]) if match else 0
    return pid if 0 < pid <= _PID_MAX else None


def has_images(path: Path) -> bool:
    """Whether a directory is one of CRIU's images."""
    try:
        with os.scandir(path) as entries:
            return any(entry.name == INVENTORY_NAME or pagemap_pid(entry.name) is not None for entry in entries)
    except OSError:
        return False
