"""Small checkpoints for tests: rounds are written page by page from plain dictionaries."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import groupby
from pathlib import Path

from formats.frames import compress_frames
from formats.layout import PAGE_BYTES, PAGES_FRAME_BYTES, RUN, RunKind, round_name
from formats.manifest import Gap, Host, Manifest, MemoryObject, Parent, Process, RoundKind, Stats, Vma
from formats.roundfiles import PageWriters, RoundFiles
from formats.roundwriter import RoundWriter

PID = 42
BASE_ADDR = 0x7F00_0000_0000
CHECKPOINT_ID = "00112233445566778899aabbccddeeff"
HOST = Host(boot_id="boot", hostname="host", kernel_release="6.1", machine="x86_64")
ZERO_PAGE = bytes(PAGE_BYTES)

PageState = bytes | RunKind
"""What a round has for a page: its content, RunKind.ZERO or RunKind.PARENT."""


def page_of(seed: int) -> bytes:
    """A page whose content nobody can mistake for another's."""
    return hashlib.sha256(seed.to_bytes(8, "little")).digest() * (PAGE_BYTES // 32)


def addr_of(page: int) -> int:
    """Address of a page of the test VMA."""
    return BASE_ADDR + page * PAGE_BYTES


def kind_of(state: PageState) -> RunKind:
    return state if isinstance(state, RunKind) else RunKind.DATA


def pack_runs(pages: Mapping[int, PageState], base_addr: int = BASE_ADDR) -> bytes:
    """The records of a pagemap for pages of one round, of a process or (with base 0) of a memory object."""
    records = b""
    page_index = 0
    ordered = sorted(pages)
    keyed = [(page - position, kind_of(pages[page])) for position, page in enumerate(ordered)]
    for (_, kind), group in groupby(zip(keyed, ordered, strict=True), key=lambda item: item[0]):
        members = [page for _, page in group]
        index = page_index if kind is RunKind.DATA else 0
        records += RUN.pack(base_addr + members[0] * PAGE_BYTES, len(members), kind, index)
        page_index += len(members) if kind is RunKind.DATA else 0
    return records


def vma_of(start_page: int, end_page: int, kind: str = "anon", path: str = "") -> Vma:
    return Vma(
        start_addr=addr_of(start_page),
        end_addr=addr_of(end_page),
        perms="rw-p",
        offset_bytes=0,
        device="00:00",
        inode=0,
        path=path,
        kind=kind,
        tracked=True,
    )


def object_vma(start_page: int, end_page: int, number: int, offset_pages: int = 0, kind: str = "shmem") -> Vma:
    """A VMA on a memory object, shared or (as kind "file") private."""
    return replace(
        vma_of(start_page, end_page, kind, f"/object/{number}"),
        perms="rw-p" if kind == "file" else "rw-s",
        offset_bytes=offset_pages * PAGE_BYTES,
        object=number,
    )


@dataclass(frozen=True)
class ImageRound:
    """A round to write; `vmas` get their page counts from `pages`."""

    pages: Mapping[int, PageState]
    vmas: tuple[Vma, ...] = (vma_of(0, 64),)
    unreadable: tuple[Gap, ...] = ()
    start_time_ticks: int = 7


def process_of(image: ImageRound, pid: int = PID) -> Process:
    def count(kind: RunKind, start_addr: int = 0, end_addr: int = 1 << 64) -> int:
        return sum(
            kind_of(state) is kind and start_addr <= addr_of(page) < end_addr for page, state in image.pages.items()
        )

    vmas = [
        replace(
            vma,
            pages_data=count(RunKind.DATA, vma.start_addr, vma.end_addr),
            pages_zero=count(RunKind.ZERO, vma.start_addr, vma.end_addr),
            pages_parent=count(RunKind.PARENT, vma.start_addr, vma.end_addr),
        )
        for vma in image.vmas
    ]
    return Process(
        pid=pid,
        start_time_ticks=image.start_time_ticks,
        ppid=1,
        name="target",
        exe="/bin/target",
        exe_build_id="ab12",
        cmdline=["target"],
        vmas=vmas,
        threads=[],
        unreadable=list(image.unreadable),
        pages_data=count(RunKind.DATA),
        pages_zero=count(RunKind.ZERO),
        pages_parent=count(RunKind.PARENT),
    )


@dataclass(frozen=True)
class ImageObject:
    """A memory object to write; its pages count from its beginning. `size_bytes` of None: all of `pages`."""

    id: int
    pages: Mapping[int, bytes | RunKind]
    size_bytes: int | None = None
    kind: str = "shmem"
    unreadable: tuple[Gap, ...] = ()

    def record(self) -> MemoryObject:
        size_bytes = (max(self.pages, default=-1) + 1) * PAGE_BYTES if self.size_bytes is None else self.size_bytes
        return MemoryObject(
            id=self.id,
            device="00:01",
            inode=1000 + self.id,
            path=f"/object/{self.id}",
            kind=self.kind,
            size_bytes=size_bytes,
            mode=0o100600,
            uid=0,
            gid=0,
            unreadable=list(self.unreadable),
            pages_data=sum(kind_of(state) is RunKind.DATA for state in self.pages.values()),
            pages_zero=sum(kind_of(state) is RunKind.ZERO for state in self.pages.values()),
        )


def manifest_of(number: int, process: Process, parent: Parent | None) -> Manifest:
    return Manifest(
        checkpoint_id=CHECKPOINT_ID,
        round=number,
        kind=RoundKind.PRE_DUMP,
        created_ns=1,
        tool_version="0.1.0",
        parent=parent,
        full=parent is None,
        full_reason="first round" if parent is None else "",
        host=HOST,
        root_pid=process.pid,
        processes=[process],
        stats=Stats(
            pages_data=process.pages_data,
            pages_zero=process.pages_zero,
            pages_parent=process.pages_parent,
        ),
    )


def write_pages(writers: PageWriters, pages: Mapping[int, PageState], base_addr: int = BASE_ADDR) -> None:
    content = b"".join(state for _, state in sorted(pages.items()) if isinstance(state, bytes))
    writers[0].append(*compress_frames(memoryview(content), PAGES_FRAME_BYTES, 1))
    writers[1].append(pack_runs(pages, base_addr))


def fill_round(writer: RoundFiles, image: ImageRound, pid: int = PID) -> None:
    """Write the files of a round, uncommitted as yet."""
    write_pages(writer.open_process(pid), image.pages)


def tree_manifest(
    number: int, images: Mapping[int, ImageRound], objects: Sequence[ImageObject], parent: Parent | None
) -> Manifest:
    """The manifest of a dump of several processes by pid, the first of which is the root."""
    processes = [process_of(image, pid) for pid, image in images.items()]
    records = [item.record() for item in objects]
    return replace(
        manifest_of(number, processes[0], parent),
        kind=RoundKind.DUMP,
        processes=processes,
        objects=records,
        stats=Stats(
            pages_data=sum(owner.pages_data for owner in (*processes, *records)),
            pages_zero=sum(owner.pages_zero for owner in (*processes, *records)),
            pages_parent=sum(process.pages_parent for process in processes),
        ),
    )


def write_tree(
    checkpoint: Path,
    number: int,
    images: Mapping[int, ImageRound],
    objects: Sequence[ImageObject],
    parent: Parent | None = None,
) -> Parent:
    """Write and commit a dump of several processes with objects; returns what the next one says of its parent."""
    writer = RoundWriter(checkpoint, number)
    for pid, image in images.items():
        fill_round(writer, image, pid)
    for item in objects:
        write_pages(writer.open_object(item.id), item.pages, base_addr=0)
    _, sha256 = writer.commit(tree_manifest(number, images, objects, parent))
    return Parent(round=number, sha256=sha256)


def write_round(checkpoint: Path, number: int, image: ImageRound, parent: Parent | None = None) -> Parent:
    """Write and commit a round; returns what the next one says of its parent."""
    writer = RoundWriter(checkpoint, number)
    fill_round(writer, image)
    _, sha256 = writer.commit(manifest_of(number, process_of(image), parent))
    return Parent(round=number, sha256=sha256)


def write_chain(checkpoint: Path, *images: ImageRound) -> Path:
    """Write rounds 1, 2, ..., each on top of the one before; returns the checkpoint."""
    parent: Parent | None = None
    for number, image in enumerate(images, start=1):
        parent = write_round(checkpoint, number, image, parent)
    return checkpoint


def round_path(checkpoint: Path, number: int) -> Path:
    return checkpoint / round_name(number)
