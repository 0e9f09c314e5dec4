"""What all tests share: the target programs, built once."""

from __future__ import annotations

import pytest

from tests.harness import build_targets


@pytest.fixture(scope="session")
def targets() -> None:
    """The programs of tests/targets, compiled."""
    build_targets()
