"""How long a freeze will take: pure functions over numbers."""

from dataclasses import fields, replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from dumper.prediction import (
    CLONE_GAIN_NS,
    COPY_NS_PER_PAGE,
    FEW_PAGES,
    OBJECT_NS_PER_PAGE,
    SCAN_SHARE,
    STREAM_NS_PER_PAGE,
    Forecast,
    Pace,
    Size,
    forecast,
)

MS = 1_000_000
SIZES = st.builds(
    Size,
    processes=st.integers(1, 100),
    threads=st.integers(1, 10_000),
    descriptors=st.integers(0, 10_000),
    vmas=st.integers(0, 100_000),
    pages_of_objects=st.integers(0, 10**7),
    pages_in_doubt=st.integers(0, 10**7),
)
PACES = st.builds(
    Pace,
    pages_written=st.integers(0, 10**7),
    window_ns=st.integers(0, 10**11),
    scan_ns=st.integers(0, 10**8),
    copy_ns=st.integers(0, 10**10),
)
PAGES = st.integers(0, 10**7)
COUNTS = [field.name for field in fields(Size) if field.name not in ("clone_ns", "room_pages")]


@given(SIZES, PACES, PAGES)
def test_phases_add_up_and_the_scan_is_among_them(size: Size, pace: Pace, pages: int) -> None:
    found = forecast(size, pace, pages)
    assert found.total_ns == sum(getattr(found, field.name) for field in fields(Forecast)) > SCAN_SHARE * pace.scan_ns


@given(SIZES, PACES, PAGES, st.sampled_from(COUNTS), st.integers(1, 10**6))
def test_more_of_anything_never_takes_less(size: Size, pace: Pace, pages: int, what: str, more: int) -> None:
    larger = replace(size, **{what: getattr(size, what) + more})
    assert forecast(larger, pace, pages).total_ns >= forecast(size, pace, pages).total_ns
    assert forecast(size, pace, pages + more).total_ns >= forecast(size, pace, pages).total_ns


@given(SIZES, PACES, PAGES, st.integers(1, 10**11))
def test_a_clone_is_made_where_that_is_shorter(size: Size, pace: Pace, pages: int, clone_ns: int) -> None:
    copied, found = forecast(size, pace, pages), forecast(replace(size, clone_ns=clone_ns), pace, pages)
    assert found.total_ns <= copied.total_ns
    assert found.total_ns <= replace(copied, copy_ns=0, clone_ns=clone_ns + CLONE_GAIN_NS).total_ns + found.copy_ns
    if found.clone_ns:
        assert found.copy_ns == forecast(replace(size, pages_in_doubt=0, threads=0), pace, 0).copy_ns, (
            "objects are copied"
        )
    else:
        assert found == copied


@given(PACES, st.integers(0, 10**12))
def test_no_window_has_more_pages_than_a_longer_one(pace: Pace, window_ns: int) -> None:
    assert 0 <= pace.pages_within(window_ns) <= pace.pages_written
    assert pace.pages_within(window_ns) <= pace.pages_within(window_ns + MS)


@pytest.mark.parametrize(
    ("pace", "expected_ns"),
    [
        pytest.param(Pace(10_000, MS, MS, 5 * MS), 500, id="as measured"),
        pytest.param(Pace(FEW_PAGES - 1, MS, MS, 100 * MS), COPY_NS_PER_PAGE, id="too few pages to tell"),
        pytest.param(Pace(0, MS, MS, 0), COPY_NS_PER_PAGE, id="none"),
    ],
)
def test_the_speed_of_a_copy_is_the_measured_one_where_there_is_one(pace: Pace, expected_ns: float) -> None:
    assert pace.copy_ns_per_page == expected_ns


@given(SIZES, PACES, PAGES, st.integers(0, 10**7))
def test_what_finds_no_room_is_written_in_the_freeze(size: Size, pace: Pace, pages: int, room_pages: int) -> None:
    roomy, found = forecast(size, pace, pages), forecast(replace(size, room_pages=room_pages), pace, pages)
    without = pages + size.threads + size.pages_of_objects - room_pages
    if without <= 0:
        assert found == roomy
    elif pace.copy_ns_per_page < STREAM_NS_PER_PAGE:
        gap_ns = STREAM_NS_PER_PAGE - max(pace.copy_ns_per_page, OBJECT_NS_PER_PAGE)
        assert found.copy_ns - roomy.copy_ns >= without * gap_ns - 2
        assert replace(found, copy_ns=0) == replace(roomy, copy_ns=0)


@given(SIZES, PACES, PAGES)
def test_a_slow_machine_takes_longer_for_all_that_was_not_measured(size: Size, pace: Pace, pages: int) -> None:
    usual, slow = forecast(size, pace, pages), forecast(replace(size, slowness=2), pace, pages)
    for name in ("other_ns", "stop_ns", "maps_ns", "state_ns", "resume_ns"):
        assert getattr(slow, name) == 2 * getattr(usual, name)
    assert usual.copy_ns <= slow.copy_ns <= 2 * usual.copy_ns + 1


@given(SIZES, PACES, PAGES, st.integers(1, 10**6))
def test_what_is_staged_is_written_with_what_finds_no_room(size: Size, pace: Pace, pages: int, staged: int) -> None:
    total = pages + size.threads + size.pages_of_objects
    full, staging = replace(size, room_pages=total - 1), replace(size, room_pages=total - 1, staged_pages=staged)
    more_ns = forecast(staging, pace, pages).copy_ns - forecast(full, pace, pages).copy_ns
    assert abs(more_ns - staged * STREAM_NS_PER_PAGE) <= 1
    assert forecast(replace(staging, room_pages=total), pace, pages) == forecast(size, pace, pages)
