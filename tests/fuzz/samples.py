"""Whole checkpoints as the fuzzer needs them: in memory, each file as bytes by its name."""

from __future__ import annotations

import hashlib
import shutil
from dataclasses import dataclass, replace
from pathlib import Path

from formats.chain import Checkpoint, MemoryView
from formats.layout import PAGE_BYTES, RunKind
from formats.manifest import ANONYMOUS_VMA_KINDS, Parent, RoundKind
from formats.roundwriter import RoundWriter
from tests.format.images import (
    PID,
    ImageObject,
    ImageRound,
    addr_of,
    fill_round,
    object_vma,
    page_of,
    tree_manifest,
    vma_of,
    write_chain,
    write_pages,
)
from tests.format.samples import DUMP, OPEN_FILE, STATE, THREAD, ZOMBIE
from tests.harness import Target, predump

MARKER = b"the-secret-of-the-target"
"""In the memory and in the environment of every sample: no message may hold it."""

_READ_BYTES = 16 * PAGE_BYTES

Files = dict[str, bytes]
"""A checkpoint: its files by their path below it."""


@dataclass(frozen=True)
class Sample:
    """A checkpoint; `reads` are ranges of its root process that are in the image: address and length."""

    files: Files
    reads: tuple[tuple[int, int], ...]


def marked_page(seed: int) -> bytes:
    """A page that nobody can mistake for another's, and that holds the marker."""
    return MARKER + page_of(seed)[len(MARKER) :]


def files_below(directory: Path) -> Files:
    """What is in a checkpoint."""
    return {str(path.relative_to(directory)): path.read_bytes() for path in directory.rglob("*") if path.is_file()}


def write_files(directory: Path, files: Files) -> None:
    """Put a checkpoint where there may be one already."""
    shutil.rmtree(directory, ignore_errors=True)
    directory.mkdir(0o700)
    for name, content in files.items():
        path = directory / name
        path.parent.mkdir(0o700, exist_ok=True)
        path.write_bytes(content)


def hand_made(directory: Path) -> Sample:
    """Two pre-dump rounds and a dump of two processes that share an object, with something of every record."""
    before = (vma_of(0, 16), vma_of(24, 32, "file", "/lib/a"))
    vmas = (before[0], object_vma(16, 24, 1), before[1])
    last: dict[int, bytes | RunKind] = {page: marked_page(100 + page) for page in range(0, 4)}
    last |= dict.fromkeys((4, 5, 6, 9), RunKind.PARENT) | {7: RunKind.ZERO, 24: marked_page(124)}
    checkpoint = write_chain(
        directory,
        ImageRound({page: marked_page(page) for page in range(10)}, before),
        ImageRound({**dict.fromkeys(range(10), RunKind.PARENT), 5: marked_page(55), 6: RunKind.ZERO}, before),
    )
    images = {PID: ImageRound(last, vmas), PID + 2: ImageRound({1: marked_page(7)}, vmas[:2])}
    held = ImageObject(1, {0: marked_page(60), 1: RunKind.ZERO, 3: marked_page(63)}, 8 * PAGE_BYTES, "memfd")
    writer = RoundWriter(checkpoint, 3)
    for pid, image in images.items():
        fill_round(writer, image, pid)
    write_pages(writer.open_object(1), held.pages, base_addr=0)
    parent = Parent(round=2, sha256=sha256_of((checkpoint / "0002" / "manifest.json").read_bytes()))
    manifest = tree_manifest(3, images, [held], parent)
    state = replace(STATE, environment=b"SECRET=" + MARKER + b"\0")
    root, other = manifest.processes
    root = replace(root, threads=[THREAD], state=state, guards=DUMP.processes[0].guards)
    processes = [root, replace(other, state=replace(STATE, descriptors=STATE.descriptors)), ZOMBIE]
    manifest = replace(
        manifest,
        kind=RoundKind.DUMP,
        processes=processes,
        open_files=[replace(OPEN_FILE, object=1)],
        pipes=[replace(pipe, content=MARKER) for pipe in DUMP.pipes],
        ended=DUMP.ended,
        clocks=DUMP.clocks,
    )
    writer.commit(manifest)
    return Sample(files_below(checkpoint), ((addr_of(0), 24 * PAGE_BYTES), (addr_of(24), PAGE_BYTES)))


def dumped(directory: Path) -> Sample:
    """A pre-dump and a dump of a process with a descriptor of every kind, as predump makes them."""
    (directory / "files").mkdir()
    checkpoint = directory / "checkpoint"
    with Target.spawn("descriptors", directory / "files", env={"SECRET": MARKER.decode()}) as target:
        predump("pre-dump", "-t", target.pid, "-D", checkpoint)
        predump("dump", "-t", target.pid, "-D", checkpoint)
        target.command("quit")
    with MemoryView(Checkpoint.open(checkpoint)) as view:
        own = [vma for vma in view.vmas if vma.kind in ANONYMOUS_VMA_KINDS and "r" in vma.perms]
    tails = [(max(vma.start_addr, vma.end_addr - _READ_BYTES), vma.end_addr) for vma in own[-3:]]
    reads = tuple((start_addr, end_addr - start_addr) for start_addr, end_addr in tails)
    assert any(MARKER in read_all(checkpoint, part) for part in reads)
    return Sample(files_below(checkpoint), reads)


def read_all(checkpoint: Path, part: tuple[int, int]) -> bytes:
    """Memory of the root process, by the library."""
    with MemoryView(Checkpoint.open(checkpoint)) as view:
        return view.read(*part)


def sha256_of(content: bytes) -> str:
    """As it stands in a manifest."""
    return hashlib.sha256(content).hexdigest()
