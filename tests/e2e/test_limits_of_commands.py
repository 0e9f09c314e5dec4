"""--bandwidth-limit and --cpu-limit, on a real target."""

from __future__ import annotations

from pathlib import Path

import pytest

from dumper.limits import BURST_NS, NS_PER_S
from tests.harness import Target, number, predump
from tests.oracle import compare

pytestmark = pytest.mark.usefixtures("targets")

MIB = 1 << 20
TARGET_MIB = 8
SLOW = "1k"  # the target's pages would take hours


def test_a_round_is_written_no_faster_than_that(checkpoint: Path) -> None:
    with Target.spawn("idle", 1, TARGET_MIB, 0) as target:
        done = predump(
            "pre-dump", "-p", target.pid, "-D", checkpoint, "--bandwidth-limit", "8M", "--cpu-limit", "50%", "--json"
        )
    stored, took_ns = number(done.result, "stored_bytes"), number(done.result, "duration_ns")
    assert stored > 4 * MIB
    assert took_ns + BURST_NS >= 0.9 * stored / (8 * MIB) * NS_PER_S  # seek tables are not counted


@pytest.mark.parametrize(
    "options", [("--leave-stopped",), ("--leave-stopped", "--staging", "1M"), ("--kill",)], ids="-".join
)
def test_a_target_that_waits_does_not_wait_for_it(options: tuple[str, ...], checkpoint: Path) -> None:
    with Target.spawn("idle", 1, TARGET_MIB, 0) as target:
        words = ("--no-pre-dump", "--bandwidth-limit", SLOW, "--cpu-limit", "1%", *options)
        done = predump("dump", "-p", target.pid, "-D", checkpoint, *words, "--json")
        assert number(done.result, "stored_bytes") > 4 * MIB
        assert done.result["streamed_while_frozen"] == ("--staging" in options)
        if "--leave-stopped" in options:
            found = compare(target.pid, checkpoint)
            assert not found.mismatches, str(found)


@pytest.mark.parametrize("value", ["0%", "101%", "50", "-1%", "x%", "nan%"])
def test_what_is_no_share(value: str, checkpoint: Path) -> None:
    done = predump("pre-dump", "-p", 1, "-D", checkpoint, "--cpu-limit", value, expect=2)
    assert "is no share; write for example 50%" in done.stderr
