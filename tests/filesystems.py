"""File systems of the tests' own, in memory and on loop devices, gone again whatever happens."""

from __future__ import annotations

import shutil
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from tests.harness import poll_until

UNMOUNT_S = 10.0
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
def _mounted(directory: Path, source: str, *words: str) -> Iterator[Path]:
    directory.mkdir()
    ran("mount", *words, source, str(directory))
    try:
        yield directory
    finally:
        # A loop device lets go of its file some time after it was unmounted: what that lies on is busy until then.
        poll_until(lambda: _unmounted(directory), UNMOUNT_S, f"{directory} to be unmounted")


def _unmounted(directory: Path) -> bool:
    """Whether it could be; raises CalledProcessError if it fails for another reason than being in use."""
    done = subprocess.run(["umount", str(directory)], capture_output=True, text=True, check=False)
    if "busy" not in done.stderr:
        done.check_returncode()
    return done.returncode == 0


@contextmanager
def tmpfs(directory: Path, options: str) -> Iterator[Path]:
    """A small one in memory."""
    with _mounted(directory, "predump-test", "-t", "tmpfs", "-o", options) as place:
        yield place


@contextmanager
def loop_mounted(
    file_system: str, directory: Path, image: Path, *mkfs_options: str, size_mib: int = 0
) -> Iterator[Path]:
    """A new one in the file `image`, as small as can be unless `size_mib` says; its loop device goes with the mount."""
    with image.open("wb") as file:
        file.truncate((size_mib or IMAGE_MIB[file_system]) << 20)
    ran(f"mkfs.{file_system}", "-q", *mkfs_options, str(image))
    with _mounted(directory, str(image), "-t", file_system, "-o", "loop") as place:
        yield place
