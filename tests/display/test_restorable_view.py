"""What stands in the way of a restore, as `dump` and `inspect` say it."""

from __future__ import annotations

from display.restorable import restorable_briefly, restorable_line, restorable_tables
from formats.restorable import Obstacle, verdict_on
from tests.display import samples
from tests.display.samples import render
from tests.restorables import dump_of


def obstacles(n: int) -> list[Obstacle]:
    return [Obstacle(pid=9, what=f"descriptor {fd} (/dev/fuse)", reason="its driver") for fd in range(7, 7 + n)]


def test_one_line_at_the_end_of_a_dump() -> None:
    more = "(predump inspect --show restore)"
    assert restorable_line([], 0, is_tree=False) == "Restorable"
    assert restorable_line([], 2, is_tree=False) == f"Restorable; 2 things would come back otherwise {more}"
    assert restorable_line(obstacles(1), 2, is_tree=False) == f"Not restorable: descriptor 7 (/dev/fuse) {more}"
    assert restorable_line(obstacles(500), 0, is_tree=True) == (
        f"Not restorable: descriptor 7, 8, 9 and 497 more (/dev/fuse) of process 9 {more}"
    )


def test_the_line_stays_short_and_safe() -> None:
    hostile = [Obstacle(pid=1, what=f"{chr(97 + i)}\x1b[2J\n" * 1000, reason="\x1b" * 1000) for i in range(20)]
    line = restorable_line(hostile, 0, is_tree=True)
    assert line.isprintable()
    assert len(line) < 400


def test_the_row_of_the_summary() -> None:
    manifest = samples.tree_manifest()
    assert restorable_briefly(verdict_on(manifest), manifest).startswith("NO, --show restore says why: process 4242")


def test_what_comes_back_as_it_was_is_said_to() -> None:
    manifest = dump_of()
    texts = [render(table, 160) for table in restorable_tables(verdict_on(manifest), manifest) if table is not None]
    assert texts == ["Restorable: everything comes back as it was.\n"]


def test_the_tables_have_reasons_and_whose_it_is() -> None:
    manifest = samples.tree_manifest()
    tables = restorable_tables(verdict_on(manifest), manifest)
    texts = [" ".join(render(table, 160).split()) for table in tables if table is not None]
    assert "process 4242, 4243 the image does not have the boundaries of its memory" in texts[0]
    assert "session of process 4242, 4243 its leader, process 4000, is not in the dump" in texts[1]
