"""Fixtures of the memory matrix."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.harness import alone


@pytest.fixture
def ksm() -> Iterator[None]:
    """The kernel merges pages that are alike, at once, while the test runs."""
    settings = {"sleep_millisecs": "1", "pages_to_scan": "1000", "run": "1"}
    directory = Path("/sys/kernel/mm/ksm")
    with alone("ksm"):
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
