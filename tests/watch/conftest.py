"""Fixtures of the write watch's tests."""

from collections.abc import Iterator

import pytest

from tests.watch.place import Place, memory_of_another, own_memory


@pytest.fixture(params=[own_memory, memory_of_another], ids=["own", "another"])
def place(request: pytest.FixtureRequest) -> Iterator[Place]:
    with request.param() as made:
        yield made
