"""Files below a directory: what links and names lead to, and that they never lead out of it."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from analysis.files.sysroot import open_below


@pytest.fixture
def root(tmp_path: Path) -> Path:
    """Links of all kinds beside a file, and a file outside that nobody should see."""
    (tmp_path / "secret").write_text("outside")
    root = tmp_path / "root"
    (root / "usr/lib").mkdir(parents=True)
    (root / "usr/lib/libx.so.1.2").write_text("inside")
    (root / "usr/lib/libx.so.1").symlink_to("libx.so.1.2")
    (root / "lib").symlink_to("usr/lib")
    (root / "lib64").symlink_to("/usr/lib")
    (root / "usr/lib/up").symlink_to("../../../../../..")
    (root / "out").symlink_to(tmp_path / "secret")
    (root / "out2").symlink_to("../secret")
    (root / "loop").symlink_to("loop")
    (root / "many").symlink_to("/".join(["lib"] * 3 + ["many"] * 3))
    os.mkfifo(root / "fifo")
    return root


def content_of(root: Path, path: str) -> str | None:
    fd = open_below(root, path)
    if fd is None:
        return None
    with os.fdopen(fd) as file:
        return file.read()


@pytest.mark.parametrize(
    "path",
    [
        "/usr/lib/libx.so.1.2",
        "usr/lib/libx.so.1",
        "/lib/libx.so.1",
        "/lib64/./libx.so.1",
        "/usr/lib/up/lib/libx.so.1",
        "/../../usr//lib/../lib/libx.so.1",
    ],
)
def test_links_are_followed_inside(root: Path, path: str) -> None:
    assert content_of(root, path) == "inside"


@pytest.mark.parametrize(
    "path",
    [
        "/out",
        "/out2",
        "/../secret",
        "/usr/lib/up/secret",
        "/loop",
        "/many",
        "/fifo",
        "/usr/lib",
        "/usr/lib/libx.so.1.2/x",
        "/none",
        "",
        "/usr\0/lib",
        "/usr/\ud800",
        "/" + "x" * 300,
    ],
)
def test_what_lies_outside_or_is_no_file_is_not_there(root: Path, path: str) -> None:
    open_fds = len(list(Path("/proc/self/fd").iterdir()))
    assert content_of(root, path) is None
    assert len(list(Path("/proc/self/fd").iterdir())) == open_fds


def test_no_root_no_file(tmp_path: Path) -> None:
    assert content_of(tmp_path / "none", "/usr/lib/libx.so.1.2") is None
    assert content_of(Path("/"), "/proc/self/environ/none") is None


def test_the_root_may_be_a_link(root: Path, tmp_path: Path) -> None:
    (tmp_path / "link").symlink_to(root)
    assert content_of(tmp_path / "link", "/lib/libx.so.1") == "inside"
