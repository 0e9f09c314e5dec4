"""Pages on their way to the disk keep to limits, but for the time in which somebody waits for them."""

from __future__ import annotations

import os
import threading
from collections.abc import Sequence

import pytest

from dumper import pipeline
from dumper.kernel.copy import PageBuffer
from dumper.limits import Limits
from dumper.pipeline import HASTY_LEVEL, LEAST_PRIORITY, PagePipeline
from tests.harness import poll_until

SECONDS = 20


class Sink:
    """In place of a file."""

    def __init__(self) -> None:
        self.appended = 0

    def append(self, frames: Sequence[bytes], contents_bytes: Sequence[int]) -> None:
        assert len(frames) == len(contents_bytes)
        self.appended += 1


@pytest.fixture
def priorities(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """Of the threads that compress, a frame each time."""
    found: list[int] = []

    def compress(*_: object) -> tuple[list[bytes], list[int]]:
        found.append(os.getpriority(os.PRIO_PROCESS, threading.get_native_id()))
        return [b"frame"], [1]

    monkeypatch.setattr(pipeline, "compress_frames", compress)
    monkeypatch.setattr(PageBuffer, "content", lambda _: b"")
    return found


def submit(line: PagePipeline, sink: Sink) -> None:
    line.submit(sink, line.acquire())  # type: ignore[arg-type]


def test_a_limit_ends_when_somebody_waits(priorities: list[int]) -> None:
    """Written at one byte a second, it would take seconds each."""
    sink = Sink()
    with PagePipeline(level=1, compress_threads=2, limits=Limits(bytes_per_s=1)) as line:
        submit(line, sink)
        submit(line, sink)
        poll_until(lambda: len(priorities) == 2, SECONDS, "both to be compressed")
        assert sink.appended == 0, "it waits for its turn"
        with line.unlimited():
            submit(line, sink)
            line.flush()
        assert sink.appended == 3


@pytest.mark.parametrize("end", ["drop", "close"])
def test_nobody_waits_for_a_limit_at_the_end(priorities: list[int], end: str) -> None:
    sink = Sink()
    with PagePipeline(level=1, compress_threads=2, limits=Limits(bytes_per_s=1, cpu_share=0.001)) as line:
        for _ in range(3):
            submit(line, sink)
        poll_until(lambda: bool(priorities), SECONDS, "one to be compressed")
        getattr(line, end)()


def test_threads_of_a_limit_are_nice_and_those_of_a_freeze_are_not(priorities: list[int]) -> None:
    mine, sink = os.getpriority(os.PRIO_PROCESS, threading.get_native_id()), Sink()
    with PagePipeline(level=1, compress_threads=2, limits=Limits(cpu_share=0.5)) as line:
        submit(line, sink)
        line.flush()
        with line.unlimited():
            submit(line, sink)
            line.flush()
    assert priorities == [LEAST_PRIORITY, mine]
    assert os.getpriority(os.PRIO_PROCESS, threading.get_native_id()) == mine


def test_without_limits_nobody_is_nice(priorities: list[int]) -> None:
    with PagePipeline(level=1, compress_threads=2) as line:
        submit(line, Sink())
        line.flush()
    assert priorities == [os.getpriority(os.PRIO_PROCESS, threading.get_native_id())]


@pytest.mark.parametrize(("level", "hasty"), [(19, HASTY_LEVEL), (1, HASTY_LEVEL), (-7, -7), (0, 0)])
def test_haste_is_no_slower_than_what_was_asked_for(level: int, hasty: int, monkeypatch: pytest.MonkeyPatch) -> None:
    levels: list[int] = []

    def compress(_content: memoryview, _frame_bytes: int, level: int) -> tuple[list[bytes], list[int]]:
        levels.append(level)
        return [], []

    monkeypatch.setattr("dumper.pipeline.compress_frames", compress)
    with PagePipeline(level=level, compress_threads=2) as line:
        submit(line, Sink())
        line.flush()
        line.make_haste()
        submit(line, Sink())
        line.flush()
    assert levels == [level, hasty]


@pytest.mark.parametrize(("n_pages", "expected"), [(0, 64), (100, 64), (129, 128), (2000, 1024), (10**6, 1024)])
def test_few_pages_are_for_all_threads(n_pages: int, expected: int) -> None:
    with PagePipeline(level=1, compress_threads=2) as line:
        assert line.batch_pages(n_pages) == expected
