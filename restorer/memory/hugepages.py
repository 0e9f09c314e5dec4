"""Huge pages of hugetlbfs: how large those of a mapping were, which the image tells by its device at most."""

from __future__ import annotations

import os
from contextlib import suppress
from functools import cache
from pathlib import Path

from dumper.filesystems import HUGEPAGES, MFD_HUGE_SHIFT, MFD_HUGETLB, device_name

MAP_HUGETLB = 0x40000
_MAP_HUGE_SHIFT = 26


def page_bytes(device: str, *aligned: int) -> int:
    """The size of the huge pages behind a device of this machine; of another, the default where `aligned` allows it.

    Raises OSError: ENODEV if there are no such pages here.
    """
    sizes = _sizes_by_device()
    if device in sizes:
        return sizes[device]
    default = default_page_bytes()
    fitting = [size for size in (default, *sorted(sizes.values())) if size and not any(addr % size for addr in aligned)]
    if not fitting:
        raise OSError(19, os.strerror(19))
    return fitting[0]


def map_flags(size_bytes: int) -> int:
    """MAP_HUGETLB and the size: mmap(2)."""
    return MAP_HUGETLB | size_bytes.bit_length() - 1 << _MAP_HUGE_SHIFT


def memfd_flags(size_bytes: int) -> int:
    """MFD_HUGETLB and the size: memfd_create(2)."""
    return MFD_HUGETLB | size_bytes.bit_length() - 1 << MFD_HUGE_SHIFT


def default_page_bytes() -> int:
    """Of hugetlbfs without a size; 0 if this kernel has none."""
    for line in Path("/proc/meminfo").read_text().splitlines():
        if line.startswith("Hugepagesize:"):
            return int(line.split()[1]) * 1024
    return 0


@cache
def _sizes_by_device() -> dict[str, int]:
    """Of what has no mount that one sees: anonymous memory and memfds."""
    found = {}
    for entry in HUGEPAGES.glob("hugepages-*kB"):
        size_bytes = int(entry.name.removeprefix("hugepages-").removesuffix("kB")) * 1024
        with suppress(OSError):
            fd = os.memfd_create("predump", os.MFD_CLOEXEC | memfd_flags(size_bytes))
            found[device_name(os.fstat(fd).st_dev)] = size_bytes
            os.close(fd)
    return found
