"""Fixtures of the memory matrix: file systems and swap of its own, gone again when the tests end."""

from __future__ import annotations

import shutil
import subprocess
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

import pytest

from tests.harness import tmpfs

IMAGE_MIB = {"ext4": 64, "btrfs": 128, "xfs": 320}  # as small as mkfs makes them
SWAP_MIB = 32


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


@pytest.fixture(scope="session")
def file_system(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Callable[[str], Path]]:
    """Where a file system of this name is mounted: made when it is first asked for."""
    with ExitStack() as mounts:
        places: dict[str, Path] = {}

        def place_of(name: str) -> Path:
            if name not in places:
                directory = tmp_path_factory.mktemp(name)
                mount = tmpfs(directory / name, "size=16m") if name == "tmpfs" else loop_mounted(name, directory)
                places[name] = mounts.enter_context(mount)
            return places[name]

        yield place_of


@pytest.fixture
def swap(file_system: Callable[[str], Path]) -> Iterator[None]:
    """A swap file while the test runs."""
    path = file_system("ext4") / "swap"
    with path.open("wb") as file:
        file.write(bytes(SWAP_MIB << 20))
    path.chmod(0o600)
    ran("mkswap", str(path))
    ran("swapon", str(path))
    try:
        yield
    finally:
        subprocess.run(["swapoff", str(path)], check=True)
        path.unlink()


@pytest.fixture
def ksm() -> Iterator[None]:
    """The kernel merges pages that are alike, at once, while the test runs."""
    settings = {"sleep_millisecs": "1", "pages_to_scan": "1000", "run": "1"}
    directory = Path("/sys/kernel/mm/ksm")
    try:
        before = {name: (directory / name).read_text() for name in settings}
        for name, value in settings.items():
            (directory / name).write_text(value)
    except OSError as error:
        pytest.skip(f"pages are not merged here: {error}")
    try:
        yield
    finally:
        for name, value in before.items():
            (directory / name).write_text(value)


@pytest.fixture
def checkpoint(tmp_path: Path) -> Path:
    return tmp_path / "checkpoint"
