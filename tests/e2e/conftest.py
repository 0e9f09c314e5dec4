"""Fixtures of the end-to-end tests."""

from collections.abc import Iterator
from pathlib import Path

import pytest

HUGE_PAGES = 16


@pytest.fixture
def checkpoint(tmp_path: Path) -> Path:
    return tmp_path / "checkpoint"


@pytest.fixture
def huge_pages() -> Iterator[None]:
    """A pool with some huge pages more; it has its size again afterwards."""
    pool = Path("/proc/sys/vm/nr_hugepages")
    before = pool.read_text()
    try:
        pool.write_text(str(int(before) + HUGE_PAGES))
    except OSError as error:
        pytest.skip(f"{pool} cannot be written: {error}")
    try:
        if int(pool.read_text()) < int(before) + HUGE_PAGES:
            pytest.skip("this machine has no room for huge pages")
        yield
    finally:
        pool.write_text(before)
