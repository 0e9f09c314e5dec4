"""Working sets in windows of time: what is measured tick by tick, and what is told of other times."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from dumper.workingset import Window, WindowMeter, WorkingSet

MS = 1_000_000


def measured(ticks_ms: list[int], longest_ms: int | None, pages_a_tick: int = 10) -> dict[int, Window]:
    """The windows of a meter with ticks at these times, in each of which so many other pages are written."""
    meter = WindowMeter(100 * MS, None if longest_ms is None else longest_ms * MS)
    for tick_ms in ticks_ms:
        meter.tick(tick_ms * MS, lambda n_ticks: n_ticks * pages_a_tick)
    return {window.window_ns // MS: window for window in meter.windows()}


def window(length_ms: int, pages: int) -> Window:
    return Window(window_ns=length_ms * MS, measured_ns=length_ms * MS, windows=1, pages_mean=pages, pages_max=pages)


def test_windows_are_whole_ticks_up_to_the_duration() -> None:
    found = measured(list(range(0, 1001, 100)), 1000)
    assert {length: (one.windows, one.pages_mean) for length, one in found.items()} == {
        100: (10, 10),
        200: (9, 20),
        500: (6, 50),
        1000: (1, 100),
    }
    assert all(one.measured_ns == one.window_ns for one in found.values())


def test_there_is_no_window_longer_than_the_duration() -> None:
    assert list(measured(list(range(0, 2001, 100)), 400)) == [100, 200]


def test_late_ticks_leave_out_windows_that_they_cannot_tell() -> None:
    """A tick each 400 ms: nothing is known of 100 and 200 ms; 500 and 1000 are told as they were."""
    found = measured(list(range(0, 4001, 400)), None)
    assert sorted(found) == [500, 1000, 2000]
    assert found[500].measured_ns == 400 * MS
    assert found[500].pages_mean == 10
    assert found[1000].measured_ns in (800 * MS, 1200 * MS)


def test_mean_and_maximum() -> None:
    meter = WindowMeter(100 * MS, 100 * MS)
    written = iter((4, 6, 11))
    for tick in range(4):
        meter.tick(tick * 100 * MS, lambda _n_ticks: next(written))
    (one,) = meter.windows()
    assert (one.windows, one.pages_mean, one.pages_max) == (3, 7, 11)


@pytest.mark.parametrize(
    ("ms", "pages"),
    [
        pytest.param(0, 0, id="in no time nothing"),
        pytest.param(50, 50, id="shorter than was measured"),
        pytest.param(100, 100, id="as measured"),
        pytest.param(150, 125, id="in between"),
        pytest.param(300, 200, id="longer: it goes on as it did at the end"),
        pytest.param(10_000, 500, id="never more than there is"),
    ],
)
def test_other_times(ms: int, pages: int) -> None:
    found = WorkingSet([window(100, 100), window(200, 150)], pages_limit=500).pages_in(ms * MS)
    assert found == pytest.approx(pages)


def test_nothing_measured_is_nothing_written() -> None:
    assert WorkingSet([], 1000).pages_in(MS) == 0


@given(
    st.lists(st.tuples(st.integers(1, 10**4), st.integers(0, 10**6)), max_size=6, unique_by=lambda point: point[0]),
    st.integers(0, 10**6),
    st.lists(st.integers(0, 10**5), min_size=2, max_size=2),
)
def test_longer_never_writes_less_in_a_sane_measurement(
    points: list[tuple[int, int]], limit: int, times_ms: list[int]
) -> None:
    lengths = sorted(length for length, _ in points)
    pages = sorted(pages for _, pages in points)
    working_set = WorkingSet(list(map(window, lengths, pages)), limit)
    short, long = (working_set.pages_in(ms * MS) for ms in sorted(times_ms))
    assert 0 <= short <= long + 1e-6 <= limit + 1e-5
