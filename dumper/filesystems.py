"""Which devices hold files in memory only: a mapping's device number tells where its content lives."""

import contextlib
import os
from pathlib import Path

MFD_HUGETLB = 0x0004  # memfd_create(2)
MFD_HUGE_SHIFT = 26
HUGEPAGES = Path("/sys/kernel/mm/hugepages")


def device_name(device: int) -> str:
    """As /proc/PID/maps writes it."""
    return f"{os.major(device):02x}:{os.minor(device):02x}"


def _device_of_memfd(flags: int) -> set[str]:
    """The kernel's internal mount behind memfds (and shared anonymous memory) of this kind."""
    with contextlib.suppress(OSError):
        fd = os.memfd_create("predump", os.MFD_CLOEXEC | flags)
        try:
            return {device_name(os.fstat(fd).st_dev)}
        finally:
            os.close(fd)
    return set()


def _mounted(pid: int, kinds: frozenset[str]) -> set[str]:
    """Devices mounted in the target's mount namespace: proc_pid_mountinfo(5)."""
    devices = set()
    with contextlib.suppress(OSError):
        for line in Path(f"/proc/{pid}/mountinfo").read_bytes().splitlines():
            before, _, after = line.partition(b" - ")
            if after.split()[0].decode() in kinds:
                major, minor = before.split()[2].split(b":")
                devices.add(f"{int(major):02x}:{int(minor):02x}")
    return devices


def shmem_devices(pid: int) -> frozenset[str]:
    """Devices whose files are pages of memory (tmpfs, memfd, shared anonymous and System V memory)."""
    return frozenset(_device_of_memfd(0) | _mounted(pid, frozenset({"tmpfs", "ramfs"})))


def hugetlb_devices(pid: int) -> frozenset[str]:
    """Devices whose files are huge pages."""
    devices = _mounted(pid, frozenset({"hugetlbfs"}))
    for size in HUGEPAGES.glob("hugepages-*kB"):
        kib = int(size.name.removeprefix("hugepages-").removesuffix("kB"))
        log2_bytes = (kib * 1024).bit_length() - 1
        devices |= _device_of_memfd(MFD_HUGETLB | log2_bytes << MFD_HUGE_SHIFT)
    return frozenset(devices)
