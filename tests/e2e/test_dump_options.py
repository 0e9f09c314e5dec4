"""What the options of dump do, what an end at any moment leaves, and what the readers say of what is on disk."""

from __future__ import annotations

import errno
import json
import os
import shutil
import signal
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from formats.checkpoint import Checkpoint
from formats.manifest import FreezeBy
from tests.filesystems import tmpfs
from tests.harness import (
    Predump,
    RunningPredump,
    Target,
    is_stopped,
    is_untouched,
    keeper_pids,
    memory_target,
    number,
    poll_until,
    predump,
    proc_state,
    wait_for_rewritten_pages,
)
from tests.oracle import compare, read_maps

pytestmark = pytest.mark.usefixtures("targets")

UNREADABLE_PAGES = 4 + 2
"""Of the memory target: guard pages, and one page past the end of each of its two files."""
CORRUPT, UNSUPPORTED, PARENT_MISSING, INTERRUPTED = 20, 21, 22, 130
SLOW = ("--level", "19", "--threads", "1")
"""Some megabytes per second."""
SLOW_MIB = 8
LIMITED = ("--bandwidth-limit", "4M")
"""Two seconds for so much."""
ROUND_NAMES = (
    "type",
    "command",
    "round",
    "kind",
    "pid",
    "pages_present",
    "pages_written",
    "pages_data",
    "pages_zero",
    "pages_parent",
    "raw_bytes",
    "stored_bytes",
    "duration_ns",
    "frozen_ns",
    "attach_stop_ns",
    "scan_ns",
    "copy_ns",
)


@pytest.fixture
def target() -> Iterator[Target]:
    with Target.spawn("idle", 2, 8, 100) as started:
        yield started


def on(target: Target, checkpoint: Path) -> tuple[object, ...]:
    return ("-p", target.pid, "-D", checkpoint)


def manifest(checkpoint: Path, round_number: int) -> dict[str, object]:
    """The body of a manifest, as any reader of JSON sees it."""
    whole = json.loads((checkpoint / f"{round_number:04d}" / "manifest.json").read_text())
    body = whole["manifest"]
    assert isinstance(body, dict)
    return body


def assert_equal(target: Target, checkpoint: Path, skipped: int = UNREADABLE_PAGES) -> None:
    """The stopped target equals the last round, which is whole."""
    assert is_stopped(target.pid), "--leave-stopped leaves it stopped"
    found = compare(target.pid, checkpoint)
    assert not found.mismatches, str(found)
    assert found.pages_skipped <= skipped, str(found)
    predump("verify", checkpoint)


def assert_goes_on(target: Target) -> None:
    os.kill(target.pid, signal.SIGCONT)
    poll_until(lambda: is_untouched(target.pid), 10, "the target to go on")
    target.check()


# ---- staging, kill ----


@pytest.mark.parametrize("options", [(), ("--no-pre-dump",)])
def test_what_does_not_fit_the_staging_memory_is_streamed(
    options: tuple[str, ...], tmp_path: Path, checkpoint: Path
) -> None:
    """The shared areas alone, which are taken in full in the freeze, are larger than 1 MiB."""
    with memory_target(tmp_path) as target:
        predump("pre-dump", *on(target, checkpoint))
        target.command("write 8000 3")
        done = predump("dump", *on(target, checkpoint), "--leave-stopped", "--staging", "1M", "--json", *options)
        assert done.result["streamed_while_frozen"] is True
        event = done.rounds()[-1]
        assert event["streamed_while_frozen"] is True
        assert manifest(checkpoint, number(event, "round"))["streamed_while_frozen"] is True
        assert_equal(target, checkpoint)
        assert_goes_on(target)


def test_what_fits_is_not_streamed(target: Target, checkpoint: Path) -> None:
    done = predump("dump", *on(target, checkpoint), "--leave-stopped", "--json")
    assert done.result["streamed_while_frozen"] is False
    assert manifest(checkpoint, number(done.result, "round"))["streamed_while_frozen"] is False
    assert_equal(target, checkpoint, 0)
    assert_goes_on(target)


@pytest.mark.parametrize(
    "options",
    [
        ("--leave-running",),
        ("--leave-stopped",),
        ("--no-pre-dump", "--staging", "1M", "--freeze-by", "copy"),
        ("--freeze-by", "clone"),
    ],
)
def test_phases_of_the_freeze_do_not_overlap(options: tuple[str, ...], tmp_path: Path, checkpoint: Path) -> None:
    with memory_target(tmp_path) as target:
        done = predump("dump", *on(target, checkpoint), *options, "--json")
    event = done.rounds()[-1]
    last = Checkpoint.open(checkpoint).round(number(event, "round")).manifest
    phases = last.stats.phases()
    assert {name: number(event, f"{name}_ns") for name in phases} == phases
    assert sum(phases.values()) <= number(event, "frozen_ns")
    taken = {"stop", "maps", "state", "scan", "copy", "holes"}
    taken |= {"resume"} if "--leave-stopped" not in options else set()
    taken |= {"stream"} if "1M" in options else set()
    taken |= {"clone"} if "clone" in options else set()
    assert {name for name, ns in phases.items() if ns} == taken
    assert event["freeze_by"] == last.freeze_by == (FreezeBy.CLONE if "clone" in options else FreezeBy.COPY)


@pytest.mark.parametrize("staging", ["256M", "1M"])
def test_killed_only_when_the_dump_is_on_disk(staging: str, checkpoint: Path) -> None:
    with Target.spawn("idle", 2, 8, 0) as target:
        options = ("--kill", "--no-pre-dump", "--staging", staging, *SLOW)
        with RunningPredump.start("dump", *on(target, checkpoint), *options) as running:
            # Its parent hears of its end only from the tracer, when that lets go.
            poll_until(lambda: proc_state(target.pid) == "Z", 30, "the target to be killed")
            committed = (checkpoint / "0001" / "manifest.json").is_file()
            done = running.finish()
        assert committed, "it was killed before its dump was on disk"
        assert target.wait() == -signal.SIGKILL
        assert done.returncode == 0, str(done)
        assert manifest(checkpoint, 1)["kind"] == "dump"
        predump("verify", checkpoint)


# ---- a full disk ----


@pytest.mark.parametrize(
    ("after", "staging"), [("--kill", "256M"), ("--leave-stopped", "256M"), ("--leave-stopped", "1M")]
)
def test_full_disk_neither_kills_nor_stops(after: str, staging: str, tmp_path: Path) -> None:
    with (
        tmpfs(tmp_path / "small", "size=3m,mode=700") as small,
        Target.spawn("idle", 2, 2, 20000) as target,
    ):
        checkpoint = small / "checkpoint"
        predump("pre-dump", *on(target, checkpoint))
        before = {path: path.read_bytes() for path in checkpoint.rglob("*") if path.is_file()}
        wait_for_rewritten_pages(target, 2000)
        done = predump("dump", *on(target, checkpoint), after, "--staging", staging, expect=1)
        assert os.strerror(errno.ENOSPC) in done.stderr, str(done)
        poll_until(lambda: is_untouched(target.pid), 10, "the target to go on, not stopped")
        target.command("check")
        assert {path: path.read_bytes() for path in checkpoint.rglob("*") if path.is_file()} == before
        predump("verify", checkpoint)
        subprocess.run(["mount", "-o", "remount,size=64m", str(small)], check=True)
        predump("dump", *on(target, checkpoint), "--leave-stopped")
        assert_equal(target, checkpoint, 0)
        assert_goes_on(target)


# ---- an end at any moment ----


@pytest.mark.parametrize(
    ("command", "number_"),
    [("pre-dump", signal.SIGINT), ("dump", signal.SIGTERM), ("run", signal.SIGINT), ("run", signal.SIGTERM)],
)
def test_interrupted(command: str, number_: signal.Signals, target: Target, checkpoint: Path) -> None:
    options = ("--max-freeze", "0ms", "--interval", "20s") if command == "run" else ()
    with RunningPredump.start(command, *on(target, checkpoint), *options) as running:
        running.wait_for("round" if command == "run" else "round-start")
        running.process.send_signal(number_)
        done = running.finish(10)
    if command == "run" or done.returncode != 0:  # a short one may be done before the signal comes
        assert done.returncode == INTERRUPTED, str(done)
        assert done.result["exit_code"] == INTERRUPTED
    poll_until(lambda: is_untouched(target.pid), 10, "the target to go on")
    target.command("check")
    predump("dump", *on(target, checkpoint), "--leave-stopped")
    assert_equal(target, checkpoint, 0)
    assert_goes_on(target)


@pytest.mark.parametrize(
    ("options", "number_"),
    [
        (("--leave-stopped",), signal.SIGTERM),
        (("--no-pre-dump", "--leave-stopped"), signal.SIGINT),
        (("--no-pre-dump", "--kill"), signal.SIGTERM),
    ],
)
def test_interrupted_while_it_writes_the_dump(
    options: tuple[str, ...], number_: signal.Signals, checkpoint: Path
) -> None:
    """Slow compression: the signal comes long before the dump is on disk."""
    with Target.spawn("idle", 2, SLOW_MIB, 0) as target:
        with RunningPredump.start("dump", *on(target, checkpoint), *options, *SLOW) as running:
            running.wait_for("round-start")
            running.ends_within(0.15)
            running.process.send_signal(number_)
            done = running.finish(20)
        assert done.returncode == INTERRUPTED, str(done)
        poll_until(lambda: is_untouched(target.pid), 10, "the target to go on, neither killed nor stopped")
        assert not list(checkpoint.rglob("manifest.json*"))
        target.check()


# ---- two at once ----


@pytest.mark.parametrize("same_directory", [True, False])
@pytest.mark.parametrize("first", ["pre-dump", "run"])
def test_two_at_once(first: str, same_directory: bool, tmp_path: Path) -> None:
    with Target.spawn("idle", 2, SLOW_MIB, 100) as target:
        words = on(target, tmp_path / "one")
        other = on(target, tmp_path / ("one" if same_directory else "other"))
        options = (
            ("--max-freeze", "0ms", "--interval", "1s", "--max-rounds", "2") if first == "run" else (*SLOW, *LIMITED)
        )
        with RunningPredump.start(first, *words, *options) as running:
            running.wait_for("round" if first == "run" else "round-start")
            done = predump("pre-dump", *other, check=False)
            assert running.process.poll() is None, "they were to be at work at the same time"
            assert "another predump" in done.stderr, str(done)
            assert done.returncode == 1, str(done)
            assert running.finish().returncode in (0, 3)
        predump("verify", tmp_path / "one")
        predump("dump", *other, "--leave-stopped")
        assert_equal(target, tmp_path / ("one" if same_directory else "other"), 0)
        assert_goes_on(target)


# ---- rounds that are gone or damaged ----


def test_earlier_round_gone_makes_the_next_one_full(tmp_path: Path, checkpoint: Path) -> None:
    """The last round is there, but not the one that it refers to."""
    with memory_target(tmp_path) as target:
        for _ in range(2):
            predump("pre-dump", *on(target, checkpoint))
            target.command("write 300 2")
        shutil.rmtree(checkpoint / "0001")
        done = predump("pre-dump", *on(target, checkpoint), "--json")
        assert done.result["full"] is True, str(done)
        assert done.result["full_reason"]
        predump("dump", *on(target, checkpoint), "--leave-stopped")
        assert is_stopped(target.pid)
        found = compare(target.pid, checkpoint)
        assert not found.mismatches, str(found)
        assert_goes_on(target)


def test_damaged_last_manifest_is_told(target: Target, checkpoint: Path) -> None:
    predump("pre-dump", *on(target, checkpoint))
    flip_byte(checkpoint / "0001" / "manifest.json", 400)
    done = predump("pre-dump", *on(target, checkpoint), expect=CORRUPT)
    assert str(checkpoint) in done.stderr
    assert is_untouched(target.pid)
    target.check()


@pytest.fixture(scope="module")
def two_rounds(tmp_path_factory: pytest.TempPathFactory, targets: None) -> Path:  # noqa: ARG001
    """Of a target that wrote all the time: pages in either round."""
    checkpoint = tmp_path_factory.mktemp("readers") / "checkpoint"
    with Target.spawn("idle", 1, 2, 200) as target:
        predump("pre-dump", *on(target, checkpoint))
        wait_for_rewritten_pages(target, 20)
        predump("dump", *on(target, checkpoint), "--leave-stopped")
        assert keeper_pids(target.pid) == [] or target.alive()
    return checkpoint


@pytest.fixture
def copy(two_rounds: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(two_rounds, tmp_path / "copy"))


def flip_byte(path: Path, offset: int) -> None:
    content = bytearray(path.read_bytes())
    content[offset] ^= 0x10
    path.write_bytes(content)


def file_of(checkpoint: Path, pattern: str) -> Path:
    (path,) = checkpoint.glob(pattern)
    return path


def written_address(checkpoint: Path) -> tuple[int, int]:
    """Where the largest anonymous mapping is, which the target fills and rewrites."""
    (process,) = manifest(checkpoint, 2)["processes"]  # type: ignore[misc]
    vmas = [vma for vma in process["vmas"] if vma["kind"] == "anon" and vma["perms"] == "rw-p"]
    vma = max(vmas, key=lambda one: one["pages_data"] + one["pages_parent"])
    return vma["start_addr"], vma["end_addr"] - vma["start_addr"]


def refused(code: int, *words: object) -> Predump:
    """The command ends with that code, in words for people and for programs."""
    done = predump(*words, "--json", expect=code)
    assert done.result["exit_code"] == code, str(done)
    assert str(done.result["message"]).rstrip(".") in done.stderr, str(done)
    return done


@pytest.mark.parametrize("command", ["inspect", "verify", "read"])
def test_damaged_manifest(command: str, copy: Path) -> None:
    words: tuple[object, ...] = (*written_address(copy)[:1], 8) if command == "read" else ()
    flip_byte(copy / "0002" / "manifest.json", 400)
    found = predump(command, copy, *words, expect=CORRUPT)
    assert "manifest.json" in found.stdout + found.stderr


@pytest.mark.parametrize("name", ["pages", "pagemap"])
def test_damaged_pages(name: str, copy: Path) -> None:
    addr, length = written_address(copy)
    path = file_of(copy, f"0001/{name}-*.zst")
    flip_byte(path, path.stat().st_size // 3)
    found = predump("verify", copy, expect=CORRUPT)
    assert str(path) in found.stdout + found.stderr
    refused(CORRUPT, "read", copy, addr, length)
    predump("inspect", copy)


def test_truncated_pages(copy: Path) -> None:
    addr, length = written_address(copy)
    path = file_of(copy, "0001/pages-*.zst")
    os.truncate(path, path.stat().st_size // 2)
    predump("verify", copy, expect=CORRUPT)
    refused(CORRUPT, "read", copy, addr, length)


def test_newer_version(copy: Path) -> None:
    path = copy / "0002" / "manifest.json"
    path.write_bytes(path.read_bytes().replace(b'"schema":2', b'"schema":3', 1))
    for words in (("inspect", copy), ("read", copy, 4096, 8)):
        refused(UNSUPPORTED, *words)
    predump("verify", copy, expect=UNSUPPORTED)


def test_parent_missing(copy: Path) -> None:
    addr, length = written_address(copy)
    shutil.rmtree(copy / "0001")
    refused(PARENT_MISSING, "read", copy, addr, length)
    found = predump("verify", copy, expect=PARENT_MISSING)
    assert "1" in found.stdout + found.stderr
    assert "needs round 1, which is not there" in predump("inspect", copy, expect=PARENT_MISSING).stdout


def test_parent_exchanged(copy: Path, target: Target, tmp_path: Path) -> None:
    addr, length = written_address(copy)
    predump("pre-dump", *on(target, tmp_path / "other"))
    shutil.rmtree(copy / "0001")
    shutil.copytree(tmp_path / "other" / "0001", copy / "0001")
    refused(CORRUPT, "read", copy, addr, length)
    predump("verify", copy, expect=CORRUPT)


def test_read_where_there_is_nothing(tmp_path: Path, checkpoint: Path) -> None:
    with memory_target(tmp_path) as target:
        predump("dump", *on(target, checkpoint))
        mapping = next(m for m in read_maps(target.pid) if m.path.endswith("/private-file"))
        dirty, clean = mapping.start_addr, mapping.start_addr + 4096
        content = predump("read", checkpoint, hex(dirty), 4096, "--json").result
        assert content["length"] == 4096
        assert len(str(content["hex"])) == 2 * 4096
        assert str(content["hex"]).count("0") < 4096
        (tmp_path / "elsewhere").mkdir()
        elsewhere = ("--sysroot", tmp_path / "elsewhere")
        done = refused(1, "read", checkpoint, hex(clean), 16, *elsewhere)
        assert f"{clean:#x}" in done.stderr, str(done)
        assert "private-file" in done.stderr, "where to find it"
        assert "--sysroot" in done.stderr, "how to have it read"
        refused(1, "read", checkpoint, hex(dirty), 2 * 4096, *elsewhere)
        both = predump("read", checkpoint, hex(dirty), 2 * 4096, "--json")
        assert bytes.fromhex(str(both.result["hex"]))[4096:] == (tmp_path / "private-file").read_bytes()[4096:8192]
        assert [event["subject"] for event in both.events if event["type"] == "notice"] == ["file"], str(both)
        for addr, length in ((0, 8), (0x1000, 4096), (1 << 60, 1), ((1 << 64) - 1, 1), (1 << 70, 8)):
            done = refused(1, "read", checkpoint, hex(addr), length)
            assert "internal error" not in done.stderr, str(done)
            assert len(done.stderr.strip().splitlines()) <= 4
        refused(2, "read", checkpoint, hex(dirty), 16, "--round", 99)
        refused(2, "read", checkpoint, hex(dirty), 16, "--pid", target.pid + 1)
        refused(2, "read", checkpoint, hex(dirty), 1 << 60)
        target.check()


# ---- JSON ----


def test_json_of_each_command(target: Target, checkpoint: Path) -> None:
    words = on(target, checkpoint)
    done = [
        predump("check", "--json", check=False),
        predump("pre-dump", *words, "--json"),
        predump("detach", "-p", target.pid, "--json"),
        predump("run", *words, "--json", check=False),
        predump("dump", *words, "--json"),
        predump("inspect", checkpoint, "--json"),
        predump("read", checkpoint, hex(read_maps(target.pid)[-3].start_addr), 0, "--json"),
        predump("verify", checkpoint, "--json"),
    ]
    for one in done:
        for event in one.events:
            assert event["command"] == one.args[0], str(event)
        assert one.result["type"] == "result", str(one)
        assert one.result["exit_code"] == one.returncode, str(one)
        assert one.stderr == "", "with --json there is nothing to say to people"
    for one in (done[1], done[3], done[4]):
        assert one.rounds(), str(one)
        for event in one.rounds():
            missing = [name for name in ROUND_NAMES if name not in event]
            assert not missing, f"{missing} missing in {event}"
            assert event["pid"] == target.pid
            assert event["kind"] in ("pre-dump", "dump")
        last = one.rounds()[-1]
        differing = [name for name in ROUND_NAMES if name != "type" and one.result.get(name) != last[name]]
        assert not differing, f"the result does not repeat {differing} of the last round"
        assert one.result["checkpoint"] == str(checkpoint)
    target.check()


def test_usage_errors_as_json(target: Target, checkpoint: Path) -> None:
    for words in (
        ("pre-dump", "-D", checkpoint),
        ("dump", *on(target, checkpoint), "--staging", "nonsense"),
        ("run", *on(target, checkpoint), "--max-freeze", "soon"),
    ):
        done = predump(*words, "--json", expect=2)
        assert done.result["type"] == "error"
        assert done.result["exit_code"] == 2
        assert done.result["message"]
    target.check()


def test_many_threads_that_a_dump_left_stopped_are_dumped_again(checkpoint: Path, tmp_path: Path) -> None:
    path = tmp_path / "file"
    path.touch()
    with Target.spawn("rewind", path, 8) as target:
        predump("dump", "-p", target.pid, "-D", checkpoint, "--leave-stopped")
        again = predump("dump", "-p", target.pid, "-D", checkpoint, "--no-pre-dump", "--json")
        assert number(again.result, "missing") == 0, str(again)
        assert is_stopped(target.pid)
        os.kill(target.pid, signal.SIGCONT)
        target.check()
