"""stub"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from dumper.target import Target
from formats.closing import Closing
from formats.manifest import Missing
from formats.openfiles import OpenFile, Pipe
from formats.processstate import Descriptor, FileLock


@dataclass
class OpenContent:
    fd: int
    kind: str
    path: str


@dataclass
class DescriptorRecords:
    open_files: list[OpenFile] = field(default_factory=list)
    pipes: list[Pipe] = field(default_factory=list)
    descriptors: dict[int, list[Descriptor]] = field(default_factory=dict)
    locks: dict[int, list[FileLock]] = field(default_factory=dict)
    missing: dict[int, list[Missing]] = field(default_factory=dict)


class DescriptorCapture(Closing):
    def __init__(self) -> None: ...
    def foresee(self, target: Target) -> list[Missing]:
        return []

    def read(self, targets: Sequence[Target]) -> None: ...
    def contents(self) -> list[OpenContent]:
        return []

    def records(self, object_ids: Mapping[tuple[int, int], int]) -> DescriptorRecords:
        return DescriptorRecords()

    def close(self) -> None: ...
