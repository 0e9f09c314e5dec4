"""What a stopped process and its children have open, looked up by name."""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path

from dumper.freeze import Freeze
from dumper.state.descriptors import DescriptorCapture
from dumper.state.openfiles import DescriptorRecords
from dumper.target import Target
from formats.openfiles import OpenFile, Pipe, Socket
from formats.processstate import Descriptor
from tests import harness


@dataclass
class Seen:
    """What a capture of the target and its child found; `named`: descriptors of the target by name."""

    pid: int
    child: int
    named: dict[str, int]
    records: DescriptorRecords
    contents: dict[str, tuple[str, bytes, int]]
    left_open: set[str]
    object_ids: dict[tuple[int, int], int]

    def descriptor(self, name: str, pid: int | None = None) -> Descriptor:
        fd = self.named[name]
        (found,) = [one for one in self.records.descriptors[pid or self.pid] if one.fd == fd]
        return found

    def file(self, name: str) -> OpenFile:
        return self.records.open_files[self.descriptor(name).open_file - 1]

    def pipe(self, name: str) -> Pipe:
        one = self.file(name)
        (found,) = [p for p in self.records.pipes if (p.device, p.inode) == (one.device, one.inode)]
        return found

    def socket(self, name: str) -> Socket:
        found = self.file(name).socket
        assert found is not None
        return found

    def missing(self, name: str) -> list[tuple[str, str]]:
        """What is missing of a descriptor, with its number and link left out of the words."""
        label = f"descriptor {self.named[name]} ("
        found = []
        for item in self.records.missing[self.pid]:
            before, is_it, rest = item.what.partition(label)
            if is_it:
                found.append((before + "it" + rest.split(")", 1)[1], item.reason))
        return found


def open_here() -> set[str]:
    """What this process has open, but for the directory that says so."""
    found = set()
    for entry in Path("/proc/self/fd").iterdir():
        try:
            found.add(f"{entry.name} {entry.readlink()}")
        except FileNotFoundError:
            continue
    return found


def info_of(target: harness.Target) -> tuple[int, dict[str, int]]:
    """The child of the target `descriptors`, and its descriptors by name."""
    words = target.command("info").split()[1:-1]
    named = {name: int(number) for name, number in (word.split("=") for word in words)}
    return named.pop("child"), named


def capture(pid: int, others: list[int], named: dict[str, int]) -> Seen:
    """Freezes a process and its children and captures what they have open."""
    targets = {one: Target(one) for one in (pid, *others)}
    try:
        with DescriptorCapture() as descriptors:
            before = open_here()
            with Freeze(targets[pid], descendants=targets.get):
                descriptors.read(list(targets.values()))
                left_open = open_here() - before
                found = descriptors.contents()
            contents, object_ids = {}, {}
            for number, one in enumerate(found, 1):
                status = os.fstat(one.fd)
                object_ids[status.st_dev, status.st_ino] = number
                contents[one.path] = (one.kind, os.pread(one.fd, 1 << 16, 0), number)
            return Seen(
                pid=pid,
                child=others[0] if others else 0,
                named=named,
                records=descriptors.records(object_ids),
                contents=contents,
                left_open=left_open,
                object_ids=object_ids,
            )
    finally:
        for target in targets.values():
            target.close()
