"""File systems of the tests' own, on loop devices, gone again when the tests end."""

from __future__ import annotations

import shutil
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

IMAGE_MIB = {"ext4": 64, "btrfs": 128, "xfs": 320}  # as small as mkfs makes them


def ran(*words: str) -> None:
    """Runs it to its end; skips, with what it said, where it cannot be had."""
    program = shutil.which(words[0], path="/usr/sbin:/usr/bin:/sbin:/bin")
    if program is None:
        pytest.skip(f"{words[0]} is not installed")
    done = subprocess.run([program, *words[1:]], capture_output=True, text=True, check=False)
    if done.returncode != 0:
        pytest.skip(f"{' '.join(words)}: {done.stderr.strip()}")


@contextmanager
def loop_mounted(file_system: str, directory: Path) -> Iterator[Path]:
    """A new file system in an image file; its loop device goes with the mount."""
    image, place = directory / f"{file_system}.img", directory / file_system
    place.mkdir()
    with image.open("wb") as file:
        file.truncate(IMAGE_MIB[file_system] << 20)
    ran(f"mkfs.{file_system}", "-q", str(image))
    ran("mount", "-t", file_system, "-o", "loop", str(image), str(place))
    try:
        yield place
    finally:
        subprocess.run(["umount", str(place)], check=True)
