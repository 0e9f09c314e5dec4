"""CRIU's image files as CRIU's own tool decodes them, and the memory that they stand for."""

from __future__ import annotations

import json
import shutil
import subprocess
from pathlib import Path
from typing import Any

import pytest

from formats.criu import images_pb2
from formats.criu.framing import ImageReader, Magic, read_message
from formats.criu.images_pb2 import PagemapEntry, PagemapHead
from formats.criu.values import VmaStatus

CRIT = shutil.which("crit")
needs_crit = pytest.mark.skipif(CRIT is None, reason="crit is not installed")
PAGE_BYTES = 4096
PARENT, PRESENT = 1, 4
CRIT_S = 60

Message = dict[str, Any]

# `crit decode -i FILE` for many files: starting it takes longer than what it does.
_DECODER = """
import contextlib, io, json, runpy, sys
crit, *paths = sys.argv[1:]
images = []
for path in paths:
    sys.argv = [crit, "decode", "-i", path]
    with contextlib.redirect_stdout(io.StringIO()) as said, contextlib.suppress(SystemExit):
        runpy.run_path(crit, run_name="__main__")
    images.append(json.loads(said.getvalue()))
print(json.dumps(images))
"""


def crit(*words: object) -> str:
    """What crit prints."""
    return _stdout([str(CRIT), *map(str, words)])


def decode(*paths: Path) -> dict[str, list[Message]]:
    """What `crit decode` says of files, by their names: messages with fields as crit names them."""
    interpreter = Path(str(CRIT)).read_text().splitlines()[0].removeprefix("#!").split()
    images = json.loads(_stdout([*interpreter, "-c", _DECODER, str(CRIT), *map(str, paths)]))
    return {path.name: image["entries"] for path, image in zip(paths, images, strict=True)}


def _stdout(command: list[str]) -> str:
    done = subprocess.run(command, capture_output=True, text=True, timeout=CRIT_S, check=False)
    assert done.returncode == 0, done.stderr
    return done.stdout


def images_of(directory: Path) -> list[Path]:
    """The files in it that have messages."""
    return sorted(path for path in directory.iterdir() if path.is_file() and not path.name.startswith("pages-"))


class Pages:
    """The pages of one pagemap, those of the parents included; `owner` as in pagemap-OWNER.img.

    `entries` are start address, number of pages and flags.
    """

    def __init__(self, directory: Path, owner: str) -> None:
        path = directory / f"pagemap-{owner}.img"
        with ImageReader(path, Magic.PAGEMAP) as reader:
            pages_id = reader.read(PagemapHead).pages_id
            self.entries = [(item.start_addr, item.n_pages, item.flags) for item in reader.rest(PagemapEntry)]
        content = (directory / f"pages-{pages_id}.img").read_bytes()
        has_parent = any(flags & PARENT for _, _, flags in self.entries)
        parent = Pages((directory / "parent").resolve(), owner) if has_parent else None
        self.by_addr: dict[int, bytes] = {}
        position = end_addr = 0
        for start_addr, n_pages, flags in self.entries:
            assert start_addr >= end_addr, "entries ascend"
            end_addr = start_addr + n_pages * PAGE_BYTES
            for addr in range(start_addr, end_addr, PAGE_BYTES):
                if flags & PARENT:
                    assert not flags & PRESENT
                    assert parent is not None
                    self.by_addr[addr] = parent.by_addr[addr]
                else:
                    assert flags & PRESENT
                    self.by_addr[addr] = content[position : position + PAGE_BYTES]
                    position += PAGE_BYTES
        assert position == len(content), "the file of pages ends with the last one"


class Memory:
    """The memory of a process as somebody restores it who has nothing but the images and the files that they name.

    `private` are the pages of its pagemap by address.
    """

    def __init__(self, directory: Path, pid: int) -> None:
        self.vmas = list(read_message(directory / f"mm-{pid}.img", Magic.MM, images_pb2.Memory).vmas)
        self.private = Pages(directory, str(pid)).by_addr
        shared = {vma.shared_id for vma in self.vmas if self._is_shared(vma)}
        self._shared = {number: Pages(directory, f"shmem-{number}").by_addr for number in shared}

    def page(self, vma: images_pb2.Vma, addr: int) -> bytes | None:
        """A page of a mapping, None for one that is its file's."""
        if self._is_shared(vma):
            return self._shared[vma.shared_id].get(addr - vma.start_addr + vma.offset_bytes, bytes(PAGE_BYTES))
        page = self.private.get(addr)
        return bytes(PAGE_BYTES) if page is None and vma.status & VmaStatus.ANON_PRIVATE else page

    def _is_shared(self, vma: images_pb2.Vma) -> bool:
        return bool(vma.status & VmaStatus.ANON_SHARED and vma.shared_id)
