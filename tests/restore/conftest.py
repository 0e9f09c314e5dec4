"""What tests of restores share."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from tests.alive import Lives
from tests.harness import build_targets


@pytest.fixture
def lives() -> Iterator[Lives]:
    """Processes that die and come back; none of them is left afterwards."""
    build_targets()
    with Lives() as found:
        yield found
