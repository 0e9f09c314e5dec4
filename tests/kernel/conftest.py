"""Fixtures of the native layer's tests."""

from collections.abc import Iterator

import pytest

from tests.kernel.child import Child, running_child


@pytest.fixture
def child() -> Iterator[Child]:
    with running_child() as running:
        yield running
