"""Cgroups that tests make for themselves, of either version, gone in the end."""

from __future__ import annotations

import errno
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from tests.harness import poll_until

UNIFIED = (Path("/sys/fs/cgroup"), Path("/sys/fs/cgroup/unified"))


def unified_root() -> Path | None:
    """Where cgroup v2 is mounted."""
    return next((one for one in UNIFIED if (one / "cgroup.controllers").is_file()), None)


def removed(group: Path) -> bool:
    """Removes a cgroup; False while there are processes in it."""
    try:
        group.rmdir()
    except OSError as error:
        if error.errno != errno.EBUSY:
            raise
        return False
    return True


@contextmanager
def own_cgroup(root: Path | None) -> Iterator[Path]:
    """A new cgroup below a root, which is empty in the end, or the test is skipped with a reason."""
    if root is None:
        pytest.skip("no cgroup v2 is mounted")
    group = root / f"predump-test-{os.getpid()}"
    try:
        group.mkdir()
    except OSError as error:
        pytest.skip(f"cannot make a cgroup: {error}")
    try:
        yield group
    finally:
        poll_until(lambda: removed(group), 10, f"{group} to be empty")


@contextmanager
def limited_cgroup(controller: str, limits: dict[str, int]) -> Iterator[Path]:
    """A cgroup in which a controller has a limit: the file of `limits` that there is, in cgroup v1 or v2."""
    v1 = Path("/sys/fs/cgroup") / controller
    root = v1 if (v1 / "cgroup.procs").is_file() else unified_root()
    with own_cgroup(root) as group:
        try:
            if root is not v1:
                (group.parent / "cgroup.subtree_control").write_text(f"+{controller}")
            for name in filter(lambda name: (group / name).is_file(), limits):
                (group / name).write_text(str(limits[name]))
                break
            else:
                pytest.skip(f"no cgroup has the controller {controller}")
        except OSError as error:
            pytest.skip(f"cannot limit a cgroup: {error}")
        yield group
