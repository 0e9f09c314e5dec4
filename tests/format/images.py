"""Small checkpoints for tests: rounds are written page by page from plain dictionaries."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass, replace
from itertools import groupby
from pathlib import Path

from formats.frames import compress_frames
from formats.layout import PAGE_BYTES, PAGES_FRAME_BYTES, RUN, RunKind, round_name
from formats.manifest import Gap, Host, Manifest, Parent, Process, RoundKind, Stats, Vma
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


def pack_runs(pages: Mapping[int, PageState]) -> bytes:
    """The records of a pagemap for pages of one round."""
    records = b""
    page_index = 0
    ordered = sorted(pages)
    keyed = [(page - position, kind_of(pages[page])) for position, page in enumerate(ordered)]
    for (_, kind), group in groupby(zip(keyed, ordered, strict=True), key=lambda item: item[0]):
        members = [page for _, page in group]
        index = page_index if kind is RunKind.DATA else 0
        records += RUN.pack(addr_of(members[0]), len(members), kind, index)
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


def fill_round(writer: RoundWriter, image: ImageRound, pid: int = PID) -> None:
    """Write the files of a round, uncommitted as yet."""
    pages, pagemap = writer.open_process(pid)
    content = b"".join(state for _, state in sorted(image.pages.items()) if isinstance(state, bytes))
    pages.append(*compress_frames(memoryview(content), PAGES_FRAME_BYTES, 1))
    pagemap.append(pack_runs(image.pages))


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
