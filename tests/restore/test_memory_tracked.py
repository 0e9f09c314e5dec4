"""What came back with --track goes on in its checkpoint: the next round holds only what was written since."""

from __future__ import annotations

from pathlib import Path

from tests.alive import Lives
from tests.harness import number, predump
from tests.oracle import compare
from tests.restore.usesmemory import MIB, N_FAMILY, LazyTarget, assert_same, dumped_family

PAGES = MIB * 256


def test_the_next_round_holds_what_was_written_since(lives: Lives, tmp_path: Path) -> None:
    target = LazyTarget(lives, tmp_path / "target")
    lives.restore(target.checkpoint, "--track")
    done = predump("pre-dump", "-p", target.pid, "-D", target.checkpoint, "--json").result
    assert number(done, "pages_data") < PAGES // 100
    assert number(done, "pages_parent") > PAGES // 2
    target.go()
    assert target.result().startswith("ok ")
    predump("dump", "-p", target.pid, "-D", target.checkpoint, "--leave-stopped")
    found = compare(target.pid, target.checkpoint)
    assert not found.mismatches, str(found)
    predump("verify", target.checkpoint)


def test_the_next_round_of_a_family_holds_what_it_wrote(lives: Lives, tmp_path: Path) -> None:
    checkpoint = dumped_family(lives, tmp_path / "family")
    pids = lives.restore(checkpoint, "--track")
    assert len(pids) == N_FAMILY
    done = predump("pre-dump", "-t", pids[0], "-D", checkpoint, "--json").result
    assert number(done, "pages_data") < number(done, "pages_parent") // 4
    predump("dump", "-t", pids[0], "-D", checkpoint, "--leave-stopped")
    assert_same(pids, checkpoint)
    predump("verify", checkpoint)


def test_only_the_last_round_can_go_on(lives: Lives, tmp_path: Path) -> None:
    target = LazyTarget(lives, tmp_path / "target")
    lives.restore(target.checkpoint)
    predump("dump", "-p", target.pid, "-D", tmp_path / "other", "--kill")
    lives.end(target.pid)
    done = predump("restore", target.checkpoint / "0001", "--track", expect=2)
    assert "pre-dump" in done.stderr
