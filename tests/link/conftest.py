"""Certificates that the tests of links share."""

from __future__ import annotations

from pathlib import Path

import pytest

from streams.keys import Authority, Period
from streams.link import Credentials
from tests.link.peers import good_credentials


@pytest.fixture(scope="session")
def ca() -> Authority:
    """A CA."""
    return Authority(Period.from_now())


@pytest.fixture
def sides(tmp_path: Path, ca: Authority) -> tuple[Credentials, Credentials]:
    """The credentials of a sender and a receiver that trust each other."""
    return good_credentials(tmp_path, ca)
