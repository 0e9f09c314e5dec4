"""Memory of a process with what images leave out: clean pages of files, read from these if they are the same still."""

from __future__ import annotations

from collections.abc import Callable, Iterator

from analysis.files.mappedfiles import FoundFile, MappedFiles, Sameness, is_file
from analysis.places import vma_name
from formats.chain import MemoryView
from formats.closing import Closing
from formats.errors import AddressAbsent, UsageError
from formats.layout import PAGE_BYTES
from formats.manifest import FileKey, Vma

_CHUNK_BYTES = 1 << 20


class FilledMemory(Closing):
    """What a process saw at its addresses, from the images and the files that it had mapped; a context manager.

    Shared mappings of files are left as they are: others may have written to the file.
    """

    def __init__(self, view: MemoryView, files: MappedFiles, notice: Callable[[str, str], None]) -> None:
        """`notice` is told once of each file that is read, and of each that is there, but may not be the same."""
        self._view = view
        self._files = files
        self._notice = notice
        self._found: dict[FileKey, FoundFile | None] = {}

    def close(self) -> None:
        """Close the files; reading is over. May be called again."""
        for file in self._found.values():
            if file is not None:
                file.close()

    def read(self, addr: int, length: int) -> bytes:
        """As `MemoryView.read`."""
        if addr < 0 or length < 0:
            raise UsageError(f"There are no {length} bytes at address {addr:#x}.")
        return b"".join(self.chunks(addr, length))

    def read_string(self, addr: int, max_bytes: int) -> tuple[bytes, bool]:
        """The bytes from an address on up to the first 0, at most so many, and whether there was one.

        What is absent ends it, too, unless the first byte is: raises as `read`.
        """
        content = bytearray()
        while len(content) < max_bytes:
            position = addr + len(content)
            try:
                piece = self.read(position, min(PAGE_BYTES - position % PAGE_BYTES, max_bytes - len(content)))
            except AddressAbsent:
                if not content:
                    raise
                break
            text, zero, _ = piece.partition(b"\0")
            content += text
            if zero:
                return bytes(content), True
        return bytes(content), False

    def chunks(self, addr: int, length: int) -> Iterator[bytes]:
        """The same in pieces, for ranges of any size; raises as `read`, when it comes to what is absent."""
        first_addr, end_addr = addr - addr % PAGE_BYTES, addr + length
        last_addr = end_addr + -end_addr % PAGE_BYTES
        for start, end, content in self._view.chunks(first_addr, last_addr, _CHUNK_BYTES):
            for piece_addr, piece in ((start, content),) if content is not None else self._absent(start, end):
                yield piece[max(0, addr - piece_addr) : end_addr - piece_addr]

    def _absent(self, start_addr: int, end_addr: int) -> Iterator[tuple[int, bytes]]:
        """What a range is that the images do not have: of files, or what the images know."""
        position = start_addr
        for vma in self._view.vmas_in(start_addr, end_addr):
            file_addr, file_end_addr = max(start_addr, vma.start_addr), min(end_addr, vma.end_addr)
            if not is_file(vma) or vma.is_shared or self._is_unreadable(file_addr, file_end_addr):
                continue
            yield from self._known(position, file_addr)
            yield from self._of_file(vma, file_addr, file_end_addr)
            position = file_end_addr
        yield from self._known(position, end_addr)

    def _known(self, start_addr: int, end_addr: int) -> Iterator[tuple[int, bytes]]:
        for addr in range(start_addr, end_addr, _CHUNK_BYTES):
            yield addr, self._view.read(addr, min(_CHUNK_BYTES, end_addr - addr))

    def _of_file(self, vma: Vma, start_addr: int, end_addr: int) -> Iterator[tuple[int, bytes]]:
        file = self._file(vma)
        for addr in range(start_addr, end_addr, _CHUNK_BYTES):
            n_bytes = min(_CHUNK_BYTES, end_addr - addr)
            offset_bytes = vma.offset_bytes + addr - vma.start_addr
            content = _read(file, offset_bytes, n_bytes) if file is not None else b""
            content += bytes(-len(content) % PAGE_BYTES)  # the rest of the page that a file ends in
            if content:
                yield addr, content
            if len(content) < n_bytes:  # no file, or past its end: the images say what is wrong with that
                try:
                    yield addr + len(content), self._view.read(addr + len(content), n_bytes - len(content))
                except AddressAbsent as error:
                    hint = (
                        f"If you have {vma.path} as it was, name the directory that stands for its root: --sysroot DIR."
                    )
                    raise AddressAbsent(error.message, hint=hint, **error.fields) from None

    def _file(self, vma: Vma) -> FoundFile | None:
        key = vma.file_key
        if key not in self._found:
            self._found[key] = self._open(vma)
        return self._found[key]

    def _open(self, vma: Vma) -> FoundFile | None:
        file = self._files.open(vma)
        if file is None:
            return None
        if file.sameness is Sameness.SAME:
            self._notice("file", f"pages of {vma_name(vma)} that are in no round are read from {file.path}")
            return file
        file.close()
        what = "is not the file that was mapped" if file.sameness is Sameness.OTHER else "may be another file by now"
        self._notice("file", f"{file.path} {what}: nothing is read from it")
        return None

    def _is_unreadable(self, start_addr: int, end_addr: int) -> bool:
        gaps = ((gap.start_addr, gap.end_addr) for gap in self._view.process.unreadable)
        return any(gap_addr < end_addr and start_addr < gap_end_addr for gap_addr, gap_end_addr in gaps)


def _read(file: FoundFile, offset_bytes: int, n_bytes: int) -> bytes:
    try:
        return file.read(offset_bytes, n_bytes)
    except OSError:
        return b""
