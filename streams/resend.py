"""A round that is in a checkpoint, sent as it is stored; each frame, each file and the manifest are checked before."""

from __future__ import annotations

import hashlib
import os
from collections import deque
from collections.abc import Callable
from concurrent.futures import Executor, Future

from formats.checkpoint import RoundInfo
from formats.errors import ImageCorrupt
from formats.files import open_regular, read_exactly
from formats.framereader import FrameReader
from formats.layout import MANIFEST_NAME
from formats.manifest import FileEntry
from streams.messages import Holds, holds_and_number
from streams.sender import Sender, SentRound

_BATCH_FRAMES = 16
_BATCHES_AHEAD = 3

_Batch = tuple[list[bytes], list[int]]


def send_round(
    sender: Sender, info: RoundInfo, checkers: Executor, on_sent: Callable[[int], None] = lambda _: None
) -> None:
    """Sends a round, and waits until it is acknowledged; `on_sent` is called with stored bytes since its last call.

    Raises ImageCorrupt, StorageError, StreamBroken, StreamRefused, StreamCorrupt; then the stream is cut off.
    """
    round_ = sender.open_round(info.number)
    try:
        for entry in info.manifest.files:
            _send_file(round_, info, entry, checkers, on_sent)
        if round_.finish_files() != info.manifest.files:
            raise _changed(info, "its files are not the ones its manifest names")
        round_.publish(_manifest_bytes(info))
        round_.confirm()
    except BaseException:
        round_.abandon()
        raise


def _send_file(
    round_: SentRound, info: RoundInfo, entry: FileEntry, checkers: Executor, on_sent: Callable[[int], None]
) -> None:
    holds, _ = holds_and_number(entry.name)
    with _open_file(info, entry, holds) as reader:
        writer = round_.open_frames(entry.name)
        ahead: deque[Future[_Batch]] = deque()

        def send_oldest() -> None:
            frames, contents_bytes = ahead.popleft().result()
            writer.append(frames, contents_bytes)
            on_sent(sum(map(len, frames)))

        try:
            for first in range(0, reader.frame_count, _BATCH_FRAMES):
                batch = range(first, min(first + _BATCH_FRAMES, reader.frame_count))
                ahead.append(checkers.submit(_read_checked, reader, batch))
                if len(ahead) > _BATCHES_AHEAD:
                    send_oldest()
            while ahead:
                send_oldest()
        finally:
            for job in ahead:  # the file is not closed under them
                job.cancel() or job.exception()


def _open_file(info: RoundInfo, entry: FileEntry, holds: Holds) -> FrameReader:
    return FrameReader(
        info.path / entry.name,
        max_frame_bytes=holds.max_frame_bytes,
        content_unit_bytes=holds.content_unit_bytes,
        entry=entry,
    )


def _read_checked(reader: FrameReader, indexes: range) -> _Batch:
    """Frames as they are stored, and the size of what is in each. Raises ImageCorrupt, StorageError."""
    pairs = [reader.read_both(index) for index in indexes]
    return [frame for frame, _ in pairs], [len(content) for _, content in pairs]


def _manifest_bytes(info: RoundInfo) -> bytes:
    path = info.path / MANIFEST_NAME
    fd, size_bytes = open_regular(path)
    try:
        data = read_exactly(fd, size_bytes, 0, path)
    finally:
        os.close(fd)
    if hashlib.sha256(data).hexdigest() != info.sha256:
        raise _changed(info, "its manifest was replaced while it was sent")
    return data


def _changed(info: RoundInfo, problem: str) -> ImageCorrupt:
    return ImageCorrupt(f"{info.path} is damaged: {problem}.", path=str(info.path))
