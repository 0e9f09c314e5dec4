"""CRIU checkpoints made from what is written down about them: framing, field numbers, flags.

Nothing is shared with the code under test: messages are put together by a small encoder of protobuf's wire format.
"""

from __future__ import annotations

import struct
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from enum import Enum
from pathlib import Path

PAGE_BYTES = 4096
BASE_ADDR = 0x7F00_0000_0000

COMMON = 0x54564319
SERVICE = 0x55105940
MAGICS = {
    "pagemap": 0x56084025,
    "mm": 0x57492820,
    "core": 0x55053847,
    "pstree": 0x50273030,
    "inventory": 0x58313116,
    "files": 0x56303138,
    "fdinfo": 0x56213732,
    "fs": 0x51403912,
    "ids": 0x54432030,
    "memfd": 0x48453499,
    "stats-dump": 0x57093306,
}

IN_PARENT, LAZY, PRESENT = 1, 2, 4
REGULAR, HEAP, STACK, VDSO = 1, 1 << 5, 1 << 1, 1 << 3
FILE_PRIVATE, FILE_SHARED, ANON_SHARED, ANON_PRIVATE, MEMFD = 1 << 6, 1 << 7, 1 << 8, 1 << 9, 1 << 14
MAP_SHARED, MAP_PRIVATE, MAP_ANONYMOUS = 1, 2, 0x20
READ, WRITE, EXEC = 1, 2, 4
EXE_ID, CWD_ID, ROOT_ID, LIBRARY_ID, NULL_ID, MEMFD_ID = 1, 2, 3, 4, 5, 6
EXE, LIBRARY = "/usr/bin/task", "/usr/lib/libtask.so"
BUILD_ID = bytes(range(20))
STATS_US = (100, 2_000, 1_500, 700)  # freezing, frozen, copying, writing

Value = int | bytes | str
Field = tuple[int, Value]


class Mark(Enum):
    """What a page is that has no bytes here."""

    PARENT = IN_PARENT
    LAZY = LAZY


Pages = Mapping[int, bytes | Mark]
"""By their number."""


def varint(number: int) -> bytes:
    """Seven bits a byte, the lowest first; negative numbers as 64 bits."""
    number &= (1 << 64) - 1
    found = bytearray()
    while number > 0x7F:
        found.append(number & 0x7F | 0x80)
        number >>= 7
    return bytes((*found, number))


def message(*fields: Field) -> bytes:
    """A message: numbers as varints, all else with its length in front."""
    found = bytearray()
    for number, value in fields:
        if isinstance(value, int):
            found += varint(number << 3) + varint(value)
        else:
            content = value.encode() if isinstance(value, str) else value
            found += varint(number << 3 | 2) + varint(len(content)) + content
    return bytes(found)


def zigzag(number: int) -> int:
    """A sint64 as a varint has it."""
    return number << 1 ^ number >> 63


def framed(kind: str, messages: Iterable[bytes]) -> bytes:
    """An image file."""
    heads = {"inventory": (), "stats-dump": (SERVICE,)}.get(kind, (COMMON,))
    parts = [struct.pack("<I", magic) for magic in (*heads, MAGICS[kind])]
    return b"".join((*parts, *(struct.pack("<I", len(item)) + item for item in messages)))


def addr_of(page: int) -> int:
    """Where a page of a process is."""
    return BASE_ADDR + page * PAGE_BYTES


def entry(start_addr: int, n_pages: int, flags: int, *more: Field) -> bytes:
    """An entry of a pagemap, as CRIU 4.2 writes it."""
    return message((1, start_addr), (2, 0), (4, flags), (5, n_pages), *more)


def entries_of(pages: Pages, base_addr: int) -> list[bytes]:
    """The entries of pages, one for all that are alike and touch."""
    found: list[tuple[int, int, int]] = []
    for page in sorted(pages):
        state = pages[page]
        flags = state.value if isinstance(state, Mark) else PRESENT | LAZY
        if found and found[-1][0] + found[-1][1] == page and found[-1][2] == flags:
            found[-1] = (found[-1][0], found[-1][1] + 1, flags)
        else:
            found.append((page, 1, flags))
    return [entry(base_addr + page * PAGE_BYTES, n_pages, flags) for page, n_pages, flags in found]


@dataclass(frozen=True)
class Vma:
    """A mapping of pages `[start, end)`; `shared_id` as in the message."""

    start: int
    end: int
    status: int = REGULAR | ANON_PRIVATE
    flags: int = MAP_PRIVATE | MAP_ANONYMOUS
    protection: int = READ | WRITE
    shared_id: int = 0
    offset_pages: int = 0

    def encoded(self) -> bytes:
        """The message."""
        return message(
            (1, addr_of(self.start)),
            (2, addr_of(self.end)),
            (3, self.offset_pages * PAGE_BYTES),
            (4, self.shared_id),
            (5, self.protection),
            (6, self.flags),
            (7, self.status),
            (8, zigzag(-1)),
        )


def shared(start: int, end: int, number: int, offset_pages: int = 0) -> Vma:
    """A mapping of anonymous shared memory."""
    return Vma(
        start, end, REGULAR | ANON_SHARED, MAP_SHARED | MAP_ANONYMOUS, shared_id=number, offset_pages=offset_pages
    )


@dataclass(frozen=True)
class Task:
    """A process: its first mapping is the one of its executable if `has_exe`."""

    pid: int
    vmas: Sequence[Vma] = (Vma(0, 16),)
    pages: Pages = field(default_factory=dict)
    ppid: int = 0
    name: str = "task"
    tids: Sequence[int] = ()
    state: int = 1
    machine: int = 1
    texts: tuple[int, int, int, int] = (0, 0, 0, 0)
    """Where command line and environment begin and end: addresses."""

    def tree_entry(self) -> bytes:
        """Of pstree.img."""
        tids = (self.pid, *self.tids)
        return message((1, self.pid), (2, self.ppid), (3, self.pid), (4, self.pid), *((5, tid) for tid in tids))

    def memory(self) -> bytes:
        """Of mm-PID.img."""
        start, end = addr_of(0), addr_of(1)
        bounds = (start, end, start, end, addr_of(1 << 20), 0, 0, *self.texts)
        auxv = (6, PAGE_BYTES, 9, start)
        return message(
            *enumerate(bounds, start=1),
            (12, EXE_ID),
            *((13, word) for word in auxv),
            *((14, vma.encoded()) for vma in self.vmas),
            (15, 1),
        )

    def core(self, tid: int) -> bytes:
        """Of core-TID.img."""
        process: list[Field] = []
        if tid == self.pid:
            dispositions = [(15, message((1, 0), (2, 0), (3, 0), (4, 0)))] * 62
            limits = message(*((1, message((1, 1024 + n), (2, -1))) for n in range(16)))
            dispositions[1] = (15, message((1, 0x1234), (2, 4), (3, 0), (4, 7)))  # SIGINT
            told = ((1, self.state), (2, 0x100), (3, 0), (4, 0), (5, 1 << 9), (6, self.name), (8, limits))
            process = [(3, message(*told, *dispositions))]
        return message((1, self.machine), (2, x86_thread(tid)), *process, (5, thread_core(self.name)))


def registers_of(tid: int) -> list[int]:
    """r15, r14, ... gs, as in user_regs_struct; each is another one."""
    return [tid << 8 | number for number in range(27)]


def x86_thread(tid: int) -> bytes:
    """Registers of a thread: `ymm_high` is told by its tid, too."""
    registers = message(*enumerate(registers_of(tid), start=1))
    words: list[Field] = [(9, number) for number in range(32)]
    words += [(10, number) for number in range(100, 164)]
    extended = message((1, 7), *((2, tid + number) for number in range(64)))
    floating = message(
        (1, 0x37F), (2, 1), (3, 2), (4, 3), (5, 4), (6, 5), (7, 0x1F80), (8, 0xFFFF), *words, (13, extended)
    )
    return message((1, 0x1000 + tid), (2, registers), (3, floating))


def thread_core(name: str) -> bytes:
    """State of a thread."""
    ids = [(number, 1000 + number) for number in range(1, 9)]
    words = [(number, word) for number in (9, 10, 11, 12) for word in (0xF, 0x1)]
    credentials = message(*ids, *words, (13, 0), (14, 27), (14, 28))
    return message((1, 0x5000), (2, 24), (6, 1 << 9), (10, credentials), (13, name))


def open_file(number: int, path: str, mode: int, *more: Field) -> bytes:
    """A regular file, a directory or a device, of files.img."""
    owner = message((1, 0), (2, 0), (3, 0), (4, 0), (5, 0))
    regular = message((1, number), (2, 0), (3, 0), (5, owner), (6, path), (8, 777), (10, mode), *more)
    return message((1, 1), (2, number), (3, regular))


def files() -> list[bytes]:
    """Of files.img."""
    owner = message((1, 0), (2, 0), (3, 0), (4, 0), (5, 0))
    build_id = [(11, word) for word in struct.unpack("<5I", BUILD_ID)]
    memfd = message((1, MEMFD_ID), (2, 2), (3, 0), (4, owner), (5, 1))
    return [
        open_file(EXE_ID, EXE, 0o100755, *build_id),
        open_file(CWD_ID, "/var/tmp", 0o40755),
        open_file(ROOT_ID, "/", 0o40755),
        open_file(LIBRARY_ID, LIBRARY, 0o100644),
        open_file(NULL_ID, "/dev/null", 0o20666),
        message((1, 18), (2, MEMFD_ID), (20, memfd)),
    ]


def descriptors() -> list[bytes]:
    """Of fdinfo-1.img."""
    return [
        message((1, NULL_ID), (2, 0), (3, 1), (4, 0)),
        message((1, MEMFD_ID), (2, 1), (3, 18), (4, 3)),
    ]


@dataclass
class CriuImages:
    """What a directory of images holds; without `tasks`, pagemaps of `running` processes, as of a pre-dump."""

    tasks: Sequence[Task] = ()
    running: Mapping[int, Pages] = field(default_factory=dict)
    shared: Mapping[int, Pages] = field(default_factory=dict)
    memfd_shared_id: int = 0
    memfd_bytes: int = 0
    version: int = 2

    def write(self, directory: Path, parent: str = "") -> Path:
        """Make the directory; `parent` is where its link leads."""
        directory.mkdir()
        pairs: list[tuple[str, Pages, int]] = [
            (f"pagemap-{task.pid}.img", task.pages, BASE_ADDR) for task in self.tasks if task.state == 1
        ]
        pairs += [(f"pagemap-{pid}.img", pages, BASE_ADDR) for pid, pages in self.running.items()]
        pairs += [(f"pagemap-shmem-{number}.img", pages, 0) for number, pages in self.shared.items()]
        for pages_id, (name, pages, base_addr) in enumerate(pairs, start=1):
            head = message((1, pages_id))
            (directory / name).write_bytes(framed("pagemap", [head, *entries_of(pages, base_addr)]))
            content = (pages[page] for page in sorted(pages))
            (directory / f"pages-{pages_id}.img").write_bytes(b"".join(c for c in content if isinstance(c, bytes)))
        self._put(directory, "inventory", [message((1, self.version), (2, 1))])
        stats = message(*enumerate(STATS_US, start=1), (5, 0), (6, 0), (7, 0), (9, 0))
        (directory / "stats-dump").write_bytes(framed("stats-dump", [message((1, stats))]))
        if self.tasks:
            self._write_state(directory)
        if parent:
            (directory / "parent").symlink_to(parent)
        return directory

    def _write_state(self, directory: Path) -> None:
        self._put(directory, "pstree", [task.tree_entry() for task in self.tasks])
        self._put(directory, "files", files())
        if self.memfd_shared_id:
            told = (1, "board"), (2, 0), (3, 0), (4, self.memfd_bytes), (5, self.memfd_shared_id), (6, 0), (7, 1)
            self._put(directory, "memfd", [message(*told)])
        self._put(directory, "fdinfo", descriptors(), "-1")
        for task in self.tasks:
            self._put(directory, "ids", [message((1, 1), (2, 1), (3, 1), (4, 1))], f"-{task.pid}")
            for tid in (task.pid, *task.tids):
                self._put(directory, "core", [task.core(tid)], f"-{tid}")
            if task.state == 1:
                self._put(directory, "mm", [task.memory()], f"-{task.pid}")
                self._put(directory, "fs", [message((1, CWD_ID), (2, ROOT_ID), (3, 0o22))], f"-{task.pid}")

    def _put(self, directory: Path, kind: str, messages: Iterable[bytes], suffix: str = "") -> None:
        (directory / f"{kind}{suffix}.img").write_bytes(framed(kind, messages))


def write_chain(directory: Path, *images: CriuImages) -> Path:
    """Directories d1, d2, ..., each the parent of the next; the last one."""
    last = ""
    for number, item in enumerate(images, start=1):
        item.write(directory / f"d{number}", f"../{last}" if last else "")
        last = f"d{number}"
    return directory / last
