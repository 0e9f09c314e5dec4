"""What all tests share: the target programs, built once."""

from __future__ import annotations

import signal

import pytest

from tests.harness import build_targets

# A shell that runs the tests in the background ignores SIGINT for them, and so would each command that they interrupt.
signal.signal(signal.SIGINT, signal.default_int_handler)


@pytest.fixture(scope="session")
def targets() -> None:
    """The programs of tests/targets, compiled."""
    build_targets()
