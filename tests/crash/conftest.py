"""Fixtures of the tests in which predump dies, or the storage fails."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from tests.crash.zygote import Zygote


@pytest.fixture(scope="session")
def zygote() -> Iterator[Zygote]:
    """What runs the commands."""
    with Zygote.start() as started:
        yield started
