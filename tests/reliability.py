"""Runs all tests and writes what they tried and found into docs/reliability.md: `python -m tests.reliability SECONDS`.

Nothing is written if a test fails. SECONDS is how long each open-ended test goes on.
"""

from __future__ import annotations

import json
import os
import platform
import sys
import tempfile
import time
from datetime import UTC, datetime
from pathlib import Path

import pytest

from tests.harness import REPO

PAGE = REPO / "docs" / "reliability.md"
BEGIN, END = "<!-- figures of `make reliability` -->\n", "<!-- end of the figures -->\n"
GIB = 1 << 30


class Outcomes:
    """Counts tests as pytest runs them."""

    def __init__(self) -> None:
        self.passed = 0
        self.skipped = 0

    def pytest_runtest_logreport(self, report: pytest.TestReport) -> None:
        """A hook of pytest: setup, call and teardown report one by one."""
        self.passed += report.when == "call" and report.passed
        self.skipped += report.skipped


def machine() -> str:
    """What the figures were measured on."""
    memory_bytes = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    return f"Linux {platform.release()}, {os.cpu_count()} processors, {memory_bytes / GIB:.0f} GiB of memory"


def table(counts: dict[str, int]) -> str:
    """The counts as a table of Markdown."""
    rows = "".join(f"| {what} | {number:,} |\n" for what, number in counts.items())
    return f"| what | number |\n|---|---:|\n{rows}"


def write(figures: str) -> None:
    """Puts the figures in place of those that are there."""
    head, _, rest = PAGE.read_text().partition(BEGIN)
    _, _, tail = rest.partition(END)
    PAGE.write_text(head + BEGIN + figures + END + tail)


def main() -> int:
    """What pytest returns."""
    seconds = sys.argv[1]
    outcomes = Outcomes()
    with tempfile.TemporaryDirectory() as directory:
        tally = Path(directory) / "tally.json"
        since = time.monotonic()
        code = pytest.main(["--thorough", "--tally", str(tally), "--seconds", seconds], plugins=[outcomes])
        if code != pytest.ExitCode.OK:
            return int(code)
        minutes = (time.monotonic() - since) / 60
        counts = json.loads(tally.read_text())
    when = (
        f"{datetime.now(UTC):%Y-%m-%d}, {machine()}: {outcomes.passed:,} tests passed, {outcomes.skipped} skipped, "
        f"in {minutes:.0f} minutes (`make reliability SECONDS={seconds}`).\n\n"
    )
    write(when + table(counts))
    return 0


if __name__ == "__main__":
    sys.exit(main())
