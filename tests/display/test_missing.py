"""What was not captured, grouped."""

from __future__ import annotations

from dataclasses import fields, replace

from display.missing import missing_lines, missing_of, missing_summary, missing_table
from display.progress import round_text
from dumper.events import RoundFinished
from formats.manifest import Gap, Missing
from tests.display import samples


def queues(n: int) -> list[Missing]:
    return [Missing(what=f"queue of descriptor {fd}", reason="out of scope") for fd in range(7, 7 + n)]


def test_nothing() -> None:
    assert missing_summary([]) == ""
    assert missing_table(samples.manifest_of(samples.worker())) is None


def test_one_line_names_what_lacks() -> None:
    one = Missing(what="io_uring of descriptor 9", reason="its rings belong to the kernel")
    assert missing_summary(queues(1)) == "not captured: queue of descriptor 7 (predump inspect says why)"
    assert missing_summary([*queues(2), one]) == (
        "not captured: queue of descriptor 7, 8; io_uring of descriptor 9 (predump inspect says why)"
    )
    assert missing_summary(queues(500)) == (
        "not captured: queue of descriptor 7, 8, 9 and 497 more (predump inspect says why)"
    )


def test_the_line_stays_short_and_safe() -> None:
    many = [Missing(what=f"{chr(ord('a') + i)}\x1b[2J\n" * 1000, reason="why") for i in range(20)]
    line = missing_summary(many)
    assert line.isprintable()
    assert len(line) < 300
    assert "17 other kinds of things" in line


def test_alike_in_more_than_one_number() -> None:
    items = [Missing(what=f"queue of descriptor {n} of process {n + 1}", reason="why") for n in range(1, 5)]
    assert missing_summary(items) == (
        "not captured: queue of descriptor 1 of process 2 and 3 more (predump inspect says why)"
    )


def test_what_looks_like_a_number_left_out_is_none() -> None:
    alike = [Missing(what=what, reason="why") for what in ("page 1 of #", "page # of 2", "page # of #")]
    assert missing_summary(alike) == ("not captured: page 1 of #; page # of 2; page # of # (predump inspect says why)")


def test_other_reasons_are_other_lines() -> None:
    items = [Missing(what="descriptor 7", reason="a"), Missing(what="descriptor 8", reason="b")]
    assert missing_summary(items) == "not captured: descriptor 7; descriptor 8 (predump inspect says why)"


def test_in_a_tree_it_is_said_whose_it_is() -> None:
    gap = Gap(start_addr=0x1000, end_addr=0x2000, reason="memfd_secret")
    process = replace(samples.worker(), missing=queues(1), unreadable=[gap])
    alone = [item.what for item in missing_of(samples.manifest_of(process))]
    assert alone == ["memory 0x1000-0x2000", "queue of descriptor 7"]
    tree = [item.what for item in missing_of(samples.manifest_of(samples.zombie(), process))]
    assert tree == ["memory 0x1000-0x2000 of process 4243", "queue of descriptor 7 of process 4243"]


def test_five_hundred_alike_take_one_row() -> None:
    text = samples.render(missing_table(samples.manifest_of(samples.server())), 160)
    rows = [" ".join(line.split()) for line in text.splitlines()]
    assert rows == [
        "Not captured",
        "what why",
        "memory 0x558100000000-0x558100001000 memfd_secret",
        "queue of descriptor 20, 21, 22 and 497 more connections that nobody accepted yet",
    ]


def test_the_event_of_a_round_counts_what_lacks() -> None:
    figures = {field.name: 0 for field in fields(RoundFinished) if field.name != "type"}
    event = RoundFinished(**(figures | {"round": 3, "kind": "dump", "missing": 2}))
    assert "2 things not captured" in round_text(event)
    assert "not captured" not in round_text(replace(event, missing=0))


def test_lines_name_all_kinds_but_for_endless_ones() -> None:
    assert missing_lines("Left out", []) == []
    assert missing_lines("Left out", queues(500)) == [
        "Left out:",
        "  queue of descriptor 7, 8, 9 and 497 more: out of scope",
    ]
    many = [Missing(what=f"{'a' * i}", reason="why" * 1000) for i in range(1, 101)]
    lines = missing_lines("Left out", many)
    assert len(lines) == 42
    assert lines[-1] == "  ... and 60 more: --json has them all"
    assert max(map(len, lines)) < 500
