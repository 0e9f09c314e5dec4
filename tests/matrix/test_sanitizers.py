"""Programs built with sanitizers: the terabytes of their shadow memory take no time and no page tables."""

from __future__ import annotations

import shutil
import time
from pathlib import Path

import pytest

from tests.harness import TARGETS, Target, page_tables_kb
from tests.matrix.ways import WAYS, assert_captured, each_way_in_turn
from tests.tally import Tally

pytestmark = pytest.mark.usefixtures("targets")

CAPTURE_S = 30.0
PAGE_TABLES_SLACK_KB = 512
SHADOW_BYTES = 1 << 40


def size_bytes(pid: int) -> int:
    """Of the address space."""
    return int(Path(f"/proc/{pid}/statm").read_text().split()[0]) * 4096


@pytest.mark.parametrize(("sanitizer", "way"), each_way_in_turn(["address", "thread", "memory"]))
def test_shadow_memory_costs_nothing(sanitizer: str, way: str, checkpoint: Path, tally: Tally) -> None:
    program = TARGETS / "bin" / f"sanitized-{sanitizer}"
    if not program.exists():
        pytest.skip(f"no compiler here has -fsanitize={sanitizer}")
    setarch = shutil.which("setarch")
    assert setarch is not None
    with Target.spawn(setarch, "-R", program) as target:  # they place their shadow where libraries may be
        assert size_bytes(target.pid) > SHADOW_BYTES
        before_kb = page_tables_kb(target.pid)
        start_s = time.monotonic()
        WAYS[way](target.pid, checkpoint, lambda seed: target.command(f"change {seed}"))
        assert time.monotonic() - start_s < CAPTURE_S
        assert page_tables_kb(target.pid) - before_kb <= PAGE_TABLES_SLACK_KB
        assert_captured(target.pid, checkpoint, tally, target.check)
