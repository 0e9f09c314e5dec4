"""What `diff` shows, on checkpoints made by hand."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import pytest
from rich.cells import cell_len
from rich.console import Group

from analysis.diff.processes import ProcessPair
from analysis.diff.rounds import BytesWanted, RoundDiff
from analysis.diff.state import state_changes
from display.diff import missing_line, process_view, rounds_block
from display.diffstate import change_rows
from formats.checkpoint import Checkpoint
from formats.layout import PAGE_BYTES, RunKind
from formats.manifest import Clocks, Manifest, Process, RoundKind
from formats.openfiles import OpenFile
from formats.processstate import Descriptor, Disposition, IntervalTimer, Limit
from formats.roundwriter import RoundWriter
from formats.threadstate import PendingSignal
from tests.display import samples
from tests.display.samples import file_of, render, server
from tests.format.images import PID, ImageRound, PageState, fill_round, manifest_of, page_of, process_of, vma_of
from tests.snapshots import assert_snapshot

HOSTILE = "\x1b[2J[bold]x[/nope]\r\n\x07\u202e\udcff"
CREATED_NS = 1_750_000_000_000_000_000


def page(text: bytes, offset: int = 0) -> bytes:
    """A page of zeros but for a text."""
    return bytes(offset) + text + bytes(PAGE_BYTES - offset - len(text))


def earlier() -> tuple[Process, ImageRound]:
    pages: dict[int, PageState] = {number: page_of(number) for number in range(6)}
    pages |= {20: page(b"connection from 10.0.0.1"), 21: page(b"\x05", 8), 40: page_of(40)}
    vmas = (
        vma_of(0, 16, "heap", "[heap]"),
        replace(vma_of(20, 24, "file", "/usr/lib/libserver.so.2"), inode=77),
        vma_of(40, 44),
        vma_of(60, 64),
    )
    image = ImageRound(pages, vmas)
    process = server()
    threads = [replace(thread, seccomp_mode=0, seccomp_filters=[]) for thread in process.threads]
    return replace(process_of(image), state=process.state, threads=threads), image


def later() -> tuple[Process, ImageRound]:
    before, image = earlier()
    assert before.state is not None
    pages = {**image.pages, 3: page_of(3)[:100] + b"\xee" * 300 + page_of(3)[400:], 4: page_of(99), 17: page_of(17)}
    pages |= {20: page(b"connection from 10.0.0.99"), 21: page(b"\x06", 8), 70: page_of(70), 71: RunKind.ZERO}
    del pages[5], pages[40]
    heap, file, anon, _ = image.vmas
    vmas = (
        replace(heap, end_addr=vma_of(0, 20).end_addr),
        replace(file, path=f"{file.path} (deleted)"),
        replace(anon, perms="r--p"),
        vma_of(70, 72),
    )
    image = ImageRound(pages, vmas)
    main, sleeper = before.threads
    threads = [
        replace(main, registers={**main.registers, "rip": 0x7F12_3456_0000}, xstate=bytes([1]) * 832, signal_mask=2),
        replace(samples.thread_of(sleeper.tid + 1, "worker", 35)),
    ]
    state = replace(
        before.state,
        cwd="/srv/app/releases/2026-11-29/with/a/long/path/that/no/narrow/terminal/has/a/line/for",
        umask=0o77,
        dispositions=[Disposition(number=10, handler_addr=1, flags=0, restorer_addr=0, mask=0)],
        interval_timers=[IntervalTimer(which=0, interval_us=0, remaining_us=0)],
        limits=[Limit(resource=7, soft=4096, hard=524288)],
        environment=b"MODE=fast\0",
        descriptors=[Descriptor(fd=fd, open_file=fd, close_on_exec=False) for fd in (0, 1, 3, 5, 30)],
        pending=[PendingSignal(number=15, siginfo=bytes(128))],
    )
    return replace(process_of(image), state=state, threads=threads), image


def write(path: Path, number: int, process: Process, image: ImageRound, files: Sequence[OpenFile] = ()) -> None:
    writer = RoundWriter(path, number)
    fill_round(writer, image)
    manifest = replace(
        manifest_of(number, process, None),
        kind=RoundKind.DUMP,
        created_ns=CREATED_NS + number * 7_000_000_000,
        full_reason="it was asked for",
        open_files=[replace(item, object=None) for item in files or samples.open_files()],
        pipes=samples.tree_manifest().pipes,
        clocks=Clocks(realtime_ns=1, monotonic_ns=1, boottime_ns=1),
    )
    writer.commit(manifest)


@pytest.fixture
def checkpoint(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("TZ", "UTC")
    path = Path("ck")
    write(path, 1, *earlier())
    log, *others = sorted(samples.open_files(), key=lambda item: item.id != 1)
    files = [replace(log, offset=log.offset + 1000), *others, file_of(30, path="/srv/app/data.db", flags=0o2002)]
    write(path, 2, *later(), files)
    return path


def shown(path: Path, columns: int, rows_max: int = 100) -> str:
    images = Checkpoint.open(path)
    diff = RoundDiff((images, 1), (images, 2), None, BytesWanted(rows_max, Path("/nowhere"), lambda *_: None))
    views = [view for view in (rounds_block(diff), missing_line(diff)) if view is not None]
    views += [process_view(diff.process(pair), columns, rows_max) for pair in diff.pairs()]
    return render(Group(*views), columns)


@pytest.mark.parametrize("columns", [80, 160])
def test_all_of_it(checkpoint: Path, columns: int) -> None:
    text = shown(checkpoint, columns)
    assert_snapshot(f"diff-{columns}.txt", text)
    assert [line for line in text.splitlines() if cell_len(line) > columns] == []


def test_no_more_lines_than_are_asked_for(checkpoint: Path) -> None:
    text = shown(checkpoint, 80, rows_max=2)
    assert [line.strip() for line in text.splitlines() if "more" in line] == [
        "... and 3 more: --json has them all",
        "... and more in 4 pages: --max shows more",
        "... and 23 more: --json has them all",
    ]


def test_hostile_strings(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    before, image = earlier()
    assert before.state is not None
    vmas = tuple(replace(vma, path=HOSTILE) if vma.kind == "file" else vma for vma in image.vmas)
    evil = replace(before.state, cwd=HOSTILE * 1000, environment=f"{HOSTILE}=1".encode(errors="surrogateescape"))
    thread = replace(before.threads[0], name=HOSTILE, registers={HOSTILE: 1})
    image = replace(image, vmas=vmas, pages={})
    after = replace(process_of(image), name=HOSTILE, state=evil, threads=[thread])
    write(Path("ck"), 1, *earlier())
    write(Path("ck"), 2, after, image)
    for columns in (80, 160):
        text = shown(Path("ck"), columns)
        assert {c for c in text if not c.isprintable()} == {"\n"}
        assert "[bold]x[/nope]" in text
        assert len(text.splitlines()) < 300


def test_one_that_came_and_one_that_ended(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    process, image = earlier()
    write(Path("ck"), 1, process, image)
    write(Path("ck"), 2, replace(process, start_time_ticks=8), replace(image, start_time_ticks=8))
    text = shown(Path("ck"), 80)
    assert f"target, pid {PID} has come" in text
    assert f"target, pid {PID} has ended" in text


@pytest.mark.parametrize("number", [-(1 << 63), -1, 0, (1 << 64) - 1])
def test_numbers_that_make_no_sense(number: int) -> None:
    """Whatever integer an image may hold, in whatever place, its changes can be shown."""
    sound = samples.tree_manifest()
    odd = samples.spoiled(sound, number)
    assert isinstance(odd, Manifest)
    for rounds in ((sound, odd), (odd, sound)):
        for pair in zip(rounds[0].processes, rounds[1].processes, strict=True):
            for what, before, after in change_rows(state_changes(rounds, ProcessPair(*pair))):
                assert what
                assert before
                assert after
