"""One round on the receiving side: written down as it comes, believed only when all of it fits together."""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from dataclasses import dataclass

from formats.check import first_problem
from formats.checkpoint import RoundInfo
from formats.errors import ImageCorrupt, PredumpError
from formats.framereader import FrameDamage, unpack_frame
from formats.frames import FrameWriter
from formats.layout import MANIFEST_NAME, MAX_FRAMES, SEEK_TABLE_ENTRY
from formats.manifest import Manifest
from formats.manifestfile import decode_manifest
from formats.roundwriter import RoundWriter
from streams.messages import File, Frames, Holds, Part, Remove, corrupt

MAX_FILES = 1 << 16
"""Files of a round (inclusive)."""


class TooLarge(PredumpError):
    """More arrives than the receiver is to write."""


class Budget:
    """Bytes that may still be written in a session."""

    def __init__(self, max_bytes: int) -> None:
        self._max_bytes = max_bytes
        self._left_bytes = max_bytes

    def spend(self, n_bytes: int) -> None:
        """Raises TooLarge."""
        self._left_bytes -= n_bytes
        if self._left_bytes < 0:
            raise TooLarge(
                f"what arrives takes more than {self._max_bytes} bytes",
                hint="Receive it with a larger --max-bytes.",
                max_bytes=self._max_bytes,
            )


@dataclass(slots=True)
class _OpenFile:
    name: str
    holds: Holds
    writer: FrameWriter


def check_frames(message: Frames, holds: Holds) -> list[bytes]:
    """Decompresses each frame; what they hold. For any thread. Raises StreamCorrupt."""
    contents = []
    for frame, content_bytes in zip(message.frames, message.contents_bytes, strict=True):
        if content_bytes > holds.max_frame_bytes or content_bytes % holds.content_unit_bytes:
            raise corrupt(f"a frame of file {message.file} has {content_bytes} bytes of content")
        try:
            contents.append(unpack_frame(frame, content_bytes, holds.max_frame_bytes))
        except FrameDamage as damage:
            raise corrupt(f"a frame of file {message.file} {damage}") from damage
    return contents


class RoundReceiver:
    """Takes the messages of a round, in order; ends when the last part of the manifest has come, or with `abandon`."""

    def __init__(self, writer: RoundWriter, number: int, before: RoundInfo | None, budget: Budget) -> None:
        """`before` is the round that was committed last."""
        self.number = number
        self._before = before
        self._budget = budget
        self._writer = writer
        self._files: dict[int, _OpenFile] = {}
        self._names: set[str] = set()
        self._n_files = 0
        self._frames_left = MAX_FRAMES
        self._manifest = bytearray()
        self._manifest_bytes = 0

    @property
    def holds(self) -> dict[int, Holds]:
        """What its files hold, by number."""
        return {number: file.holds for number, file in self._files.items()}

    def name_of(self, file: int) -> str:
        """The name of a file that is open. Raises StreamCorrupt."""
        return self._file(file).name

    def holds_pages(self, file: int) -> bool:
        """Whether that file, which is open, has the pages of a process. Raises StreamCorrupt."""
        return self._file(file).holds is Holds.PAGES

    def skip_file(self) -> None:
        """Leaves out a file that was removed again."""
        self._n_files += 1

    def file(self, message: File) -> None:
        """Begins a file. Raises StreamCorrupt, StorageError."""
        self._refuse_after_manifest()
        if message.file != self._n_files or message.file >= MAX_FILES:
            raise corrupt(f"file {message.file} is not the next one of the round")
        if message.name in self._names:
            raise corrupt(f"{message.name} is in the round twice")
        self._names.add(message.name)
        self._files[message.file] = _OpenFile(message.name, message.holds, self._writer.open_frames(message.name))
        self._n_files += 1

    def remove(self, message: Remove) -> None:
        """Takes a file back. Raises StreamCorrupt, StorageError."""
        self._refuse_after_manifest()
        file = self._file(message.file)
        del self._files[message.file]
        self._names.remove(file.name)
        self._writer.discard_frames(file.writer)

    def frames(self, message: Frames) -> None:
        """Writes frames that `check_frames` has found to be sound. Raises StreamCorrupt, StorageError, TooLarge."""
        self._refuse_after_manifest()
        writer = self._file(message.file).writer
        if message.offset_bytes != writer.stored_bytes:
            raise corrupt(
                f"frames for byte {message.offset_bytes} of file {message.file} come at {writer.stored_bytes}"
            )
        n_frames = len(message.frames)
        self._frames_left -= n_frames
        if self._frames_left < 0:
            raise corrupt(f"a round has more than {MAX_FRAMES} frames")
        self._budget.spend(message.stored_bytes + n_frames * SEEK_TABLE_ENTRY.size)
        writer.append(message.frames, message.contents_bytes)

    def part(self, message: Part, intend: Callable[[str], None]) -> RoundInfo | None:
        """Takes a part of the manifest; with the last one the round is checked as a whole, committed and returned.

        `intend` is called with the SHA-256 of the manifest right before the commit.
        Raises StreamCorrupt, ImageVersionUnsupported, StorageError, TooLarge.
        """
        if message.total_bytes != (self._manifest_bytes or message.total_bytes):
            raise corrupt("the parts of a manifest do not agree on its size")
        if message.offset_bytes != len(self._manifest):
            raise corrupt(f"a part of the manifest comes at byte {message.offset_bytes}, not {len(self._manifest)}")
        self._manifest_bytes = message.total_bytes
        self._budget.spend(len(message.content))
        self._manifest += message.content
        return self._commit(intend) if len(self._manifest) == message.total_bytes else None

    def abandon(self) -> None:
        """Removes what was written, unless it was committed."""
        self._writer.abandon()

    def _commit(self, intend: Callable[[str], None]) -> RoundInfo:
        data = bytes(self._manifest)
        path = self._writer.path
        try:
            manifest = decode_manifest(data, str(path / MANIFEST_NAME))
        except ImageCorrupt as error:
            raise corrupt(error.message.rstrip(".")) from error
        info = RoundInfo(self.number, path, manifest, hashlib.sha256(data).hexdigest())
        problem = self._problem_of_chain(manifest)
        if problem:
            raise corrupt(f"the manifest of round {self.number} {problem}")
        written = {entry.name: entry for entry in self._writer.finish_files()}
        if written != {entry.name: entry for entry in manifest.files}:
            raise corrupt(f"the files of round {self.number} are not the ones that its manifest names")
        problem = first_problem(info, None if manifest.full else self._before)
        if problem:
            raise corrupt(problem.rstrip("."))
        intend(info.sha256)
        self._writer.publish(data)
        return info

    def _problem_of_chain(self, manifest: Manifest) -> str:
        """What does not fit the rounds before, as the rest of a sentence, "" if all does."""
        before, parent = self._before, manifest.parent
        if manifest.round != self.number:
            return f"is the one of round {manifest.round}"
        if parent is not None and (
            before is None or parent.round != before.number or not before.is_known_as(parent.sha256)
        ):
            return "builds on another round than the one before it"
        if before is None:
            return ""
        if manifest.checkpoint_id != before.manifest.checkpoint_id:
            return "belongs to another checkpoint than the round before it"
        if _target_of(manifest) != _target_of(before.manifest):
            return "is the one of another process than the round before it"
        return ""

    def _file(self, number: int) -> _OpenFile:
        file = self._files.get(number)
        if file is None:
            raise corrupt(f"there is no file {number} in the round")
        return file

    def _refuse_after_manifest(self) -> None:
        if self._manifest:
            raise corrupt("a file of a round comes after its manifest")


def _target_of(manifest: Manifest) -> tuple[int, int, str]:
    root = next(process for process in manifest.processes if process.pid == manifest.root_pid)
    return root.pid, root.start_time_ticks, manifest.host.boot_id
