"""Whose image it is: rules on owners, modes and links, and paths that an image may not name."""

from __future__ import annotations

import os
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest

from formats.checkpoint import Checkpoint
from restorer.checks import CheckOptions, check_restore
from restorer.checks.findings import Subject
from restorer.errors import NotTrusted
from restorer.trust import distrusted, is_strange, strange_paths
from tests.format.images import ImageObject, ImageRound, page_of, write_chain
from tests.format.samples import DUMP, DUMP_PROCESS, STATE

NOBODY = 65534
needs_root = pytest.mark.skipif(os.geteuid() != 0, reason="only root gives files away")


@pytest.fixture
def checkpoint(tmp_path: Path) -> Path:
    """Two rounds, of the caller."""
    path = tmp_path / "above" / "checkpoint"
    path.parent.mkdir()
    write_chain(path, ImageRound({0: page_of(1)}), ImageRound({0: page_of(2)}))
    return path


def told(path: Path, uid: int | None = None) -> list[str]:
    return [one.message for one in distrusted(path, [1, 2], os.geteuid() if uid is None else uid)]


def test_ones_own_is_trusted(checkpoint: Path) -> None:
    assert told(checkpoint) == []


def test_what_others_may_write_to_is_not(checkpoint: Path) -> None:
    manifest, round_dir = checkpoint / "0001" / "manifest.json", checkpoint / "0001"
    for path in (manifest, round_dir, checkpoint, checkpoint.parent):
        mode = path.stat().st_mode
        for bit in (0o020, 0o002):
            path.chmod(mode | bit)
            (message,) = told(checkpoint)
            assert str(path) in message
            assert "written to by others" in message
        path.chmod(mode)
    assert told(checkpoint) == []


def test_a_sticky_directory_above_is_like_tmp(checkpoint: Path) -> None:
    checkpoint.parent.chmod(0o1777)
    assert told(checkpoint) == []
    checkpoint.chmod(0o1777)  # its own directory is another thing
    assert len(told(checkpoint)) == 1


@needs_root
@pytest.mark.parametrize("which", ["", "0002", "0002/manifest.json", "0001/pages-42.zst"])
def test_what_belongs_to_others_is_not(which: str, checkpoint: Path) -> None:
    os.chown(checkpoint / which, NOBODY, NOBODY)
    (message,) = told(checkpoint)
    assert f"belongs to user {NOBODY}" in message
    assert str(checkpoint / which) in message


@needs_root
def test_roots_image_is_not_another_users_and_directories_of_others_are_not_safe(checkpoint: Path) -> None:
    assert any("belongs to user 0, not to 65534" in message for message in told(checkpoint, NOBODY))
    os.chown(checkpoint.parent, NOBODY, NOBODY)
    (message,) = told(checkpoint)
    assert "above" in message


def test_links_in_it_are_not_followed(checkpoint: Path) -> None:
    pages = checkpoint / "0001" / "pages-42.zst"
    pages.rename(checkpoint / "elsewhere")
    pages.symlink_to(checkpoint / "elsewhere")
    (message,) = told(checkpoint)
    assert "symbolic link" in message


def test_links_on_the_way_are_of_the_caller(checkpoint: Path, tmp_path: Path) -> None:
    link = tmp_path / "link"
    link.symlink_to(f"{checkpoint.parent.name}/../{checkpoint.parent.name}")
    assert told(link / "checkpoint") == []
    if os.geteuid() == 0:
        os.chown(link, NOBODY, NOBODY, follow_symlinks=False)
        assert "symbolic link of user 65534" in told(link / "checkpoint")[0]


def test_endless_links_end(tmp_path: Path) -> None:
    (tmp_path / "loop").symlink_to("loop")
    assert "symbolic link" in told(tmp_path / "loop")[0]


def test_nothing_else_is_looked_at_without_trust(checkpoint: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    checkpoint.chmod(0o777)

    def not_to_be_called() -> None:
        raise AssertionError("the machine was looked at")

    monkeypatch.setattr("restorer.checks.look_at_host", not_to_be_called)
    findings = check_restore(Checkpoint.open(checkpoint), None, CheckOptions())
    assert {one.subject for one in findings.problems} == {Subject.OWNER}
    assert findings.exit_code == 11
    with pytest.raises(NotTrusted, match="written to by others"):
        findings.demand()
    with pytest.raises(AssertionError, match="looked at"):
        check_restore(Checkpoint.open(checkpoint), None, CheckOptions(trust=True))


@pytest.mark.parametrize(
    ("path", "expected"),
    [
        ("/usr/lib/libc.so.6", False),
        ("/with \x1b and \n", False),
        ("/a/...", False),
        ("relative", True),
        ("", True),
        ("/a/../etc/shadow", True),
        ("/a/./b", True),
        ("/a\0b", True),
        ("/" + "x" * 5000, True),
    ],
)
def test_paths_that_no_kernel_tells(path: str, expected: bool) -> None:
    assert is_strange(path) is expected


@pytest.mark.parametrize(
    "spoil",
    [
        lambda path: replace(DUMP_PROCESS, exe=path),
        lambda path: replace(DUMP_PROCESS, state=replace(STATE, cwd=path)),
        lambda path: replace(DUMP_PROCESS, vmas=[replace(DUMP_PROCESS.vmas[0], kind="file", path=path)]),
    ],
)
def test_an_image_may_not_name_them(spoil: Callable[[str], object]) -> None:
    manifest = replace(DUMP, processes=[spoil("/etc/../etc/shadow")])
    (problem,) = strange_paths(manifest)
    assert (problem.subject, problem.stops) == (Subject.PATH, True)
    assert list(strange_paths(replace(DUMP, processes=[spoil("/etc/shadow")]))) == []


def test_an_image_may_not_have_files_made_by_them() -> None:
    held = ImageObject(1, {}, 4096, "deleted").record()
    (problem,) = strange_paths(replace(DUMP, objects=[replace(held, path="/tmp/../etc/cron.d/x")]))
    assert "memory object 1" in problem.message
    assert list(strange_paths(replace(DUMP, objects=[replace(held, kind="memfd", path="/memfd:a/../b")]))) == []
