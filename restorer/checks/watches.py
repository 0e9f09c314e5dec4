"""What inotify watches: whether it is there, and whether it is the same file."""

from __future__ import annotations

import os
from collections.abc import Iterator

from formats.manifest import Manifest
from restorer.checks.findings import Problem, Subject
from restorer.files.inotify import WatchFinder, is_same


def look(manifest: Manifest, boot_id: str) -> Iterator[Problem]:
    """`boot_id`: of this machine; on another one every file is another, and its path counts."""
    states = [process.state for process in manifest.processes if process.state]
    finder = WatchFinder(manifest.open_files, states)
    for item in manifest.open_files:
        for watch in item.inotify or []:
            name = watch.path[:200] or f"file {watch.inode} of device {watch.device}"
            place = finder.find(watch)
            if place is None:
                message = f"{name}, watched by open file {item.id} (inotify) as number {watch.wd}, is not found."
                yield Problem(Subject.FILE, message, "Put it there, or restore where it is.")
                continue
            try:
                if manifest.host.boot_id == boot_id and not is_same(place, watch):
                    message = f"{name}, watched by open file {item.id} (inotify), is another file by now, and watched."
                    yield Problem(Subject.FILE, message, stops=False)
            finally:
                os.close(place)
