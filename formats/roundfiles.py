"""The files of a round while it is written, wherever they go: two for each process or object, then the manifest."""

from __future__ import annotations

import dataclasses
import hashlib
from abc import ABC, abstractmethod
from pathlib import Path

from formats.errors import PredumpError
from formats.framefile import FrameFile
from formats.frames import FrameWriter
from formats.layout import object_pagemap_name, object_pages_name, pagemap_name, pages_name
from formats.manifest import FileEntry, Manifest
from formats.manifestfile import encode_manifest
from formats.pagemap import PagemapWriter

PageWriters = tuple[FrameWriter, PagemapWriter]
"""The two files of a process or memory object."""


class RoundFiles(ABC):
    """Writes one round; ends with `commit` or `abandon`. Not for use by two threads at once.

    `path` ends in the name of the round; the rest of it is for messages.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self._writers: list[FrameWriter | PagemapWriter] = []

    @abstractmethod
    def _create(self, name: str) -> FrameFile:
        """Begins a file. Raises PredumpError."""

    @abstractmethod
    def publish(self, data: bytes) -> None:
        """Takes the bytes of the manifest: the round exists when `confirm` returns. All files are whole by now.

        Raises PredumpError; then `abandon` takes back what there is.
        """

    @abstractmethod
    def confirm(self) -> None:
        """Where `publish` only had it on its way: waits until the round exists. Raises PredumpError as that."""

    @abstractmethod
    def give_up(self) -> None:
        """The round will be abandoned: a thread that waits to write gets an error, and so do all that come later."""

    @abstractmethod
    def abandon(self) -> None:
        """Takes back what was written, as far as that is possible. Does nothing once the round exists."""

    def open_process(self, pid: int) -> PageWriters:
        """Begin the two files of a process; `commit` ends them. Raises PredumpError."""
        return self._open(pages_name(pid), pagemap_name(pid))

    def open_object(self, number: int) -> PageWriters:
        """Begin the two files of a memory object, by its id; `commit` ends them. Raises PredumpError."""
        return self._open(object_pages_name(number), object_pagemap_name(number))

    def open_frames(self, name: str) -> FrameWriter:
        """Begin a file by its name, for frames that are there already; `commit` ends it. Raises PredumpError."""
        writer = FrameWriter(self._create(name))
        self._writers.append(writer)
        return writer

    def discard_frames(self, writer: FrameWriter) -> None:
        """Take back what `open_frames` gave, as `discard` does."""
        self._writers.remove(writer)
        writer.remove()

    def discard(self, writers: PageWriters) -> None:
        """Take back what `open_process` or `open_object` gave: the two files are not part of the round.

        Nothing may be writing to them any more. Raises PredumpError if one cannot be removed.
        """
        for writer in writers:
            self._writers.remove(writer)
            writer.abort()
        for writer in writers:
            writer.remove()

    def finish_files(self) -> list[FileEntry]:
        """End all files: none can be opened or written any more. Raises PredumpError."""
        return [writer.close() for writer in self._writers]

    def commit(self, manifest_without_files: Manifest) -> tuple[Manifest, str]:
        """End all files, then make the round exist, which is sure after `confirm` only.

        Returns the manifest with its file entries, and the SHA-256 (hex) of the manifest file.
        Raises PredumpError; the round is then not committed, and `abandon` removes it.
        """
        manifest = dataclasses.replace(manifest_without_files, files=self.finish_files())
        data = encode_manifest(manifest)
        self.publish(data)
        return manifest, hashlib.sha256(data).hexdigest()

    def _abort_files(self) -> None:
        for writer in self._writers:
            writer.abort()

    def _open(self, pages_file: str, pagemap_file: str) -> PageWriters:
        pages = FrameWriter(self._create(pages_file))
        try:
            pagemap = PagemapWriter(self._create(pagemap_file))
        except PredumpError:
            pages.abort()
            raise
        self._writers += pages, pagemap
        return pages, pagemap
