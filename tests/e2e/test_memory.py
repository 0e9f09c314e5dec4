"""A dump equals the memory of the frozen target, byte for byte, whatever went on before."""

from __future__ import annotations

import os
import re
import shutil
import signal
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest

from dumper import tracking
from dumper.dump import AfterDump
from dumper.objects import MappedFiles
from dumper.proc.maps import Mapping, read_maps
from dumper.rounds import Options
from dumper.session import Session
from formats.checkpoint import Checkpoint
from tests.harness import (
    Predump,
    Target,
    is_stopped,
    is_untouched,
    keeper_pids,
    memory_target,
    number,
    page_tables_kb,
    poll_until,
    predump,
)
from tests.oracle import PAGE_BYTES, Comparison, ProcessMemory, compare

pytestmark = pytest.mark.usefixtures("targets")

UNREADABLE_PAGES = 4 + 2
"""Of the memory target: guard pages, and one page past the end of each of its two files."""
SHARED_PAGES = 3 * 256
"""Of the memory target: may be copied in every round, as nothing reports all writes to them."""
SLACK_PAGES = 64
"""Stacks, the C library's data and the like, that any command to a target writes."""
CHANGES = ("write 500 3", "zap 200", "remap", "move", "grow", "protect")


@pytest.fixture
def target(tmp_path: Path) -> Iterator[Target]:
    with memory_target(tmp_path) as started:
        yield started


def pre_dump(target: Target, checkpoint: Path) -> Predump:
    done = predump("pre-dump", "-p", target.pid, "-D", checkpoint, "--json")
    assert is_untouched(target.pid)
    return done


def dump_stopped(target: Target, checkpoint: Path, *options: str) -> Predump:
    words = ("dump", "-p", target.pid, "-D", checkpoint, "--leave-stopped", "--json", *options)
    return predump(*words)


def assert_equal(target: Target, checkpoint: Path, skipped: int = UNREADABLE_PAGES) -> Comparison:
    """The stopped target equals the last round, which is whole."""
    assert is_stopped(target.pid), "--leave-stopped leaves it stopped"
    found = compare(target.pid, checkpoint)
    assert not found.mismatches, str(found)
    assert found.pages_skipped <= skipped, str(found)
    predump("verify", checkpoint)
    return found


def assert_unharmed(target: Target) -> None:
    """The target goes on, and each page of it has the content that it gave it."""
    os.kill(target.pid, signal.SIGCONT)
    poll_until(lambda: is_untouched(target.pid), 10, "the target to go on")
    target.check()


def only_round(done: Predump) -> dict[str, object]:
    (event,) = done.rounds()
    return event


@pytest.mark.parametrize("rate_pages_per_s", [500, 5000])
def test_run_while_the_target_writes(target: Target, checkpoint: Path, rate_pages_per_s: int) -> None:
    target.command(f"start {rate_pages_per_s}")
    words = ("run", "-p", target.pid, "-D", checkpoint, "--max-freeze", "60s", "--leave-stopped", "--json")
    done = predump(*words)
    assert_equal(target, checkpoint)
    rounds = done.rounds()
    assert [event["kind"] for event in rounds] == ["pre-dump"] * (len(rounds) - 1) + ["dump"]
    assert len(rounds) >= 2
    assert number(rounds[-1], "frozen_ns") > 0
    assert done.result["checkpoint"] == str(checkpoint)
    assert_unharmed(target)


@pytest.mark.thorough  # all of them together are in the next one
@pytest.mark.parametrize("change", CHANGES)
def test_one_kind_of_change_between_commands(target: Target, checkpoint: Path, change: str) -> None:
    pre_dump(target, checkpoint)
    target.command(change)
    pre_dump(target, checkpoint)
    target.command(change)
    done = dump_stopped(target, checkpoint)
    assert number(only_round(done), "round") == 3, "on top of earlier rounds only one more is taken"
    assert number(only_round(done), "pages_parent") > 0
    assert_equal(target, checkpoint)
    assert_unharmed(target)


def test_all_changes_between_commands_and_after_the_dump(target: Target, checkpoint: Path) -> None:
    for changes in (CHANGES, CHANGES[::-1]):
        pre_dump(target, checkpoint)
        for change in changes:
            target.command(change)
    dump_stopped(target, checkpoint)
    assert_equal(target, checkpoint)
    os.kill(target.pid, signal.SIGCONT)
    for change in CHANGES:
        target.command(change)
    dump_stopped(target, checkpoint)
    assert_equal(target, checkpoint)
    assert_unharmed(target)


def test_writer_runs_through_all_commands(target: Target, checkpoint: Path) -> None:
    target.command("start 3000")
    for change in ("move", "grow", "remap", "protect"):
        pre_dump(target, checkpoint)
        target.command(change)
    dump_stopped(target, checkpoint)
    assert_equal(target, checkpoint)
    assert_unharmed(target)


def test_dump_alone_takes_an_unfrozen_round_first(target: Target, checkpoint: Path) -> None:
    target.command("start 1000")
    done = dump_stopped(target, checkpoint)
    assert [event["kind"] for event in done.rounds()] == ["pre-dump", "dump"]
    assert_equal(target, checkpoint)
    assert_unharmed(target)


def test_dump_without_unfrozen_round(target: Target, checkpoint: Path) -> None:
    target.command("start 1000")
    done = dump_stopped(target, checkpoint, "--no-pre-dump")
    event = only_round(done)
    assert event["kind"] == "dump"
    assert number(event, "pages_parent") == 0
    assert_equal(target, checkpoint)
    assert_unharmed(target)


def test_dump_leaves_the_target_running(target: Target, checkpoint: Path) -> None:
    predump("dump", "-p", target.pid, "-D", checkpoint)
    assert is_untouched(target.pid)
    predump("verify", checkpoint)
    target.check()


def test_dump_and_kill(target: Target, checkpoint: Path) -> None:
    predump("dump", "-p", target.pid, "-D", checkpoint, "--kill")
    assert target.wait() == -signal.SIGKILL
    predump("verify", checkpoint)


def test_tracking_does_not_grow_the_page_tables(target: Target, checkpoint: Path) -> None:
    """64 GiB with 1000 pages: a marker in each hole would take 128 MiB of page tables."""
    before_kb = page_tables_kb(target.pid)
    for _ in range(2):
        pre_dump(target, checkpoint)
        assert page_tables_kb(target.pid) - before_kb <= 256
    dump_stopped(target, checkpoint)
    assert page_tables_kb(target.pid) - before_kb <= 256
    assert_equal(target, checkpoint)
    assert_unharmed(target)


def test_second_round_of_an_idle_target_is_tiny(checkpoint: Path) -> None:
    with Target.spawn("idle", 4, 32, 0) as target:
        first = only_round(pre_dump(target, checkpoint))
        second = only_round(pre_dump(target, checkpoint))
        assert number(first, "pages_data") > 32 * 256
        assert number(second, "pages_data") <= SLACK_PAGES
        assert number(second, "pages_parent") >= 32 * 256
        dump_stopped(target, checkpoint)
        assert_equal(target, checkpoint, skipped=0)
        assert_unharmed(target)


def test_later_round_holds_what_was_written(target: Target, checkpoint: Path) -> None:
    first = only_round(pre_dump(target, checkpoint))
    target.command("write 100 11")
    second = only_round(pre_dump(target, checkpoint))
    assert number(first, "pages_data") > 4096 + SHARED_PAGES
    assert number(second, "pages_data") <= 100 + SHARED_PAGES + SLACK_PAGES
    dump_stopped(target, checkpoint)
    assert_equal(target, checkpoint)
    assert_unharmed(target)


def test_lost_keeper_makes_the_next_round_full(target: Target, checkpoint: Path) -> None:
    pre_dump(target, checkpoint)
    (keeper,) = keeper_pids(target.pid)
    os.kill(keeper, signal.SIGKILL)
    poll_until(lambda: not keeper_pids(target.pid), 10, "the keeper to end")
    target.command("write 300 5")
    event = only_round(pre_dump(target, checkpoint))
    assert number(event, "pages_parent") == 0
    target.command("zap 100")
    dump_stopped(target, checkpoint)
    assert_equal(target, checkpoint)
    assert_unharmed(target)


def test_keeper_ends_with_its_target(checkpoint: Path) -> None:
    with Target.spawn("idle", 1, 1, 0) as target:
        pre_dump(target, checkpoint)
        assert len(keeper_pids(target.pid)) == 1
        target.check()
        poll_until(lambda: not keeper_pids(target.pid), 10, "the keeper to end")


def test_two_checkpoints_in_turn(target: Target, tmp_path: Path) -> None:
    one, other = tmp_path / "one", tmp_path / "other"
    for checkpoint in (one, other, one, other):
        pre_dump(target, checkpoint)
        target.command("write 200 1")
        target.command("zap 50")
    dump_stopped(target, one)
    assert_equal(target, one)
    os.kill(target.pid, signal.SIGCONT)
    target.command("write 200 2")
    dump_stopped(target, other)
    assert_equal(target, other)
    assert_unharmed(target)


def test_detach_between_rounds(target: Target, checkpoint: Path) -> None:
    pre_dump(target, checkpoint)
    predump("detach", "-p", target.pid)
    poll_until(lambda: not keeper_pids(target.pid), 10, "the keeper to end")
    target.command("write 300 8")
    dump_stopped(target, checkpoint)
    assert_equal(target, checkpoint)
    assert_unharmed(target)


def test_round_without_manifest_is_no_round(target: Target, checkpoint: Path) -> None:
    """What a crash leaves of the last round: its pages are not anywhere else."""
    pre_dump(target, checkpoint)
    target.command("write 300 4")
    pre_dump(target, checkpoint)
    (checkpoint / "0002" / "manifest.json").unlink()
    predump("verify", checkpoint)
    dump_stopped(target, checkpoint)
    assert_equal(target, checkpoint)
    assert_unharmed(target)


def test_last_round_gone_from_disk(target: Target, checkpoint: Path) -> None:
    pre_dump(target, checkpoint)
    target.command("write 300 4")
    pre_dump(target, checkpoint)
    shutil.rmtree(checkpoint / "0002")
    dump_stopped(target, checkpoint)
    assert_equal(target, checkpoint)
    assert_unharmed(target)


def test_memory_that_cannot_be_read_is_named(tmp_path: Path, checkpoint: Path) -> None:
    with memory_target(tmp_path, "secret") as target:
        dump_stopped(target, checkpoint)
        found = assert_equal(target, checkpoint, skipped=UNREADABLE_PAGES + 4)
        assert found.pages_skipped >= 4
        assert "secret" in predump("inspect", checkpoint).stdout
        assert_unharmed(target)


def test_clean_pages_of_a_private_memfd(tmp_path: Path, checkpoint: Path) -> None:
    """There is no file on disk to have them from again: they belong into the checkpoint."""
    with memory_target(tmp_path, "memfd") as target:
        pre_dump(target, checkpoint)
        target.command("zap 500")
        dump_stopped(target, checkpoint)
        assert_equal(target, checkpoint)
        assert_unharmed(target)


def test_shared_mappings_that_change_while_they_are_looked_at(
    target: Target, checkpoint: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Their files are opened by the addresses of the mapping: in the freeze at last these stay what they are."""
    original, seen = MappedFiles.fd, set[Mapping]()

    def not_at_first(files: MappedFiles, tid: int, mapping: Mapping) -> int:
        if mapping not in seen:
            seen.add(mapping)
            mapping = replace(mapping, end_addr=mapping.end_addr + PAGE_BYTES)
        return original(files, tid, mapping)

    monkeypatch.setattr(MappedFiles, "fd", not_at_first)
    with Session(target.pid, checkpoint, Options(), lambda _: None) as session:
        session.dump(AfterDump.LEAVE_STOPPED, pre_dump=False)
    (process,) = Checkpoint.open(checkpoint).round().manifest.processes
    assert [vma.object is None for vma in process.vmas if vma.is_shared] == [False] * 3
    assert_equal(target, checkpoint)
    assert_unharmed(target)


def test_mappings_that_change_while_they_are_read(
    target: Target, checkpoint: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What was read of them may overlap then: a mapping that grew, and what it grew over, later in the file."""

    def torn(tid: int) -> bytes:
        first, *rest = read_maps(tid).splitlines(keepends=True)
        end = f"{int(rest[0].split(b'-')[1].split()[0], 16):012x}".encode()
        return b"".join([first.split(b"-")[0] + b"-" + end + first[first.index(b" ") :], *rest])

    with Session(target.pid, checkpoint, Options(), lambda _: None) as session:
        with monkeypatch.context() as patch:
            patch.setattr(tracking, "read_maps", torn)
            session.pre_dump()
        target.command("write 500 3")
        session.dump(AfterDump.LEAVE_STOPPED, pre_dump=True)
    assert_equal(target, checkpoint)
    assert_unharmed(target)


@pytest.mark.usefixtures("huge_pages")
def test_huge_pages(tmp_path: Path, checkpoint: Path) -> None:
    with memory_target(tmp_path, "hugetlb") as target:
        pre_dump(target, checkpoint)
        target.command("write 500 6")
        dump_stopped(target, checkpoint)
        assert_equal(target, checkpoint)
        assert_unharmed(target)


def test_images_are_secrets(target: Target, checkpoint: Path) -> None:
    before = os.umask(0)
    try:
        dump_stopped(target, checkpoint)
    finally:
        os.umask(before)
    modes = {path: path.stat().st_mode & 0o777 for path in (checkpoint, *checkpoint.rglob("*"))}
    assert len(modes) > 6
    wrong = {str(p): oct(mode) for p, mode in modes.items() if mode != (0o700 if p.is_dir() else 0o600)}
    assert wrong == {}


def test_strict_refuses_before_anything_is_touched(tmp_path: Path, checkpoint: Path) -> None:
    with memory_target(tmp_path, "secret") as target:
        for command in ("dump", "run"):
            done = predump(command, "-p", target.pid, "-D", checkpoint, "--strict", "--json", check=False)
            assert done.returncode == 1, str(done)
            assert "memfd_secret" in done.stderr
            assert [event["type"] for event in done.events] == ["error"], "no attach, no round"
        assert not list(checkpoint.rglob("manifest.json"))
        assert_unharmed(target)


def test_strict_where_nothing_is_missing(target: Target, checkpoint: Path) -> None:
    done = dump_stopped(target, checkpoint, "--strict")
    assert number(done.result, "missing") == 0
    assert_equal(target, checkpoint)
    assert_unharmed(target)


def test_flags_and_guard_ranges_of_every_mapping(target: Target, checkpoint: Path) -> None:
    """As /proc/PID/smaps of the stopped process has them, without what tracking adds; guards as in its pagemap."""
    pre_dump(target, checkpoint)
    dump_stopped(target, checkpoint)
    (process,) = Checkpoint.open(checkpoint).round().manifest.processes
    smaps = Path(f"/proc/{target.pid}/smaps").read_text(errors="surrogateescape")
    headers = re.findall(r"^([0-9a-f]+)-[0-9a-f]+ [-r][-w][-x][-ps] ", smaps, re.MULTILINE)
    flags = re.findall(r"^VmFlags: (.*)$", smaps, re.MULTILINE)
    wanted = {int(start, 16): line.replace("uw ", "").strip() for start, line in zip(headers, flags, strict=True)}
    assert {vma.start_addr: vma.flags for vma in process.vmas} == wanted
    assert any("gu" in vma.flags.split() for vma in process.vmas)
    with ProcessMemory(target.pid) as memory:
        guards = [
            (start, end)
            for vma in process.vmas
            if vma.kind in ("anon", "heap", "stack")
            for start, end, is_guard in memory.populated(vma.start_addr, vma.end_addr)
            if is_guard
        ]
    assert guards
    assert [(one.start_addr, one.end_addr) for one in process.guards] == guards
    assert_unharmed(target)


def test_flags_while_it_runs(target: Target, checkpoint: Path) -> None:
    """Read before and after the freeze: what is not sure to be of the freeze is said, and nothing is left out."""
    target.command("start 500")
    predump("dump", "-p", target.pid, "-D", checkpoint)
    (process,) = Checkpoint.open(checkpoint).round().manifest.processes
    assert all(vma.flags for vma in process.vmas)
    assert_unharmed(target)
