"""What tests of restores share."""

from __future__ import annotations

import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.alive import Lives
from tests.harness import alone, build_targets


@pytest.fixture
def lives() -> Iterator[Lives]:
    """Processes that die and come back; none of them is left afterwards."""
    build_targets()
    with Lives() as found:
        yield found


@pytest.fixture
def home() -> Iterator[Path]:
    """A directory that every user may write to: the target may come to be another one."""
    with tempfile.TemporaryDirectory(prefix="predump-alive-") as name:
        Path(name).chmod(0o777)
        yield Path(name)


@pytest.fixture
def processors() -> Iterator[None]:
    """Of the tests that keep all processors busy, one at a time: threads must get to their stops."""
    with alone("processors"):
        yield
